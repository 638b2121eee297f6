//! What `submit` refuses, and how an engine ends.

use std::time::Duration;

use engine::testing::{FakeModel, fake_engine};
use engine::{EngineConfig, FinishReason, Request, SamplingParams, Stop, SubmitError};

use crate::support::{bytes, greedy, listen, run, small, until};

#[tokio::test]
async fn refusals() {
    let fake = FakeModel { context_len: 64, ..FakeModel::default() };
    let engine = fake.start(EngineConfig { num_blocks: 8, ..small() });
    let base = greedy(&bytes("hello"), 4);
    let sampling = |sampling: SamplingParams| Request { sampling, ..base.clone() };
    let stop = |stop: Stop| Request { stop, ..base.clone() };
    let greedy_params = SamplingParams::greedy();
    let cases = [
        (greedy(&[], 4), "prompt is empty"),
        (greedy(&[1; 64], 4), "prompt has 64 tokens, model takes less than 64"),
        (greedy(&[1; 30], 4), "prompt and answer need 9 cache blocks, engine has 8"),
        (greedy(&[1, 259], 4), "token 259 is unknown, model has 259 tokens"),
        (greedy(&[1], 0), "max_tokens is 0, must be at least 1"),
        (
            sampling(SamplingParams { temperature: f32::NAN, ..greedy_params.clone() }),
            "temperature is NaN, must be 0 or more",
        ),
        (
            sampling(SamplingParams { top_p: 0.0, ..greedy_params.clone() }),
            "top_p is 0, must be above 0, up to 1",
        ),
        (
            sampling(SamplingParams { top_k: Some(0), ..greedy_params.clone() }),
            "top_k is 0, must be 1 or more",
        ),
        (
            sampling(SamplingParams { logprobs: Some(21), ..greedy_params.clone() }),
            "logprobs is 21, must be up to 20",
        ),
        (
            sampling(SamplingParams { logit_bias: vec![(300, 1.0)], ..greedy_params.clone() }),
            "token 300 is unknown, model has 259 tokens",
        ),
        (
            stop(Stop { max_tokens: 1, strings: vec![String::new()], ..Stop::default() }),
            "stop string has 0 bytes, must be 1 to 1024",
        ),
    ];
    for (request, message) in cases {
        assert_eq!(engine.submit(request).expect_err(message).to_string(), message);
    }
    assert_eq!(run(&engine, base).await.tokens.len(), 4, "it still serves");
}

#[tokio::test]
async fn a_full_queue_refuses_until_one_ends() {
    let engine = fake_engine(EngineConfig { max_num_seqs: 1, max_waiting: 1, ..small() });
    let first = engine.submit(greedy(&bytes("a"), 50)).expect("runs");
    let second = engine.submit(greedy(&bytes("b"), 50)).expect("waits");
    let third = engine.submit(greedy(&bytes("c"), 50));
    assert_eq!(third.expect_err("is full"), SubmitError::Full { waiting: 2, limit: 2 });
    drop(second);
    until(&engine, |stats| stats.running + stats.waiting == 1).await;
    let third = engine.submit(greedy(&bytes("c"), 50)).expect("the place is free again");
    assert_eq!(listen(first).await.tokens.len(), 50);
    assert_eq!(listen(third).await.tokens.len(), 50);
}

#[tokio::test]
async fn draining_finishes_what_runs() {
    let engine = fake_engine(small());
    let stream = engine.submit(greedy(&bytes("a"), 50)).expect("is accepted");
    engine.drain();
    assert_eq!(engine.submit(greedy(&bytes("b"), 1)).expect_err("drains"), SubmitError::Draining);
    let reader = tokio::spawn(listen(stream));
    let stopper = engine.clone();
    let complete = tokio::task::spawn_blocking(move || stopper.shutdown(Duration::from_secs(60)));
    assert_eq!(reader.await.expect("reads").finish.reason, FinishReason::Length);
    assert!(complete.await.expect("stops"));
    assert!(!engine.healthy());
}

#[tokio::test]
async fn shutdown_cuts_off_what_does_not_end() {
    let engine = fake_engine(small());
    // Nobody reads, so it can never finish.
    let stream = engine.submit(greedy(&bytes("a"), 50)).expect("is accepted");
    let stopper = engine.clone();
    let complete = tokio::task::spawn_blocking(move || stopper.shutdown(Duration::ZERO)).await;
    assert!(!complete.expect("stops"));
    let said = listen_to_end(stream).await;
    assert_eq!(said, FinishReason::Cancelled);
}

#[tokio::test]
async fn the_last_handle_stops_the_engine() {
    let engine = fake_engine(small());
    let stream = engine.submit(greedy(&bytes("a"), 50)).expect("is accepted");
    drop(engine);
    assert_eq!(listen_to_end(stream).await, FinishReason::Cancelled);
}

/// The end of a stream that may not have started.
async fn listen_to_end(mut stream: engine::TokenStream) -> FinishReason {
    loop {
        match stream.next().await {
            Some(engine::Event::Finished(finish)) => return finish.reason,
            Some(_) => {}
            None => panic!("a stream ends with Finished"),
        }
    }
}
