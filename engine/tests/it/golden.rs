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
    let rest =
        answer[..answer.len() - 1].iter().enumerate().map(|(i, token)| next(&[*token], prompt.len() + i));
    std::iter::once(first).chain(rest).collect()
}

/// How far apart the float reference sees the best token and the worse of `choices`. Fails where `theirs` agrees with
/// the float reference so well that rounding cannot be the reason for different choices.
fn tie_gap(reference: &[f32], theirs: &[f32], choices: [u32; 2]) -> f32 {
    let best = reference[float::argmax(reference) as usize];
    let gap = choices.map(|token| best - reference[token as usize]).into_iter().fold(0.0, f32::max);
    let rounding = reference.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let away = choices.map(|token| best - reference[token as usize]);
    eprintln!("TMP tokens {choices:?}: away {away:?} gap {gap}, their rounding {rounding}");
    assert!(
        gap <= 9.0 * TIE && gap <= 2.0 * rounding,
        "tokens {choices:?} are {gap} apart, rounding moves {rounding}"
    );
    gap
}

/// What one prompt gave: our own answer alone, and the same inside a batch.
struct Case {
    prompt: Vec<u32>,
    tokens: Vec<u32>,
}

/// Compared positions, and the gaps of those where the choices differ.
type Verdict = (usize, Vec<f32>);

/// Asks theirs after our own prefix each time, so that every position counts, also those after a tie.
fn compare(case: &Case, theirs: &mut ModelWeights, reference: &float::Llama) -> Verdict {
    let logits = their_logits(theirs, &case.prompt, &case.tokens);
    let pairs: Vec<_> = logits.iter().zip(&case.tokens).map(|(x, ours)| [*ours, float::argmax(x)]).collect();
    let different: Vec<_> = (0..pairs.len()).filter(|at| pairs[*at][0] != pairs[*at][1]).collect();
    let whole: Vec<u32> = case.prompt.iter().chain(&case.tokens).copied().collect();
    let rows: Vec<u32> = different.iter().map(|at| (case.prompt.len() + at - 1) as u32).collect();
    let exact = if rows.is_empty() { Vec::new() } else { reference.logits(&whole, &rows) };
    let gaps = different.iter().zip(exact).map(|(at, exact)| tie_gap(&exact, &logits[*at], pairs[*at]));
    (pairs.len(), gaps.collect())
}

/// Two at a time, each on one thread: the other implementation shares out very small pieces of work, which takes long
/// where other processes run.
fn compare_all(cases: &[Case]) -> Vec<Verdict> {
    let path = models::fetch::ensure_test_model();
    let reference = float::Llama::open(&path);
    let load = || {
        let mut file = std::fs::File::open(&path).expect("the model file opens");
        let content = gguf_file::Content::read(&mut file).expect("the model file is read");
        ModelWeights::from_gguf(content, &mut file, &Device::Cpu).expect("their model loads")
    };
    let half = |from: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one thread");
        let mut theirs = load();
        pool.install(|| {
            cases.iter().skip(from).step_by(2).map(|case| compare(case, &mut theirs, &reference)).collect()
        })
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| -> Vec<Verdict> { half(1) });
        let mut verdicts: Vec<Verdict> = half(0);
        verdicts.extend(other.join().expect("the other half is compared"));
        verdicts
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greedy_tokens_equal_an_independent_implementation() {
    let engine = shared();
    let prompts = prompts::all(engine.tokenizer());
    let together = run_all(engine, prompts.iter().map(|prompt| request(prompt)).collect()).await;
    let mut cases = Vec::new();
    for (i, (prompt, batched)) in prompts.into_iter().zip(&together).enumerate() {
        let alone = run(engine, request(&prompt)).await;
        assert_eq!(alone.tokens.len(), TOKENS as usize);
        assert_eq!(bits(&alone), bits(batched), "prompt {i}: bits depend on the batch");
        cases.push(Case { prompt, tokens: alone.tokens });
    }
    let verdicts = compare_all(&cases);
    let compared: usize = verdicts.iter().map(|verdict| verdict.0).sum();
    let ties: usize = verdicts.iter().map(|verdict| verdict.1.len()).sum();
    assert_eq!(compared, cases.len() * TOKENS as usize);
    assert!(cases.len() >= 20);
    assert!(ties * 25 <= compared, "{ties} of {compared} choices differ: too many to be rounding");
}

#[test]
fn tmp_noise() {
    use std::sync::Arc;
    let path = models::fetch::ensure_test_model();
    let reference = float::Llama::open(&path);
    let loaded =
        models::load(&path, models::card("smollm2-135m-instruct").expect("card"), &|_| {}).expect("loads");
    let cache = loaded.model.new_cache(32, 32).expect("cache");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one thread");
    let rms = |a: &[f32], b: &[f32]| {
        let mean = a.iter().zip(b).map(|(x, y)| f64::from(x - y)).sum::<f64>() / a.len() as f64;
        (a.iter().zip(b).map(|(x, y)| (f64::from(x - y) - mean).powi(2)).sum::<f64>() / a.len() as f64).sqrt()
    };
    for p in prompts::all(&loaded.tokenizer).into_iter().skip(3).take(9) {
        let t = p.len();
        let rows: Vec<u32> = (0..t as u32).collect();
        let exact = reference.logits(&p, &rows);
        let meta = kernels::AttentionMeta {
            query_start: vec![0, t as u32],
            context_len: vec![t as u32],
            block_table: (0..32).collect(),
            table_stride: 32,
            positions: rows.clone(),
            slot_mapping: rows.clone(),
        };
        let ours: Vec<Vec<f32>> = loaded
            .model
            .forward(
                &models::Batch { token_ids: p.clone(), attention: Arc::new(meta), logits_at: rows.clone() },
                &cache,
            )
            .and_then(|x| x.to_vec2())
            .expect("runs");
        let mut file = std::fs::File::open(&path).expect("the model file opens");
        let content = gguf_file::Content::read(&mut file).expect("the model file is read");
        let mut theirs =
            ModelWeights::from_gguf(content, &mut file, &Device::Cpu).expect("their model loads");
        let theirs: Vec<Vec<f32>> = pool.install(|| {
            p.iter()
                .enumerate()
                .map(|(i, tok)| {
                    let x = theirs
                        .forward(
                            &Tensor::new(&[*tok], &Device::Cpu).and_then(|x| x.unsqueeze(0)).expect("t"),
                            i,
                        )
                        .expect("f");
                    x.flatten_all().and_then(|x| x.to_vec1()).expect("v")
                })
                .collect()
        });
        let e = |v: &[Vec<f32>]| v.iter().zip(&exact).map(|(a, b)| rms(a, b)).collect::<Vec<_>>();
        let (a, b) = (e(&ours), e(&theirs));
        let avg = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        let mx = |v: &[f64]| v.iter().copied().fold(0.0, f64::max);
        eprintln!(
            "NOISE len {t}: ours avg {:.4} max {:.4}; theirs avg {:.4} max {:.4}",
            avg(&a),
            mx(&a),
            avg(&b),
            mx(&b)
        );
    }
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
    // The longest one: a prefix is shared in whole blocks, and the shortest prompt does not fill one.
    let at = prompts.iter().position(|prompt| prompt.len() == longest).expect("it is one of them");
    let again = run(&engine, request(&prompts[at])).await;
    let again_cached = run(&engine, request(&prompts[at])).await;
    assert!(again_cached.finish.usage.cached_tokens > 0);
    assert_eq!(bits(&again), bits(&plain[at]));
    assert_eq!(bits(&again_cached), bits(&plain[at]));
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
