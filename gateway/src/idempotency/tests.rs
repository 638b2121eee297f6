use bytes::Bytes;

use super::*;
use crate::config::IdempotencySection;

const PRINT: Fingerprint = [1; 32];

fn open(dir: &std::path::Path, section: &IdempotencySection, billed: &[&str]) -> Idempotency {
    Idempotency::open(dir, section, |id| Ok(billed.contains(&id))).unwrap()
}

fn id(project: &str, key: &str) -> Id {
    Id { project_id: project.to_owned(), key: key.to_owned() }
}

fn new(store: &Idempotency, key: &str, request: &str, now_ms: u64) -> Run {
    match store.begin(&id("p", key), PRINT, request, now_ms).unwrap() {
        Begun::New(run) => run,
        _ => panic!("{key} is taken"),
    }
}

fn kind(begun: Begun) -> &'static str {
    match begun {
        Begun::New(_) => "new",
        Begun::Live(_) => "live",
        Begun::Done(_) => "done",
        Begun::Gone => "gone",
        Begun::Mismatch => "mismatch",
    }
}

#[tokio::test]
async fn the_second_looks_on_and_the_third_gets_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &IdempotencySection::default(), &[]);
    let run = new(&store, "k", "req_1", 5);
    let begin = |print| store.begin(&id("p", "k"), print, "req_2", 6).unwrap();
    assert_eq!(kind(begin([2; 32])), "mismatch");
    let Begun::Live(mut watcher) = begin(PRINT) else { panic!("not live") };
    assert_eq!(watcher.request_id(), "req_1");
    run.head(axum::http::Response::new(()).into_parts().0);
    run.tell(Bytes::from_static(b"a"));
    run.tell(Bytes::from_static(b"b"));
    assert_eq!(watcher.head().await.unwrap().status, 200);
    assert_eq!(watcher.piece(1).await.unwrap().unwrap(), "b");
    let headers = [("content-type".to_owned(), "text/plain".to_owned())];
    store.keep(&run, 200, &headers, Some(&run.body())).unwrap();
    run.complete();
    assert_eq!(watcher.piece(2).await, Ok(None));
    let Begun::Done(answer) = begin(PRINT) else { panic!("not done") };
    assert_eq!((answer.request_id.as_str(), answer.status, &answer.body[..]), ("req_1", 200, &b"ab"[..]));
    assert_eq!(answer.headers, headers);
    assert_eq!(kind(begin([2; 32])), "mismatch");
    store.idle().await;
}

#[tokio::test]
async fn a_refusal_frees_the_key_and_a_break_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &IdempotencySection::default(), &[]);
    let run = new(&store, "k", "req_1", 5);
    store.forget(&run).unwrap();
    run.complete();
    let run = new(&store, "k", "req_2", 6);
    let mut watcher = run.watch();
    drop(run);
    assert!(watcher.head().await.is_none() && watcher.piece(0).await.is_err());
    assert_eq!(kind(store.begin(&id("p", "k"), PRINT, "req_3", 7).unwrap()), "gone");
}

#[test]
fn after_a_restart_only_what_was_billed_stays_taken() {
    let dir = tempfile::tempdir().unwrap();
    let section = IdempotencySection::default();
    let store = open(dir.path(), &section, &[]);
    let kept = new(&store, "kept", "req_0", 5);
    store.keep(&kept, 200, &[], Some(b"x")).unwrap();
    let runs = [new(&store, "billed", "req_1", 5), new(&store, "free", "req_2", 5)];
    drop((store, runs));
    let store = open(dir.path(), &section, &["req_1"]);
    let begin = |key| kind(store.begin(&id("p", key), PRINT, "req_9", 6).unwrap());
    assert_eq!((begin("kept"), begin("billed"), begin("free")), ("done", "gone", "new"));
    assert_eq!(
        kind(store.begin(&id("q", "kept"), PRINT, "req_8", 6).unwrap()),
        "new",
        "another project's key"
    );
}

#[test]
fn room_and_time_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let section =
        IdempotencySection { project_mib: 1, project_keys: 3, ttl_hours: 1, ..IdempotencySection::default() };
    let store = open(dir.path(), &section, &[]);
    for at in 1..=4_u64 {
        let run = new(&store, &format!("k{at}"), &format!("req_{at}"), at);
        store.keep(&run, 200, &[], Some(&vec![0; 400 << 10])).unwrap();
    }
    let begin = |key: &str, now| kind(store.begin(&id("p", key), PRINT, "req_9", now).unwrap());
    assert_eq!((begin("k2", 9), begin("k3", 9), begin("k4", 9)), ("gone", "done", "done"));
    assert_eq!(begin("k4", 4 + 3_600_000), "new", "its time is over");
}
