//! The embedder's queue, with an encoder that does as it is told.
#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use candle_core::Result;
use engine::{EmbedError, Embedder, EmbedderConfig, SubmitError, Vectors};
use models::encoder::{EncoderConfig, Head};
use models::{Encoder, EncoderInput, EncoderTokenizer, LoadedEncoder, Pooling, Sequences};

const PATIENCE: Duration = Duration::from_secs(30);
const VOCAB: usize = 100;
/// A step with this token fails.
const FAILS: u32 = 98;
/// A step with this token panics.
const PANICS: u32 = 99;

/// Lengths of the sequences of each step.
type Steps = Arc<Mutex<Vec<Vec<usize>>>>;

/// Waits for leave before each step; a vector is the input's length and the sum of its tokens.
struct Fake {
    config: EncoderConfig,
    began: Sender<()>,
    leave: Receiver<()>,
    steps: Steps,
}

impl Encoder for Fake {
    fn config(&self) -> &EncoderConfig {
        &self.config
    }

    fn encode(&self, sequences: &Sequences) -> Result<Vec<Vec<f32>>> {
        let _ = self.began.send(());
        let _ = self.leave.recv();
        let parts =
            sequences.starts.windows(2).map(|ends| &sequences.token_ids[ends[0] as usize..ends[1] as usize]);
        self.steps.lock().unwrap().push(parts.clone().map(<[u32]>::len).collect());
        assert!(!sequences.token_ids.contains(&PANICS), "told to");
        if sequences.token_ids.contains(&FAILS) {
            candle_core::bail!("told to");
        }
        Ok(parts.map(|tokens| vec![tokens.len() as f32, tokens.iter().sum::<u32>() as f32]).collect())
    }
}

struct Rig {
    embedder: Embedder,
    began: Receiver<()>,
    leave: Option<Sender<()>>,
    steps: Steps,
}

impl Rig {
    fn new(max_batched_tokens: usize, max_waiting_tokens: usize) -> Self {
        let ((began_in, began), (leave, leave_out)) = (channel(), channel());
        let steps = Steps::default();
        let config = EncoderConfig {
            hidden: 2,
            layers: 1,
            heads: 1,
            intermediate: 1,
            vocab: VOCAB,
            positions: 50,
            types: 2,
            max_tokens: 50,
            norm_eps: 0.0,
            head: Head::Embedding { pooling: Pooling::Mean, normalize: false },
        };
        let encoder = Fake { config, began: began_in, leave: leave_out, steps: Arc::clone(&steps) };
        let tokenizer = r###"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
            "pre_tokenizer":null,"post_processor":null,"decoder":null,"model":{"type":"WordPiece","unk_token":"u",
            "continuing_subword_prefix":"##","max_input_chars_per_word":9,"vocab":{"u":0}}}"###;
        let loaded = LoadedEncoder {
            encoder: Box::new(encoder),
            tokenizer: Arc::new(EncoderTokenizer::from_json(tokenizer.as_bytes(), VOCAB).unwrap()),
            card: models::card("all-minilm-l6-v2").unwrap(),
        };
        let embedder =
            Embedder::start(loaded, EmbedderConfig { max_batched_tokens, max_waiting_tokens }).unwrap();
        Self { embedder, began, leave: Some(leave), steps }
    }

    /// Starts a step and holds it, so that what is submitted now waits together for the next one.
    fn hold(&self) -> Vectors {
        let first = self.embedder.submit(vec![input(1, 1)]).unwrap();
        self.began.recv_timeout(PATIENCE).unwrap();
        first
    }

    /// Lets every step run.
    fn release(&mut self) {
        self.leave = None;
    }

    fn steps(&self) -> Vec<Vec<usize>> {
        self.steps.lock().unwrap().clone()
    }
}

fn input(length: usize, token: u32) -> EncoderInput {
    EncoderInput { tokens: vec![token; length], type_ids: Vec::new() }
}

fn wait(vectors: Vectors) -> std::result::Result<Vec<Vec<f32>>, EmbedError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(vectors.all())
}

#[test]
fn requests_take_turns_and_every_vector_finds_its_place() {
    let mut rig = Rig::new(10, 1_000);
    let first = rig.hold();
    let long = rig.embedder.submit((1..=9).map(|i| input(4, i)).collect()).unwrap();
    let short = rig.embedder.submit(vec![input(2, 50), input(3, 51)]).unwrap();
    rig.release();
    assert_eq!(wait(first).unwrap(), [[1.0, 1.0]]);
    let expected: Vec<Vec<f32>> = (1..=9).map(|i| vec![4.0, 4.0 * i as f32]).collect();
    assert_eq!(wait(long).unwrap(), expected);
    assert_eq!(wait(short).unwrap(), [[2.0, 100.0], [3.0, 153.0]]);
    // The second of the short request goes in the third step, not after the nine of the long one.
    assert_eq!(rig.steps(), [vec![1], vec![4, 2, 4], vec![3, 4], vec![4, 4], vec![4, 4], vec![4, 4]]);
    let stats = rig.embedder.stats();
    assert_eq!(
        (stats.running, stats.waiting, stats.waiting_tokens, stats.inputs, stats.tokens),
        (0, 0, 0, 12, 42)
    );
}

#[test]
fn an_input_beyond_the_step_has_one_of_its_own() {
    let mut rig = Rig::new(10, 1_000);
    let first = rig.hold();
    let request = rig.embedder.submit(vec![input(30, 1), input(1, 2)]).unwrap();
    rig.release();
    assert_eq!(wait(request).unwrap(), [[30.0, 30.0], [1.0, 2.0]]);
    wait(first).unwrap();
    assert_eq!(rig.steps(), [vec![1], vec![30], vec![1]]);
    assert_eq!(wait(rig.embedder.submit(Vec::new()).unwrap()).unwrap(), Vec::<Vec<f32>>::new());
}

#[test]
fn who_leaves_is_forgotten() {
    let mut rig = Rig::new(10, 1_000);
    let first = rig.hold();
    drop(rig.embedder.submit(vec![input(5, 1), input(5, 1)]).unwrap());
    let stays = rig.embedder.submit(vec![input(2, 3)]).unwrap();
    rig.release();
    assert_eq!(wait(stays).unwrap(), [[2.0, 6.0]]);
    wait(first).unwrap();
    assert_eq!(rig.steps(), [vec![1], vec![2]]);
    assert!(rig.embedder.shutdown(PATIENCE));
    assert_eq!(rig.embedder.stats().cancelled, 1);
}

#[test]
fn a_failed_step_ends_its_requests_only() {
    let mut rig = Rig::new(4, 1_000);
    let first = rig.hold();
    let bad = rig.embedder.submit(vec![input(2, FAILS), input(2, 1)]).unwrap();
    let beside = rig.embedder.submit(vec![input(1, 1)]).unwrap();
    let later = rig.embedder.submit(vec![input(4, 2)]).unwrap();
    rig.release();
    wait(first).unwrap();
    for ended in [bad, beside] {
        let Err(EmbedError::Failed(reason)) = wait(ended) else { panic!("it was told to fail") };
        assert!(reason.starts_with("told to"), "{reason}");
    }
    assert_eq!(wait(later).unwrap(), [[4.0, 8.0]]);
    assert!(rig.embedder.healthy());
}

#[test]
fn what_cannot_be_served_is_refused() {
    let mut rig = Rig::new(10, 20);
    let submit = |inputs| rig.embedder.submit(inputs).err();
    assert_eq!(submit(vec![input(0, 1)]), Some(SubmitError::EmptyPrompt));
    assert_eq!(submit(vec![input(51, 1)]), Some(SubmitError::TooLong { prompt: 51, limit: 51 }));
    assert_eq!(submit(vec![input(1, 100)]), Some(SubmitError::UnknownToken { token: 100, vocab: 100 }));
    let first = rig.hold();
    let waits = rig.embedder.submit(vec![input(15, 1)]).unwrap();
    assert_eq!(
        rig.embedder.submit(vec![input(6, 1)]).err(),
        Some(SubmitError::Full { waiting: 2, limit: 20 })
    );
    rig.release();
    wait(first).unwrap();
    wait(waits).unwrap();
    // Alone it may be larger than the bound.
    wait(rig.embedder.submit(vec![input(15, 1), input(15, 1)]).unwrap()).unwrap();
    assert!(rig.embedder.shutdown(PATIENCE));
    assert_eq!(rig.embedder.submit(vec![input(1, 1)]).err(), Some(SubmitError::Draining));
}

#[test]
fn a_panic_makes_it_unhealthy_and_lets_nobody_wait() {
    let mut rig = Rig::new(10, 100);
    let first = rig.hold();
    let bad = rig.embedder.submit(vec![input(1, PANICS)]).unwrap();
    let other = rig.embedder.submit(vec![input(10, 1)]).unwrap();
    rig.release();
    wait(first).unwrap();
    assert_eq!(wait(bad), Err(EmbedError::Cancelled));
    assert_eq!(wait(other), Err(EmbedError::Cancelled));
    rig.embedder.shutdown(PATIENCE);
    assert!(!rig.embedder.healthy());
    assert_eq!(rig.embedder.submit(vec![input(1, 1)]).err(), Some(SubmitError::Unhealthy));
}

#[test]
fn settings_out_of_bounds_are_refused() {
    let config = EmbedderConfig { max_batched_tokens: 0, ..EmbedderConfig::default() };
    assert!(config.validate().unwrap_err().to_string().contains("max_batched_tokens"));
    assert_eq!(EmbedderConfig::default().validate(), Ok(()));
}
