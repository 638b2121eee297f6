//! Helpers that several tests share.

use engine::{
    Engine, EngineConfig, Event, Finish, Request, SamplingParams, Stats, Stop, TokenLogprob, TokenStream,
};

/// All that a stream said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) deltas: Vec<String>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) logprobs: Vec<TokenLogprob>,
    pub(crate) prompt: Vec<TokenLogprob>,
    pub(crate) finish: Finish,
}

/// Reads a stream to its end and checks the order of events and the token account.
pub(crate) async fn listen(mut stream: TokenStream) -> Said {
    let mut said = Said {
        text: String::new(),
        deltas: Vec::new(),
        tokens: Vec::new(),
        logprobs: Vec::new(),
        prompt: Vec::new(),
        finish: Finish {
            reason: engine::FinishReason::Cancelled,
            usage: Default::default(),
            stop_match: None,
        },
    };
    let (mut started, mut counted) = (false, 0);
    while let Some(event) = stream.next().await {
        match event {
            Event::Started { cached_tokens } => {
                assert!(!started && said.deltas.is_empty(), "started once, first");
                assert_eq!(cached_tokens, stream.cached_tokens());
                started = true;
            }
            Event::Prompt(logprobs) => {
                assert!(started && said.deltas.is_empty(), "the prompt comes between start and text");
                said.prompt.extend(logprobs);
            }
            Event::Delta(delta) => {
                assert!(started, "no delta before the start");
                assert_eq!(delta.tokens as usize, delta.token_ids.len());
                counted += delta.tokens;
                said.tokens.extend(delta.token_ids);
                said.logprobs.extend(delta.logprobs);
                said.text.push_str(&delta.text);
                said.deltas.push(delta.text);
            }
            Event::Finished(finish) => {
                said.finish = finish;
                assert!(stream.next().await.is_none(), "nothing after the end");
                break;
            }
        }
    }
    assert_eq!(counted, said.finish.usage.completion_tokens, "deltas carry every token once");
    said
}

/// Submits all at once, then reads all to their ends.
pub(crate) async fn run_all(engine: &Engine, requests: Vec<Request>) -> Vec<Said> {
    let streams: Vec<_> = requests.into_iter().map(|r| engine.submit(r).expect("is accepted")).collect();
    let tasks: Vec<_> = streams.into_iter().map(|stream| tokio::spawn(listen(stream))).collect();
    let mut said = Vec::new();
    for task in tasks {
        said.push(task.await.expect("the reader does not panic"));
    }
    said
}

/// Submits one and reads it to its end.
pub(crate) async fn run(engine: &Engine, request: Request) -> Said {
    listen(engine.submit(request).expect("is accepted")).await
}

/// A greedy request for `max_tokens`.
pub(crate) fn greedy(prompt: &[u32], max_tokens: u32) -> Request {
    Request {
        prompt: prompt.to_vec(),
        sampling: SamplingParams::greedy(),
        stop: Stop { max_tokens, ..Stop::default() },
        ..Request::default()
    }
}

/// The bytes of a text as tokens of the fake model.
pub(crate) fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

/// A small engine's settings.
pub(crate) fn small() -> EngineConfig {
    EngineConfig {
        max_num_seqs: 8,
        max_batched_tokens: 64,
        prefill_chunk: 16,
        block_size: 4,
        num_blocks: 256,
        max_waiting: 64,
        prefix_cache: true,
        stream_capacity: 8,
        ..EngineConfig::default()
    }
}

/// Waits until the engine's state satisfies `condition`.
pub(crate) async fn until(engine: &Engine, condition: impl Fn(&Stats) -> bool) -> Stats {
    loop {
        let stats = engine.stats();
        if condition(&stats) {
            return stats;
        }
        tokio::task::yield_now().await;
    }
}
