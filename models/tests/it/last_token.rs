//! Decoders as embedders, against plain loops over the same weights.

use std::path::PathBuf;

use kernels::WeightType;
use models::{
    Architecture, Card, EmbeddingCard, EncoderInput, LoadedEncoder, ModelKind, Pooling, Sequences,
    load_encoder,
};

use crate::random_llama::{CONTEXT, Sizes, llama};
use crate::sample::{Sample, u32_value};

const SIZES: Sizes = Sizes {
    architecture: Architecture::LLAMA,
    hidden: 64,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
    inner: 96,
    tied: true,
};

/// A file that says of itself that the last token makes the vector, and its weights.
fn file() -> (tempfile::TempDir, PathBuf, Sample) {
    let (_, mut plain) = llama(&SIZES, 7, |_| WeightType::F32);
    plain.set("llama.pooling_type", u32_value(3));
    plain.set("tokenizer.ggml.add_eos_token", [&7u32.to_le_bytes()[..], &[1]].concat());
    let (dir, path) = written(&plain);
    (dir, path, plain)
}

fn written(sample: &Sample) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    std::fs::write(&path, sample.bytes()).unwrap();
    (dir, path)
}

fn encode(model: &LoadedEncoder, inputs: &[EncoderInput]) -> candle_core::Result<Vec<Vec<f32>>> {
    let mut sequences = Sequences::new();
    inputs.iter().for_each(|input| sequences.push(input));
    model.encoder.encode(&sequences)
}

/// The network in plain loops over `f64`.
struct Plain<'a>(&'a Sample);

impl Plain<'_> {
    fn values(&self, name: &str) -> Vec<f64> {
        let tensor = self.0.tensors.iter().find(|tensor| tensor.name == name).unwrap();
        tensor.data.as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect()
    }

    /// `W x` for each `x`.
    fn times(&self, name: &str, rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let weights = self.values(name);
        let dot = |row: &[f64], x: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum();
        rows.iter().map(|x| weights.chunks(x.len()).map(|row| dot(row, x)).collect()).collect()
    }

    fn normed(&self, name: &str, rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let weights = self.values(name);
        let norm = |x: &Vec<f64>| -> Vec<f64> {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            x.iter().zip(&weights).map(|(x, w)| x * w / (mean + 1e-5).sqrt()).collect()
        };
        rows.iter().map(norm).collect()
    }

    /// What the last token's row is before the head.
    fn last(&self, tokens: &[u32]) -> Vec<f64> {
        let words = self.values("token_embd.weight");
        let row = |token: &u32| words[*token as usize * SIZES.hidden..][..SIZES.hidden].to_vec();
        let mut x: Vec<Vec<f64>> = tokens.iter().map(row).collect();
        for layer in 0..SIZES.layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            let normed = self.normed(&name("attn_norm"), &x);
            let [mut q, mut k, v] =
                ["attn_q", "attn_k", "attn_v"].map(|part| self.times(&name(part), &normed));
            rotate(&mut q);
            rotate(&mut k);
            add(&mut x, &self.times(&name("attn_output"), &attend(&q, &k, &v)));
            let normed = self.normed(&name("ffn_norm"), &x);
            let [gate, up] = ["ffn_gate", "ffn_up"].map(|part| self.times(&name(part), &normed));
            let inner = |(gate, up): (&Vec<f64>, &Vec<f64>)| -> Vec<f64> {
                gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
            };
            let inner: Vec<Vec<f64>> = gate.iter().zip(&up).map(inner).collect();
            add(&mut x, &self.times(&name("ffn_down"), &inner));
        }
        self.normed("output_norm.weight", &x).pop().unwrap()
    }
}

fn add(x: &mut [Vec<f64>], more: &[Vec<f64>]) {
    x.iter_mut().flatten().zip(more.iter().flatten()).for_each(|(x, more)| *x += more);
}

/// Turns neighbouring pairs by the position times a frequency.
fn rotate(rows: &mut [Vec<f64>]) {
    for (position, row) in rows.iter_mut().enumerate() {
        for (i, pair) in row.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let i = i % (SIZES.head_dim / 2);
            let angle = position as f64 * 10_000f64.powf(-2.0 * i as f64 / SIZES.head_dim as f64);
            let [a, b] = *pair;
            *pair = [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()];
        }
    }
}

fn attend(q: &[Vec<f64>], k: &[Vec<f64>], v: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let (d, group) = (SIZES.head_dim, SIZES.heads / SIZES.kv_heads);
    let mut out = vec![vec![0.0; SIZES.heads * d]; q.len()];
    for (t, out) in out.iter_mut().enumerate() {
        for (head, out) in out.chunks_mut(d).enumerate() {
            let own = |rows: &[Vec<f64>], at: usize, head: usize| rows[at][head * d..][..d].to_vec();
            let query = own(q, t, head);
            let dot = |key: Vec<f64>| query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>();
            let scores: Vec<f64> =
                (0..=t).map(|s| (dot(own(k, s, head / group)) / (d as f64).sqrt()).exp()).collect();
            let sum: f64 = scores.iter().sum();
            for (s, score) in scores.iter().enumerate() {
                let value = own(v, s, head / group);
                out.iter_mut().zip(value).for_each(|(out, v)| *out += score / sum * v);
            }
        }
    }
    out
}

#[test]
fn the_last_row_is_the_vector() {
    let (_dir, path, plain) = file();
    let card = Card::from_file(&path).unwrap();
    let expected = EmbeddingCard { pooling: Pooling::Last, append_eos: true, ..EmbeddingCard::default() };
    assert_eq!((card.kind, card.embedding.as_ref()), (ModelKind::Embedding, Some(&expected)));
    let model = load_encoder(&path, card).unwrap();
    let end = model.tokenizer.vocab_size() as u32 - 1;
    let texts =
        ["a".to_owned(), "Hello, world!".to_owned(), "xyz ".repeat(8), "long ".repeat(30), String::new()];
    let inputs: Vec<EncoderInput> = texts.iter().map(|text| model.tokenizer.encode(text).unwrap()).collect();
    let vectors = encode(&model, &inputs).unwrap();
    for ((text, input), vector) in texts.iter().zip(&inputs).zip(&vectors) {
        assert_eq!((input.tokens.last(), input.tokens.len()), (Some(&end), text.len() + 1), "{text}");
        assert_eq!(&model.tokenizer.decode(&input.tokens).unwrap(), text);
        let row = Plain(&plain).last(&input.tokens);
        let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        let worst =
            row.iter().zip(vector).map(|(a, b)| (a / length - f64::from(*b)).abs()).fold(0.0, f64::max);
        // Keys and values are kept in f16.
        assert!(worst < 2e-3, "{worst} for {text}");
        // What else is in the batch does not show.
        assert_eq!(&encode(&model, std::slice::from_ref(input)).unwrap()[0], vector, "{text}");
    }
    assert_ne!(vectors[0], vectors[1]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let (_dir, path, mut plain) = file();
    let card = Card::from_file(&path).unwrap();
    let with = |change: &dyn Fn(&mut Card)| {
        let mut card = card.clone();
        change(&mut card);
        load_encoder(&path, card)
    };
    let embedding = |pooling| Some(EmbeddingCard { pooling, ..EmbeddingCard::default() });
    assert!(
        with(&|card| card.embedding = embedding(Pooling::Mean))
            .is_err_and(|e| e.to_string().contains("mean"))
    );
    assert!(with(&|card| card.kind = ModelKind::Rerank).is_err());
    assert!(with(&|card| card.kind = ModelKind::Chat).is_err());
    let short = with(&|card| card.context_len = Some(8)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((short.encoder.config().max_tokens, model_limit(&path)), (8, CONTEXT as usize));
    let input = |tokens: Vec<u32>| EncoderInput { tokens, type_ids: Vec::new() };
    for bad in [vec![], vec![1; 9], vec![1, 5_000]] {
        assert!(encode(&short, &[input(vec![1]), input(bad.clone())]).is_err(), "{bad:?}");
    }
    assert!(encode(&short, &[EncoderInput { tokens: vec![1], type_ids: vec![1] }]).is_err());
    assert!(short.tokenizer.encode_pair("a", "b").is_err());
    plain.set("llama.pooling_type", u32_value(1));
    let (_dir, path) = written(&plain);
    assert!(Card::from_file(&path).is_err_and(|error| error.to_string().contains("pooling_type")));
}

fn model_limit(path: &std::path::Path) -> usize {
    let card = Card::from_file(path).unwrap();
    load_encoder(path, card).unwrap().encoder.config().max_tokens
}
