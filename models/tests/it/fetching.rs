//! Fetching without a network: what is there, what is wrong, what fails.

use std::fs;

use models::fetch::{FetchError, import, pull};
use models::{Card, Source};

use crate::sample::Sample;

/// SHA-256 of `b"hello"`.
const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn hello_card(sources: Vec<Source>) -> Card {
    let mut card = models::card("smollm2-135m-instruct").unwrap();
    (card.file, card.bytes, card.sha256, card.sources) = ("hello.gguf".into(), 5, HELLO.into(), sources);
    card
}

fn hostile_package() -> Source {
    // pip refuses this name before it asks anybody.
    Source::PythonPackage { package: "no such package".into(), version: "0".into(), member: "x".into() }
}

#[test]
fn a_right_file_is_taken_and_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let card = hello_card(Vec::new());
    assert!(matches!(pull(&card, dir.path(), &mut |_| {}), Err(FetchError::NoSource(_))));
    let path = dir.path().join("hello.gguf");
    fs::write(&path, "hello").unwrap();
    assert_eq!(pull(&card, dir.path(), &mut |_| {}).unwrap(), path);
    let stamp = fs::read_to_string(dir.path().join("hello.gguf.sha256")).unwrap();
    assert!(stamp.starts_with(HELLO));
    assert_eq!(pull(&card, dir.path(), &mut |_| {}).unwrap(), path);
    // Another length, or other bytes at another time, and the stamp is worth nothing.
    fs::write(&path, "hello!").unwrap();
    assert!(pull(&card, dir.path(), &mut |_| {}).is_err());
    fs::write(&path, "hallo").unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    assert!(pull(&card, dir.path(), &mut |_| {}).is_err());
}

#[test]
fn every_failed_source_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("hello.gguf"), "hallo").unwrap();
    let error =
        pull(&hello_card(vec![hostile_package(), hostile_package()]), dir.path(), &mut |_| {}).unwrap_err();
    let FetchError::AllFailed { attempts, .. } = &error else { panic!("{error}") };
    assert_eq!(attempts.len(), 2);
    assert!(error.to_string().contains("Python package no such package==0: "), "{error}");
    // The wrong file is left as it was, and nothing else is left behind.
    let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".hello.gguf.lock", "hello.gguf"]);
}

#[test]
fn local_files_are_checked_before_they_are_copied() {
    let dir = tempfile::tempdir().unwrap();
    let (from, store) = (dir.path().join("Tiny Model.gguf"), dir.path().join("store"));
    fs::write(&from, "no model").unwrap();
    assert!(matches!(import(&from, &store), Err(FetchError::NotAModel { .. })));
    assert!(!store.exists());
    fs::write(&from, Sample::model().bytes()).unwrap();
    let path = import(&from, &store).unwrap();
    assert_eq!(path, store.join("Tiny Model.gguf"));
    assert_eq!(import(&path, &store).unwrap(), path);
    let card = Card::from_file(&path).unwrap();
    assert_eq!((card.id.as_str(), card.sha256.as_str()), ("tiny-model", ""));
    models::load(&path, card, &|_| {}).unwrap_or_else(|e| panic!("{e}"));
}
