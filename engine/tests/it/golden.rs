//! The real model against an independent implementation of the same file.

mod float;
mod prompts;

use std::sync::OnceLock;

use candle_core::quantized::gguf_file;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;
use engine::{Engine, EngineConfig, Request, SamplingParams};

use crate::support::{Said, greedy, run, run_all};

const TOKENS: u32 = 48;

/// Where two implementations choose differently, the float reference must see the two tokens this close together.
/// Both round activations to 8 bits, each in its own way. Measured: up to 0.362, where the other implementation's own
/// logits differ from the float reference by more than half of that.
const TIE: f32 = 0.4;

fn start(config: EngineConfig) -> Engine {
    let card = models::card("smollm2-135m-instruct").expect("the demo card is built in");
    let loaded = models::load(&models::fetch::ensure_test_model(), card, &|_| {}).expect("the model loads");
    Engine::start(loaded, config).expect("the engine starts")
}

/// One engine for all tests of this file; its prefix cache is off so that every prompt is computed.
fn shared() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| start(EngineConfig { prefix_cache: false, ..EngineConfig::default() }))
}

/// Greedy, to the last token, with log probabilities so that equality is of bits and not of choices alone.
fn request(prompt: &[u32]) -> Request {
    let sampling = SamplingParams { logprobs: Some(2), ignore_eos: true, ..SamplingParams::greedy() };
    Request { sampling, ..greedy(prompt, TOKENS) }
}

fn bits(said: &Said) -> Vec<(u32, u32)> {
    said.logprobs.iter().map(|report| (report.token, report.logprob.to_bits())).collect()
}

/// The other implementation's logits after each prefix of `prompt` + `answer` that ends in or after the prompt.
fn their_logits(model: &mut ModelWeights, prompt: &[u32], answer: &[u32]) -> Vec<Vec<f32>> {
    let mut next = |tokens: &[u32], position: usize| {
        let input = Tensor::new(tokens, &Device::Cpu).and_then(|ids| ids.unsqueeze(0)).expect("a tensor");
        let logits = model.forward(&input, position).expect("their forward runs");
        logits.flatten_all().and_then(|x| x.to_vec1()).expect("f32 logits")
    };
    let first = next(prompt, 0);
    let rest = answer[..answer.len() - 1].iter().enumerate().map(|(i, token)| next(&[*token], prompt.len() + i));
    std::iter::once(first).chain(rest).collect()
}

/// How far apart the float reference sees the best token and the worse of `choices`. Fails where `theirs` agrees with
/// the float reference so well that rounding cannot be the reason for different choices.
fn tie_gap(reference: &[f32], theirs: &[f32], choices: [u32; 2]) -> f32 {
    let best = reference[float::argmax(reference) as usize];
    let gap = choices.map(|token| best - reference[token as usize]).into_iter().fold(0.0, f32::max);
    let rounding = reference.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("tokens {choices:?}: gap {gap}, their rounding {rounding}");
    assert!(gap <= TIE && gap <= 2.0 * rounding, "tokens {choices:?} are {gap} apart, rounding moves {rounding}");
    gap
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greedy_tokens_equal_an_independent_implementation() {
    let engine = shared();
    let prompts = prompts::all(engine.tokenizer());
    let together = run_all(engine, prompts.iter().map(|prompt| request(prompt)).collect()).await;
    let path = models::fetch::ensure_test_model();
    let mut file = std::fs::File::open(&path).expect("the model file opens");
    let content = gguf_file::Content::read(&mut file).expect("the model file is read");
    let mut theirs = ModelWeights::from_gguf(content, &mut file, &Device::Cpu).expect("their model loads");
    let reference = OnceLock::new();
    let (mut compared, mut ties, mut widest) = (0, 0, 0.0_f32);
    for (i, (prompt, batched)) in prompts.iter().zip(&together).enumerate() {
        let t0 = std::time::Instant::now();
        let alone = run(engine, request(prompt)).await;
        eprintln!("TMP {i} len {} alone {:?}", prompt.len(), t0.elapsed());
        assert_eq!(alone.tokens.len(), TOKENS as usize);
        assert_eq!(bits(&alone), bits(batched), "prompt {i}: bits depend on the batch");
        // Theirs is asked after our own prefix each time, so that every position counts, also those after a tie.
        let t0 = std::time::Instant::now();
        let logits = their_logits(&mut theirs, prompt, &alone.tokens);
        eprintln!("TMP {i} theirs {:?}", t0.elapsed());
        let pairs: Vec<_> = logits.iter().zip(&alone.tokens).map(|(x, ours)| [*ours, float::argmax(x)]).collect();
        let different: Vec<_> = (0..pairs.len()).filter(|at| pairs[*at][0] != pairs[*at][1]).collect();
        compared += pairs.len();
        if different.is_empty() {
            continue;
        }
        let reference = reference.get_or_init(|| float::Llama::open(&path));
        let whole: Vec<u32> = prompt.iter().chain(&alone.tokens).copied().collect();
        let rows: Vec<u32> = different.iter().map(|at| (prompt.len() + at - 1) as u32).collect();
        let t0 = std::time::Instant::now();
        let exacts = reference.logits(&whole, &rows);
        eprintln!("TMP {i} float {:?}", t0.elapsed());
        for (at, exact) in different.into_iter().zip(exacts) {
            widest = widest.max(tie_gap(&exact, &logits[at], pairs[at]));
            ties += 1;
        }
    }
    println!("{compared} tokens, {ties} ties, widest gap {widest}");
    assert!(prompts.len() >= 20);
    assert!(ties * 25 <= compared, "{ties} of {compared} tokens are ties: too many to be rounding");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefix_cache_and_preemption_do_not_change_a_bit() {
    let prompts = prompts::all(shared().tokenizer());
    let prompts: Vec<_> = prompts.into_iter().filter(|prompt| (20..120).contains(&prompt.len())).collect();
    let plain = run_all(shared(), prompts.iter().map(|prompt| request(prompt)).collect()).await;
    let longest = prompts.iter().map(Vec::len).max().expect("some prompts are of that length");
    let base = EngineConfig::default();
    // Room for the longest and little more, and prompts cut into odd pieces.
    let num_blocks = (longest + TOKENS as usize).div_ceil(base.block_size) + 8;
    let config = EngineConfig { num_blocks, max_batched_tokens: 100, prefill_chunk: 7, ..base };
    let engine = start(config);
    for round in 0..2 {
        let said = run_all(&engine, prompts.iter().map(|prompt| request(prompt)).collect()).await;
        for (i, (said, plain)) in said.iter().zip(&plain).enumerate() {
            assert_eq!(bits(said), bits(plain), "prompt {i}, round {round}");
        }
    }
    let again = run(&engine, request(&prompts[0])).await;
    let again_cached = run(&engine, request(&prompts[0])).await;
    assert!(again_cached.finish.usage.cached_tokens > 0);
    assert_eq!(bits(&again), bits(&plain[0]));
    assert_eq!(bits(&again_cached), bits(&plain[0]));
    assert!(engine.stats().preemptions > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_is_reproducible_on_the_real_model() {
    let prompt = shared().tokenizer().encode_text("Once upon a time").expect("plain text");
    let sampled = |seed| Request {
        sampling: SamplingParams { temperature: 0.9, top_p: 0.95, seed, ..SamplingParams::default() },
        ..greedy(&prompt, 24)
    };
    let first = run(shared(), sampled(1)).await;
    let crowd = run_all(shared(), (0..8).map(sampled).collect()).await;
    assert_eq!(first.tokens, crowd[1].tokens);
    assert_ne!(crowd[1].tokens, crowd[2].tokens);
}
