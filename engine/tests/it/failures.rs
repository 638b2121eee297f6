//! A failing model ends sequences, never the process.

use engine::testing::FakeModel;
use engine::{FinishReason, SubmitError};

use crate::support::{bytes, greedy, run, run_all, small};

#[tokio::test]
async fn nan_ends_its_own_sequence_only() {
    let fake = FakeModel { nan_after: Some(u32::from(b'!')), ..FakeModel::default() };
    let engine = fake.clone().start(small());
    let said = run_all(&engine, vec![greedy(&bytes("bad!"), 9), greedy(&bytes("good"), 9)]).await;
    assert_eq!(
        said[0].finish.reason,
        FinishReason::Error("model gave a logit that is not a number".to_owned())
    );
    assert_eq!(said[0].finish.usage.completion_tokens, 0);
    assert_eq!(said[1].tokens, fake.expected(&bytes("good"), 9));
    assert!(engine.healthy());
}

#[tokio::test]
async fn a_failed_step_ends_its_sequences_and_the_engine_goes_on() {
    let fake = FakeModel { fail_on: Some(u32::from(b'!')), ..FakeModel::default() };
    let engine = fake.clone().start(small());
    let said = run(&engine, greedy(&bytes("bad!"), 9)).await;
    assert!(matches!(&said.finish.reason, FinishReason::Error(text) if text.contains("told to fail")));
    assert_eq!(run(&engine, greedy(&bytes("good"), 9)).await.tokens, fake.expected(&bytes("good"), 9));
    assert_eq!(engine.stats().running, 0);
    assert!(engine.healthy());
}

#[tokio::test]
async fn a_panic_ends_all_sequences_and_is_reported() {
    let engine = FakeModel { panic_on: Some(u32::from(b'!')), ..FakeModel::default() }.start(small());
    let other = engine.submit(greedy(&bytes("good"), 1000)).expect("is accepted");
    let said = run(&engine, greedy(&bytes("bad!"), 9)).await;
    let failed = FinishReason::Error("engine failed".to_owned());
    assert_eq!(said.finish.reason, failed);
    assert_eq!(crate::support::listen(other).await.finish.reason, failed);
    assert!(!engine.healthy());
    assert_eq!(engine.submit(greedy(&bytes("late"), 1)).expect_err("is broken"), SubmitError::Unhealthy);
}
