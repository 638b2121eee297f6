use serde_json::json;

use super::*;

fn store(dir: &Path) -> Store {
    Store::open(dir, &ResponsesSection::default(), 1_000).unwrap()
}

fn stored(id: &str, previous: Option<&str>, status: &str) -> Stored {
    Stored {
        id: id.to_owned(),
        org_id: "org_a".to_owned(),
        previous_id: previous.map(str::to_owned),
        response: json!({"id": id, "status": status, "error": null}),
        input: json!([{"type": "message"}]),
        events: vec!["event: a\ndata: 1\n\n".to_owned(), "event: b\ndata: 2\n\n".to_owned()],
        background: true,
        created_ms: 1_000,
    }
}

#[test]
fn what_is_put_is_got_by_its_organisation_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let one = stored("resp_1", None, "completed");
    store.put(&one, 1_000).unwrap();
    assert_eq!(store.get("org_a", "resp_1", 1_001).unwrap(), Some(one));
    assert_eq!(store.get("org_b", "resp_1", 1_001).unwrap(), None);
    assert_eq!(store.chain("org_b", "resp_1", 1_001).unwrap(), None);
    assert!(!store.delete("org_b", "resp_1", 1_001).unwrap());
    assert!(store.delete("org_a", "resp_1", 1_001).unwrap());
    assert!(!store.delete("org_a", "resp_1", 1_001).unwrap());
}

#[test]
fn time_is_over_to_the_millisecond_and_rows_go() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    store.put(&stored("resp_1", None, "completed"), 1_000).unwrap();
    let end = 1_000 + u64::from(ResponsesSection::default().ttl_days) * MS_PER_DAY;
    assert!(store.get("org_a", "resp_1", end - 1).unwrap().is_some());
    assert!(store.get("org_a", "resp_1", end).unwrap().is_none());
    let other = Stored { created_ms: end, ..stored("resp_2", None, "completed") };
    store.put(&other, end).unwrap();
    let rows: i64 =
        store.lock().db.query_row("SELECT count(*) FROM responses", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
}

#[test]
fn a_chain_is_whole_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let section = ResponsesSection { max_chain: 3, ..ResponsesSection::default() };
    let store = Store::open(dir.path(), &section, 0).unwrap();
    for (id, previous) in [("resp_1", None), ("resp_2", Some("resp_1")), ("resp_3", Some("resp_2"))] {
        store.put(&stored(id, previous, "completed"), 1_000).unwrap();
    }
    let ids = |id: &str| {
        let chain = store.chain("org_a", id, 1_001).unwrap();
        chain.map(|chain| chain.into_iter().map(|stored| stored.id).collect::<Vec<_>>())
    };
    assert_eq!(ids("resp_3").unwrap(), ["resp_1", "resp_2", "resp_3"]);
    assert_eq!(ids("resp_9"), None);
    store.put(&stored("resp_4", Some("resp_3"), "completed"), 1_000).unwrap();
    assert_eq!(ids("resp_4"), None, "longer than allowed");
    store.delete("org_a", "resp_2", 1_001).unwrap();
    assert_eq!(ids("resp_3"), None, "a link is gone");
}

#[test]
fn a_loop_of_links_ends() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    store.put(&stored("resp_1", Some("resp_2"), "completed"), 1_000).unwrap();
    store.put(&stored("resp_2", Some("resp_1"), "completed"), 1_000).unwrap();
    assert_eq!(store.chain("org_a", "resp_1", 1_001).unwrap(), None);
}

#[test]
fn unfinished_answers_of_the_last_process_have_failed() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(dir.path());
    for (id, status) in [("resp_1", "in_progress"), ("resp_2", "queued"), ("resp_3", "completed")] {
        first.put(&stored(id, None, status), 1_000).unwrap();
    }
    drop(first);
    let second = store(dir.path());
    let status = |id: &str| second.get("org_a", id, 1_001).unwrap().unwrap().response["status"].clone();
    assert_eq!([status("resp_1"), status("resp_2"), status("resp_3")], ["failed", "failed", "completed"]);
    assert_eq!(
        second.get("org_a", "resp_1", 1_001).unwrap().unwrap().response["error"]["code"],
        "server_error"
    );
}

#[test]
fn the_oldest_make_room_within_their_organisation() {
    let dir = tempfile::tempdir().unwrap();
    let section = ResponsesSection { org_mib: 1, ..ResponsesSection::default() };
    let store = Store::open(dir.path(), &section, 0).unwrap();
    let large = |org: &str, id: &str, at| Stored {
        org_id: org.to_owned(),
        input: json!("x".repeat(400 << 10)),
        created_ms: at,
        ..stored(id, None, "completed")
    };
    store.put(&large("org_b", "resp_0", 1), 1_000).unwrap();
    for (id, at) in [("resp_1", 1), ("resp_2", 2), ("resp_3", 3), ("resp_3", 3)] {
        store.put(&large("org_a", id, at), 1_000).unwrap();
    }
    let kept = |org: &str, id: &str| store.get(org, id, 1_001).unwrap().is_some();
    assert!(
        !kept("org_a", "resp_1")
            && kept("org_a", "resp_2")
            && kept("org_a", "resp_3")
            && kept("org_b", "resp_0")
    );
    let huge = Stored { input: json!("x".repeat(2 << 20)), ..stored("resp_4", None, "completed") };
    assert!(matches!(store.put(&huge, 1_000), Err(StoreError::TooLarge { .. })));
}
