use std::collections::BTreeMap;

use super::*;
use crate::config::BatchWindow;
use crate::money::{Picos, Tokens};
use crate::serving::Receipt;

fn batch(id: &str, org: &str) -> Batch {
    Batch {
        id: id.to_owned(),
        org_id: org.to_owned(),
        project_id: format!("{org}-p"),
        key_id: "key".to_owned(),
        endpoint: Endpoint::Chat,
        window: BatchWindow::Day,
        input_file_id: "file-1".to_owned(),
        output_file_id: None,
        error_file_id: None,
        model: None,
        status: Status::Validating,
        created_ms: 5,
        expires_ms: 6,
        reached: BTreeMap::new(),
        output_ttl_s: None,
        metadata: None,
        errors: Vec::new(),
        counts: Counts::default(),
    }
}

fn begun(dir: &Path, section: &BatchesSection) -> Batches {
    let batches = Batches::open(dir, section, 0).unwrap();
    let input = dir.join("input");
    fs::write(&input, "x").unwrap();
    batches.create(&batch("b1", "a"), &input).unwrap();
    fs::remove_file(&input).unwrap();
    let line = |n: u32| NewLine { n, custom_id: format!("c{n}"), place: (u64::from(n), 1), tokens: 10 };
    assert_eq!(batches.add_lines("b1", &[line(0), line(1), line(2)]).unwrap(), None);
    batches
}

fn answer(request_id: &str, is_ok: bool) -> Answer {
    let tokens = Tokens { uncached_input: 1, cached_input: 2, output: 3 };
    let receipt = Receipt { tokens, cost: Picos(7) };
    Answer { request_id: request_id.to_owned(), is_ok, receipt, text: request_id.to_owned() }
}

#[test]
fn a_line_has_one_answer_and_the_batch_adds_them_up() {
    let dir = tempfile::tempdir().unwrap();
    let batches = begun(dir.path(), &BatchesSection::default());
    assert!(batches.input("b1").is_ok(), "the input outlives its file");
    let twice = NewLine { n: 3, custom_id: "c1".into(), place: (0, 1), tokens: 1 };
    assert_eq!(batches.add_lines("b1", &[twice]).unwrap(), Some(3));
    assert_eq!(batches.waiting_tokens("a").unwrap(), 30);
    batches.keep_answer("b1", 1, &answer("r1", true)).unwrap();
    batches.keep_answer("b1", 0, &answer("r0", false)).unwrap();
    let again = batches.keep_answer("b1", 1, &answer("r2", true));
    assert!(matches!(again, Err(BatchError::Answered { n: 1, .. })));
    drop(batches);
    let batches = Batches::open(dir.path(), &BatchesSection::default(), 0).unwrap();
    let counts = batches.load("b1").unwrap().unwrap().counts;
    assert_eq!((counts.completed, counts.failed, counts.output, counts.cost_picos), (1, 1, 6, 14));
    assert_eq!(batches.waiting_tokens("a").unwrap(), 10);
    let waiting: Vec<u32> = batches.waiting("b1", 0, 9).unwrap().iter().map(|line| line.n).collect();
    assert_eq!(waiting, [2]);
    assert_eq!(batches.finished("r1").unwrap(), Some(answer("", true).receipt.tokens));
    assert_eq!(batches.finished("r0").unwrap(), None, "an error is not billed");
    assert_eq!(batches.finished("r2").unwrap(), None);
    let answers = batches.answers("b1", 1, 9).unwrap();
    assert_eq!(answers[0], (1, "c1".to_owned(), Some((true, "r1".to_owned()))));
    assert_eq!(answers[1], (2, "c2".to_owned(), None));
}

#[test]
fn a_batch_moves_along_its_states_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let section = BatchesSection { org_unfinished: 1, keep_days: 1, ..BatchesSection::default() };
    let batches = begun(dir.path(), &section);
    let input = dir.path().join("second");
    fs::write(&input, "x").unwrap();
    let full = batches.create(&batch("b2", "a"), &input);
    assert!(matches!(full, Err(BatchError::Full { unfinished: 1, limit: 1, .. })));
    assert_eq!(fs::read_dir(dir.path().join("batches")).unwrap().count(), 1);
    let moved = batches.advance("b1", &[Status::InProgress], Status::Finalizing, 7, |_| ());
    assert!(matches!(moved, Err(BatchError::Moved(_))));
    let begun = batches.advance("b1", &[Status::Validating], Status::InProgress, 7, |b| b.counts.total = 3);
    assert_eq!(begun.unwrap().reached[&Status::InProgress], 7);
    assert_eq!(batches.unfinished().unwrap(), ["b1"]);
    batches.advance("b1", &[Status::InProgress], Status::Expired, 8, |b| b.counts.failed = 3).unwrap();
    assert_eq!(batches.unfinished().unwrap(), [""; 0]);
    assert_eq!(batches.waiting_tokens("a").unwrap(), 0);
    assert!(batches.answers("b1", 0, 9).unwrap().is_empty());
    assert_eq!(fs::read_dir(dir.path().join("batches")).unwrap().count(), 0);
    batches.create(&batch("b2", "a"), &input).unwrap();
    let (page, more) = batches.list("a-p", None, 1).unwrap().unwrap();
    assert_eq!((page[0].id.as_str(), more), ("b2", true));
    let (page, more) = batches.list("a-p", Some("b2"), 1).unwrap().unwrap();
    assert_eq!((page[0].counts.failed, page[0].counts.total, more), (3, 3, false));
    assert_eq!(batches.list("b-p", Some("b2"), 1).unwrap(), None);
    assert_eq!(batches.get("b-p", "b2").unwrap(), None);
    batches.sweep(MS_PER_DAY + 6).unwrap();
    assert_eq!(batches.load("b1").unwrap(), None);
    assert!(batches.load("b2").unwrap().is_some(), "it is not finished");
}
