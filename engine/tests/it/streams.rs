//! Whole streams through a fake model.

use engine::testing::{END_OF_TEXT, FakeModel, fake_engine};
use engine::{EngineConfig, Event, FinishReason, Request, SamplingParams, Stop};

use crate::support::{bytes, greedy, listen, run, run_all, small, until};

fn prompts() -> Vec<Vec<u32>> {
    (0..16)
        .map(|i| {
            bytes(&"shared beginning, ".repeat(i % 4)).into_iter().chain(bytes(&format!("{i}"))).collect()
        })
        .collect()
}

#[tokio::test]
async fn sixteen_streams_at_once_say_what_each_says_alone() {
    let fake = FakeModel::default();
    let engine = fake.clone().start(small());
    let said = run_all(&engine, prompts().iter().map(|prompt| greedy(prompt, 60)).collect()).await;
    for (said, prompt) in said.iter().zip(prompts()) {
        assert_eq!(said.tokens, fake.expected(&prompt, 60));
        assert_eq!(said.finish.reason, FinishReason::Length);
        assert_eq!(said.text.len(), 60);
    }
    let stats = engine.stats();
    assert_eq!(stats.generated_tokens, 16 * 60);
    assert_eq!(stats.free_blocks + stats.cached_blocks, stats.total_blocks);
}

#[tokio::test]
async fn a_prefix_is_shared_within_a_salt_only() {
    let fake = FakeModel::default();
    let prompt = bytes("a system prompt of forty-one characters...");
    for prefix_cache in [true, false] {
        let engine = fake.clone().start(EngineConfig { prefix_cache, ..small() });
        let cached = |salt: &str| {
            let (engine, request) =
                (engine.clone(), Request { salt: salt.to_owned(), ..greedy(&prompt, 20) });
            let expected = fake.expected(&prompt, 20);
            async move {
                let said = run(&engine, request).await;
                assert_eq!(said.tokens, expected);
                said.finish.usage.cached_tokens
            }
        };
        let seen = [cached("a").await, cached("a").await, cached("b").await];
        assert_eq!(seen, if prefix_cache { [0, 40, 0] } else { [0, 0, 0] });
    }
}

#[tokio::test]
async fn preemption_does_not_change_the_tokens() {
    let fake = FakeModel::default();
    for prefix_cache in [true, false] {
        let engine = fake.clone().start(EngineConfig { num_blocks: 30, prefix_cache, ..small() });
        let said = run_all(&engine, (0..6).map(|i| greedy(&bytes(&format!("{i}")), 100)).collect()).await;
        for (i, said) in said.iter().enumerate() {
            assert_eq!(said.tokens, fake.expected(&bytes(&format!("{i}")), 100));
        }
        assert!(engine.stats().preemptions > 0);
    }
}

#[tokio::test]
async fn a_seed_gives_the_same_output_in_any_company() {
    let sampled = |seed| Request {
        sampling: SamplingParams {
            temperature: 1.5,
            top_p: 0.95,
            seed,
            logprobs: Some(3),
            ..SamplingParams::default()
        },
        ..greedy(&bytes("once upon"), 60)
    };
    let quiet = fake_engine(small());
    let alone = run(&quiet, sampled(3)).await;
    assert_eq!(run(&quiet, sampled(3)).await.tokens, alone.tokens, "from the prefix cache");
    assert_ne!(run(&quiet, sampled(4)).await.tokens, alone.tokens);
    let crowded = fake_engine(EngineConfig { num_blocks: 40, prefix_cache: false, ..small() });
    let others = prompts().into_iter().map(|prompt| greedy(&prompt[..prompt.len().min(20)], 80));
    let said = run_all(&crowded, others.chain([sampled(3)]).collect()).await;
    assert_eq!(said.last().map(|said| &said.tokens), Some(&alone.tokens));
    assert!(crowded.stats().preemptions > 0);
    assert_eq!(alone.logprobs.len(), alone.tokens.len());
    assert!(
        alone
            .logprobs
            .iter()
            .zip(&alone.tokens)
            .all(|(l, t)| l.token == *t && l.top.len() == 3 && l.logprob <= 0.0)
    );
}

#[tokio::test]
async fn a_slow_reader_waits_alone_and_loses_nothing() {
    let fake = FakeModel::default();
    let engine = fake.clone().start(EngineConfig { max_num_seqs: 1, ..small() });
    let slow = engine.submit(greedy(&bytes("slow"), 200)).expect("is accepted");
    // Although there is one slot only, the other goes through: the slow one gives way.
    assert_eq!(run(&engine, greedy(&bytes("fast"), 100)).await.tokens, fake.expected(&bytes("fast"), 100));
    assert!(
        engine.stats().generated_tokens <= 100 + 8,
        "no more than the stream's capacity is generated ahead"
    );
    assert_eq!(listen(slow).await.tokens, fake.expected(&bytes("slow"), 200));
}

#[tokio::test]
async fn many_slow_readers_all_finish() {
    let fake = FakeModel::default();
    let engine = fake.clone().start(EngineConfig { stream_capacity: 4, num_blocks: 60, ..small() });
    let slow = |stream: engine::TokenStream| async move {
        let mut stream = stream;
        let mut tokens = Vec::new();
        while let Some(event) = stream.next().await {
            if let Event::Delta(delta) = event {
                tokens.extend(delta.token_ids);
                for _ in 0..tokens.len() % 7 {
                    tokio::task::yield_now().await;
                }
            }
        }
        tokens
    };
    let prompts: Vec<_> = (0..24).map(|i| bytes(&format!("reader {i}"))).collect();
    let streams = prompts.iter().map(|prompt| engine.submit(greedy(prompt, 150)).expect("is accepted"));
    let tasks: Vec<_> = streams.map(|stream| tokio::spawn(slow(stream))).collect();
    for (task, prompt) in tasks.into_iter().zip(prompts) {
        assert_eq!(task.await.expect("reads"), fake.expected(&prompt, 150));
    }
}

#[tokio::test]
async fn a_dropped_stream_frees_its_blocks() {
    let engine = fake_engine(small());
    let mut stream = engine.submit(greedy(&bytes("gone"), 1000)).expect("is accepted");
    assert!(stream.next().await.is_some());
    until(&engine, |stats| stats.generated_tokens > 0).await;
    drop(stream);
    let stats = until(&engine, |stats| stats.cancelled == 1).await;
    assert_eq!((stats.running, stats.waiting), (0, 0));
    assert_eq!(stats.free_blocks + stats.cached_blocks, stats.total_blocks);
    // An idle engine hears of it, too: this one is stalled, so no step comes by itself.
    let stalled = engine.submit(greedy(&bytes("full"), 1000)).expect("is accepted");
    until(&engine, |stats| stats.generated_tokens >= 7).await;
    drop(stalled);
    until(&engine, |stats| stats.cancelled == 2 && stats.running == 0).await;
}

#[tokio::test]
async fn end_of_text_counts_but_does_not_show() {
    let fake = FakeModel { end_one_in: 12, ..FakeModel::default() };
    let engine = fake.clone().start(small());
    let prompt = bytes("an end");
    let expected = fake.expected(&prompt, 1000);
    let said = run(&engine, greedy(&prompt, 1000)).await;
    assert_eq!(said.tokens, expected);
    assert_eq!(said.tokens.last(), Some(&END_OF_TEXT));
    assert_eq!(said.finish.reason, FinishReason::Stop);
    assert_eq!(said.text.len() + 1, said.tokens.len());
    let ignoring = SamplingParams { ignore_eos: true, ..SamplingParams::greedy() };
    let said = run(&engine, Request { sampling: ignoring, ..greedy(&prompt, 200) }).await;
    assert_eq!((said.tokens.len(), said.finish.reason), (200, FinishReason::Length));
    let later = SamplingParams { min_tokens: expected.len() as u32 + 3, ..SamplingParams::greedy() };
    let said = run(&engine, Request { sampling: later, ..greedy(&prompt, 200) }).await;
    assert!(said.tokens.len() > expected.len() + 3);
    assert!(!said.tokens[..expected.len() + 3].contains(&END_OF_TEXT));
}

#[tokio::test]
async fn a_full_context_is_a_length() {
    let engine = FakeModel { context_len: 32, ..FakeModel::default() }.start(small());
    let said = run(&engine, greedy(&bytes("0123456789"), 1000)).await;
    assert_eq!((said.tokens.len(), said.finish.reason), (22, FinishReason::Length));
}

/// A model that says `text` for ever, and its prompt.
fn parrot(text: &str) -> (FakeModel, Vec<u32>) {
    (FakeModel { repeat: Some(text.len()), ..FakeModel::default() }, bytes(text))
}

#[tokio::test]
async fn stop_strings_across_tokens() {
    let (fake, prompt) = parrot("one two thr\u{e9}e ");
    let engine = fake.start(small());
    let stop = |strings: &[&str]| Stop {
        max_tokens: 30,
        strings: strings.iter().map(|s| (*s).to_owned()).collect(),
        ..Stop::default()
    };
    let included = Stop { include_stop: true, ..stop(&["two"]) };
    let by_token = Stop { max_tokens: 30, token_ids: vec![u32::from(b'w')], ..Stop::default() };
    let with_token = Stop { include_stop: true, ..by_token.clone() };
    let cases = [
        (stop(&["two"]), 0, "one ", Some("two"), 7),
        (stop(&["hr\u{e9}"]), 0, "one two t", Some("hr\u{e9}"), 13),
        (stop(&["never", "e t"]), 0, "on", Some("e t"), 5),
        (included, 0, "one two", Some("two"), 7),
        (stop(&["one"]), 4, "one two thr\u{e9}e ", Some("one"), 18),
        (by_token, 0, "one t", None, 6),
        (with_token, 0, "one tw", None, 6),
    ];
    for (stop, min_tokens, text, matched, tokens) in cases {
        let sampling = SamplingParams { min_tokens, ..SamplingParams::greedy() };
        let said = run(
            &engine,
            Request { prompt: prompt.clone(), sampling, stop: stop.clone(), ..Request::default() },
        )
        .await;
        assert_eq!(said.text, text, "{stop:?}");
        assert_eq!(said.finish.stop_match.as_deref(), matched, "{stop:?}");
        assert_eq!(said.finish.usage.completion_tokens, tokens, "{stop:?}");
        assert_eq!(said.finish.reason, FinishReason::Stop);
    }
    let stats = until(&engine, |stats| stats.running == 0).await;
    assert_eq!(stats.cancelled, 0, "a match is no disconnect");
}

#[tokio::test]
async fn held_back_text_comes_out_at_the_end() {
    let (fake, prompt) = parrot("abcabd");
    let engine = fake.start(small());
    let stop = Stop { max_tokens: 5, strings: vec!["abx".to_owned()], ..Stop::default() };
    let said = run(&engine, Request { stop, ..greedy(&prompt, 5) }).await;
    assert_eq!((said.text.as_str(), said.finish.reason), ("abcab", FinishReason::Length));
    assert_eq!(said.deltas, ["abc", "ab"]);
}

#[tokio::test]
async fn never_half_a_character() {
    let text = "a\u{e9}\u{20ac}\u{1f600}";
    let (fake, prompt) = parrot(text);
    let engine = fake.start(small());
    for n in 1..=20 {
        let said = run(&engine, greedy(&prompt, n)).await;
        assert_eq!(said.finish.usage.completion_tokens, n);
        assert!(text.repeat(2).starts_with(&said.text) && !said.text.contains('\u{fffd}'));
        assert!(said.text.len() + 3 >= n as usize);
    }
}
