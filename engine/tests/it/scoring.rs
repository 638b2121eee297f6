//! Log probabilities of prompts.

use engine::testing::FakeModel;
use engine::{EngineConfig, FinishReason, Request, SamplingParams, Stop, SubmitError};

use crate::support::{bytes, greedy, run, run_all, small};

/// Scores `prompt`, then generates `max_tokens`.
fn scored(prompt: &[u32], max_tokens: u32) -> Request {
    let sampling = SamplingParams { prompt_logprobs: Some(2), logprobs: Some(2), ..SamplingParams::greedy() };
    Request { sampling, ..greedy(prompt, max_tokens) }
}

#[tokio::test]
async fn a_prompt_scores_what_its_generation_reported() {
    let engine = FakeModel::default().start(small());
    let prompt = bytes("how likely is it?");
    let logprobs =
        SamplingParams { logprobs: Some(2), temperature: 0.7, seed: 5, ..SamplingParams::default() };
    let said = run(&engine, Request { sampling: logprobs, ..greedy(&prompt, 50) }).await;
    let whole: Vec<u32> = prompt.iter().chain(&said.tokens).copied().collect();
    let score = run(&engine, scored(&whole, 0)).await;
    assert_eq!(score.prompt.len(), whole.len() - 1);
    assert_eq!(score.prompt[prompt.len() - 1..], said.logprobs);
    let tokens: Vec<u32> = score.prompt.iter().map(|entry| entry.token).collect();
    assert_eq!(tokens, whole[1..]);
    assert_eq!((score.tokens.len(), score.text.as_str(), score.finish.reason), (0, "", FinishReason::Length));
    // Nothing of it came from the cache, which another request may use again.
    assert_eq!(score.finish.usage.cached_tokens, 0);
    assert!(run(&engine, greedy(&whole, 1)).await.finish.usage.cached_tokens > 0);
}

#[tokio::test]
async fn scores_and_text_in_one_request() {
    let fake = FakeModel::default();
    let engine = fake.clone().start(small());
    let prompt = bytes("both at once, in several chunks of sixteen tokens");
    let said = run(&engine, scored(&prompt, 20)).await;
    assert_eq!(said.tokens, fake.expected(&prompt, 20));
    assert_eq!((said.prompt.len(), said.logprobs.len()), (prompt.len() - 1, 20));
    let one = run(&engine, scored(&prompt[..1], 3)).await;
    assert_eq!((one.prompt.len(), one.tokens.len()), (0, 3));
}

#[tokio::test]
async fn many_at_once_and_preempted_ones_score_every_token_once() {
    // Room for a few sequences only, so that they take turns.
    let engine = FakeModel::default().start(EngineConfig { num_blocks: 40, ..small() });
    let prompts: Vec<_> = (0..12).map(|i| bytes(&"prompt ".repeat(3 + i % 4))).collect();
    let requests =
        prompts.iter().enumerate().map(|(i, prompt)| scored(prompt, (i % 3) as u32 * 40)).collect();
    let alone = FakeModel::default().start(small());
    for (said, prompt) in run_all(&engine, requests).await.into_iter().zip(&prompts) {
        assert_eq!(said.prompt, run(&alone, scored(prompt, 0)).await.prompt);
    }
    let stats = engine.stats();
    assert_eq!(stats.free_blocks + stats.cached_blocks, stats.total_blocks);
}

#[tokio::test]
async fn a_prompt_that_cannot_be_scored_fails_alone() {
    let engine = FakeModel { nan_after: Some(u32::from(b'!')), ..FakeModel::default() }.start(small());
    let requests =
        vec![scored(&bytes("not! this"), 0), scored(&bytes("not this!"), 0), scored(&bytes("but this"), 4)];
    let said = run_all(&engine, requests).await;
    assert!(said[..2].iter().all(|said| matches!(said.finish.reason, FinishReason::Error(_))));
    assert_eq!((said[2].prompt.len(), said[2].tokens.len()), (7, 4));
}

#[tokio::test]
async fn bounds() {
    let engine = FakeModel { context_len: 32, ..FakeModel::default() }.start(small());
    let none = Request { stop: Stop::default(), ..greedy(&bytes("x"), 1) };
    assert!(matches!(engine.submit(none), Err(SubmitError::NoTokens)));
    let many = SamplingParams { prompt_logprobs: Some(21), ..SamplingParams::greedy() };
    let many = Request { sampling: many, ..greedy(&bytes("x"), 1) };
    assert!(matches!(engine.submit(many), Err(SubmitError::Sampling { name: "prompt_logprobs", .. })));
    assert_eq!(run(&engine, scored(&bytes(&"x".repeat(31)), 0)).await.prompt.len(), 30);
}
