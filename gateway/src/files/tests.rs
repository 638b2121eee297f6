use std::io::Read as _;

use super::*;

fn open(dir: &Path, section: &FilesSection) -> Files {
    Files::open(dir, section, 0).unwrap()
}

fn row(id: &str, org: &str, purpose: Purpose) -> FileRow {
    FileRow {
        id: id.to_owned(),
        org_id: org.to_owned(),
        project_id: format!("{org}-p"),
        purpose,
        name: "n".to_owned(),
        bytes: 0,
        created_ms: 5,
        expires_ms: None,
    }
}

fn put(files: &Files, row: FileRow, content: &[u8]) -> Result<FileRow, FileError> {
    let mut draft = files.draft(&row.id)?;
    draft.write(content)?;
    files.keep(draft, row)
}

fn listing() -> Listing {
    Listing { purpose: None, after: None, ascending: false, limit: 10 }
}

fn ids(files: &Files, listing: &Listing) -> (Vec<String>, bool) {
    let (rows, more) = files.list("a-p", listing, 10).unwrap().unwrap();
    (rows.into_iter().map(|row| row.id).collect(), more)
}

#[test]
fn what_is_kept_is_read_and_listed_by_its_project_alone() {
    let dir = tempfile::tempdir().unwrap();
    let files = open(dir.path(), &FilesSection::default());
    for (id, purpose) in [("f1", Purpose::Batch), ("f2", Purpose::UserData), ("f3", Purpose::Batch)] {
        assert_eq!(put(&files, row(id, "a", purpose), b"abc").unwrap().bytes, 3);
    }
    put(&files, row("g", "b", Purpose::Batch), b"").unwrap();
    assert_eq!(files.get("a-p", "g", 10).unwrap(), None);
    let mut text = String::new();
    files.content("f1").unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "abc");
    assert_eq!(ids(&files, &listing()), (vec!["f3".into(), "f2".into(), "f1".into()], false));
    let page = Listing { limit: 1, ascending: true, after: Some("f1".into()), ..listing() };
    assert_eq!(ids(&files, &page), (vec!["f2".into()], true));
    let page = Listing { purpose: Some(Purpose::Batch), ..listing() };
    assert_eq!(ids(&files, &page).0, ["f3", "f1"]);
    assert_eq!(files.list("a-p", &Listing { after: Some("g".into()), ..listing() }, 10).unwrap(), None);
    assert!(!files.delete("b-p", "f1", 10).unwrap());
    assert!(files.delete("a-p", "f1", 10).unwrap());
    assert!(!files.path("f1").exists());
}

#[test]
fn limits_count_what_is_there_and_the_servers_own_files_are_never_refused() {
    let dir = tempfile::tempdir().unwrap();
    let section = FilesSection { org_mib: 1, org_files: 2, total_mib: 1, ..FilesSection::default() };
    let files = open(dir.path(), &section);
    let half = vec![0; 600 << 10];
    put(&files, row("f1", "a", Purpose::Batch), &half).unwrap();
    let error = put(&files, row("f2", "a", Purpose::Batch), &half).unwrap_err();
    assert!(matches!(error, FileError::Full { unit: "bytes", .. }), "{error}");
    assert!(!files.path("f2.part").exists() && !files.path("f2").exists());
    assert!(files.check_room("b", 600 << 10).unwrap_err().to_string().contains("this server's"));
    put(&files, row("f3", "a", Purpose::BatchOutput), &half).unwrap();
    let error = put(&files, row("f4", "a", Purpose::UserData), b"").unwrap_err();
    assert!(matches!(error, FileError::Full { unit: "files", wanted: 3, .. }), "{error}");
    // The same id again takes the place of the first.
    put(&files, row("f3", "a", Purpose::BatchOutput), b"").unwrap();
    assert!(files.delete("a-p", "f1", 10).unwrap());
    put(&files, row("f5", "a", Purpose::Batch), &half).unwrap();
}

#[test]
fn expired_files_are_gone_at_once_and_strays_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let files = open(dir.path(), &FilesSection::default());
    put(&files, FileRow { expires_ms: Some(20), ..row("f1", "a", Purpose::Batch) }, b"x").unwrap();
    put(&files, row("f2", "a", Purpose::Batch), b"x").unwrap();
    assert!(files.get("a-p", "f1", 19).unwrap().is_some());
    assert_eq!(files.get("a-p", "f1", 20).unwrap(), None);
    assert!(!files.delete("a-p", "f1", 20).unwrap());
    drop(files.draft("f9").unwrap());
    std::fs::write(files.path("stray.part"), b"x").unwrap();
    drop(files);
    let files = Files::open(dir.path(), &FilesSection::default(), 20).unwrap();
    let mut left: Vec<_> = std::fs::read_dir(dir.path().join("files")).unwrap().collect();
    assert_eq!(left.remove(0).unwrap().file_name(), "f2");
    assert!(left.is_empty());
    assert_eq!(files.get("a-p", "f1", 0).unwrap(), None);
}
