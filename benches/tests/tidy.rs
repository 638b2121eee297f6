//! The house rules that no compiler checks: one-way arrows, fenced `unsafe`, short files.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of production code a file may have before it must be split.
const MAX_FILE_LINES: usize = 400;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("folder exists") {
        let path = entry.expect("readable entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn crate_sources(name: &str) -> Vec<(PathBuf, String)> {
    let mut paths = Vec::new();
    sources(&root().join(name).join("src"), &mut paths);
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).expect("utf-8 source"))).collect()
}

/// Source without comments and without inline test modules.
fn production(text: &str) -> String {
    let body = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    body.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn workspace_dependencies(name: &str) -> Vec<String> {
    let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).expect("manifest");
    let normal = manifest.split("[dependencies]").nth(1).unwrap_or_default();
    let normal = normal.split("\n[").next().unwrap_or_default();
    let names = normal.lines().filter_map(|line| line.split('.').next()).map(str::trim).map(String::from);
    names
        .filter(|name| ["gateway", "engine", "models", "kernels", "benches"].contains(&name.as_str()))
        .collect()
}

#[test]
fn arrows_between_crates_go_one_way() {
    assert!(workspace_dependencies("kernels").is_empty());
    assert_eq!(workspace_dependencies("models"), ["kernels"]);
    assert!(workspace_dependencies("engine").iter().all(|name| name == "models" || name == "kernels"));
    assert!(workspace_dependencies("gateway").iter().all(|name| name == "engine" || name == "models"));
}

#[test]
fn each_room_does_not_know_what_it_must_not() {
    let forbidden = [
        ("gateway", &["candle_core", "cudarc", "kernels::"][..]),
        ("engine", &["axum", "redis", "rusqlite", "hyper"][..]),
        ("models", &["engine::", "axum", "rusqlite"][..]),
        ("kernels", &["models::", "engine::", "axum"][..]),
    ];
    for (name, words) in forbidden {
        for (path, text) in crate_sources(name) {
            let text = production(&text);
            for word in words {
                assert!(!text.contains(word), "{} names {word}", path.display());
            }
        }
    }
}

#[test]
fn unsafe_stands_in_kernels_alone() {
    for name in ["gateway", "engine", "models"] {
        let lib = fs::read_to_string(root().join(name).join("src/lib.rs")).expect("lib.rs");
        assert!(lib.contains("#![forbid(unsafe_code)]"), "{name} does not forbid unsafe code");
    }
}

#[test]
fn files_stay_short() {
    for name in ["gateway", "engine", "models", "kernels", "benches"] {
        for (path, text) in crate_sources(name) {
            let lines = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().lines().count();
            assert!(lines <= MAX_FILE_LINES, "{} has {lines} lines, limit {MAX_FILE_LINES}", path.display());
        }
    }
}
