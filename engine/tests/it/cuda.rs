//! The engine on a CUDA device gives the tokens of the engine on the CPU: the emulated device, a tiny random network.

use std::path::{Path, PathBuf};

use engine::{Engine, EngineConfig, Request, SamplingParams};
use kernels::WeightType;
use kernels::cuda::emulator::{self, Order};
use models::{Architecture, Place};

use crate::random_llama::{Sizes, llama};
use crate::support::{Said, greedy, run, run_all};

const SEED: u64 = 11;
const TOKENS: u32 = 20;
const SIZES: Sizes = Sizes {
    architecture: Architecture::LLAMA,
    hidden: 128,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    inner: 256,
    tied: false,
};

/// `cuda`: the device is the first that the driver has, in place of the emulated one.
const DEVICE: &str = "KERNELS_DEVICE";

/// The emulator's library, which is also a stand-in for the driver's.
fn library() -> PathBuf {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator");
    emulator::build(&emulator::sources(), &emulator::FAMILIES, &out, false).expect("g++ compiles")
}

/// Engines on both, over the same weights.
fn engines() -> [Engine; 2] {
    let place = if std::env::var_os(DEVICE).is_some_and(|device| device == "cuda") {
        Place::cuda(0).expect("a CUDA device")
    } else {
        Place::Cuda(emulator::open(&library(), Order::Forward).expect("the library loads"))
    };
    let (stored, plain) = llama(&SIZES, SEED, |_| WeightType::BF16);
    let start = |bytes: Vec<u8>, place: &Place| {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{place:?}-{}", std::process::id()));
        std::fs::write(&file, bytes).expect("written");
        let card = models::card("smollm2-135m-instruct").expect("a card");
        let loaded = models::load_on(&file, card, place, &|_| {}).expect("the model loads");
        std::fs::remove_file(&file).expect("removed");
        let config = EngineConfig {
            max_num_seqs: 4,
            max_batched_tokens: 40,
            prefill_chunk: 24,
            block_size: 16,
            num_blocks: 20,
            ..EngineConfig::default()
        };
        Engine::start(loaded, config).expect("the engine starts")
    };
    [start(plain.bytes(), &Place::Cpu), start(stored.bytes(), &place)]
}

/// Prompts of different lengths, some with a common beginning, more than run at once and than the cache holds.
fn requests() -> Vec<Request> {
    let token = |i: usize| ((i * i * 7 + i * 5) % 95) as u32;
    let prompt = |begin: usize, len: usize| (begin..begin + len).map(token).collect::<Vec<_>>();
    [(0, 5), (0, 37), (0, 40), (3, 1), (9, 64), (20, 18)]
        .into_iter()
        .map(|(begin, len)| Request {
            sampling: SamplingParams { ignore_eos: true, ..SamplingParams::greedy() },
            ..greedy(&prompt(begin, len), TOKENS)
        })
        .collect()
}

/// Where the device chooses another token than the CPU, the CPU must see the two this close together: rounding to bf16
/// moves a log probability by less.
const TIE: f32 = 0.15;

/// Holds answers to the CPU's view of each of their tokens; returns how many are its first choice.
async fn judge(cpu: &Engine, answers: &[Said]) -> usize {
    let mut first_choices = 0;
    for (request, said) in requests().iter().zip(answers) {
        assert_eq!(said.tokens.len(), TOKENS as usize);
        let prompt = [&request.prompt[..], &said.tokens].concat();
        let sampling = SamplingParams { prompt_logprobs: Some(1), ..SamplingParams::greedy() };
        let scores = run(cpu, Request { sampling, ..greedy(&prompt, 0) }).await.prompt;
        for score in &scores[scores.len() - said.tokens.len()..] {
            let (best, logprob) = score.top[0];
            first_choices += usize::from(best == score.token);
            let behind = logprob - score.logprob;
            assert!(behind < TIE, "{} is {behind} behind {best}", score.token);
        }
    }
    first_choices
}

#[tokio::test]
async fn the_tokens_are_those_of_the_cpu() {
    println!("seed {SEED}");
    let [cpu, cuda] = engines();
    let together = run_all(&cuda, requests()).await;
    let mut alone = Vec::new();
    for request in requests() {
        alone.push(run(&cuda, request).await);
    }
    for answers in [&together, &alone] {
        let (found, all) = (judge(&cpu, answers).await, answers.len() * TOKENS as usize);
        assert!(found * 100 >= all * 95, "{found} of {all} tokens are the CPU's first choice");
    }
    assert!(cuda.healthy());
}

/// The same in a process of its own that finds the stand-in as the driver's library.
#[cfg(feature = "cuda")]
#[test]
fn the_same_through_the_driver() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("driver-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::os::unix::fs::symlink(library(), folder.join("libcuda.so")).expect("a link");
    let output = std::process::Command::new(std::env::current_exe().expect("this program"))
        .arg("cuda::the_tokens_are_those_of_the_cpu")
        .env("LD_LIBRARY_PATH", &folder)
        .env(DEVICE, "cuda")
        .output()
        .expect("this program runs");
    std::fs::remove_dir_all(&folder).expect("the folder goes");
    let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
    assert!(output.status.success() && text.contains(" 1 passed"), "{text}");
}
