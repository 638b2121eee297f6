//! Each architecture against an implementation of other hands: candle-transformers, over the same file.

use std::fs::File;
use std::sync::Arc;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Result, Tensor};
use candle_transformers::models::{quantized_llama, quantized_qwen2, quantized_qwen3};
use kernels::{AttentionMeta, WeightType};
use models::{Architecture, Batch, Card, Loaded, Sequences, card, load, load_encoder};

use crate::random_llama::{Sizes, llama};
use crate::sample::u32_value;

const BLOCK_SIZE: usize = 16;
const VOCAB: usize = 96;

fn sizes(architecture: Architecture, tied: bool) -> Sizes {
    // Only Qwen3 has heads that do not add up to the width of the stream.
    let head_dim = if architecture.head_norm { 32 } else { 16 };
    Sizes { architecture, hidden: 64, layers: 2, heads: 4, kv_heads: 2, head_dim, inner: 96, tied }
}

/// A network of theirs: tokens and where they begin to logits.
type Forward = Box<dyn FnMut(&Tensor, usize) -> Result<Tensor>>;

/// The logits after each of `chunks`, which are fed one after the other.
fn theirs(architecture: Architecture, path: &std::path::Path, chunks: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
    let mut file = File::open(path)?;
    let content = Content::read(&mut file)?;
    let mut forward: Forward = match architecture.name {
        "llama" => {
            let mut model = quantized_llama::ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
            Box::new(move |x, at| model.forward(x, at))
        }
        "qwen2" => {
            let mut model = quantized_qwen2::ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
            Box::new(move |x, at| model.forward(x, at))
        }
        "qwen3" => {
            let mut model = quantized_qwen3::ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
            Box::new(move |x, at| model.forward(x, at))
        }
        other => candle_core::bail!("{other} has no twin in this test"),
    };
    let mut at = 0;
    let mut logits = Vec::new();
    for chunk in chunks {
        // Their Qwen3 does not mask a chunk that follows another: only the first is fed as one.
        let mut last = Vec::new();
        for piece in chunk.chunks(if at == 0 { chunk.len() } else { 1 }) {
            let input = Tensor::new(piece, &Device::Cpu)?.unsqueeze(0)?;
            last = forward(&input, at)?.flatten_all()?.to_vec1()?;
            at += piece.len();
        }
        logits.push(last);
    }
    Ok(logits)
}

/// The same of ours, from the file at `path`.
fn ours(path: &std::path::Path, chunks: &[&[u32]]) -> Vec<Vec<f32>> {
    let loaded =
        load(path, card("smollm2-135m-instruct").unwrap(), &|_| {}).unwrap_or_else(|e| panic!("{e}"));
    logits_of(&loaded, chunks)
}

/// The logits after each of `chunks`.
pub(crate) fn logits_of(loaded: &Loaded, chunks: &[&[u32]]) -> Vec<Vec<f32>> {
    let cache = loaded.model.new_cache(8, BLOCK_SIZE).unwrap();
    let mut at = 0;
    let step = |chunk: &&[u32]| {
        let to = at + chunk.len();
        let meta = AttentionMeta {
            query_start: vec![0, chunk.len() as u32],
            context_len: vec![to as u32],
            block_table: (0..8).rev().collect(),
            table_stride: 8,
            positions: (at as u32..to as u32).collect(),
            slot_mapping: (at..to)
                .map(|p| ((7 - p / BLOCK_SIZE) * BLOCK_SIZE + p % BLOCK_SIZE) as u32)
                .collect(),
        };
        at = to;
        let logits_at = vec![chunk.len() as u32 - 1];
        let batch = Batch { token_ids: chunk.to_vec(), attention: Arc::new(meta), logits_at };
        loaded.model.forward(&batch, &cache).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    chunks.iter().map(step).collect()
}

#[test]
fn every_architecture_gives_the_logits_of_candle() {
    let tokens: Vec<u32> = (0..50u32).map(|i| (i * 37 + 11) % VOCAB as u32).collect();
    let chunks = [&tokens[..30], &tokens[30..31], &tokens[31..32], &tokens[32..50]];
    for architecture in Architecture::ALL {
        for tied in [true, false] {
            let (_, mut plain) = llama(&sizes(architecture, tied), 21, |_| WeightType::F32);
            // Theirs would else keep activations in f16.
            plain.set("general.dtype", u32_value(0));
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), plain.bytes()).unwrap();
            let theirs = theirs(architecture, file.path(), &chunks).unwrap();
            for (index, (a, b)) in ours(file.path(), &chunks).iter().zip(&theirs).enumerate() {
                let deviation = (b.iter().map(|x| x * x).sum::<f32>() / b.len() as f32).sqrt();
                let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                // Keys and values are kept in f16.
                assert!(worst < 0.005 * deviation, "{architecture:?}, chunk {index}: {worst} of {deviation}");
            }
        }
    }
}

#[test]
fn what_the_architecture_needs_is_asked_for_and_nothing_else_taken() {
    for (architecture, needed) in
        [(Architecture::QWEN2, "blk.1.attn_k.bias"), (Architecture::QWEN3, "blk.1.attn_q_norm.weight")]
    {
        let (_, plain) = llama(&sizes(architecture, true), 22, |_| WeightType::F32);
        let refusal = |sample: &crate::sample::Sample| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), sample.bytes()).unwrap();
            load(file.path(), card("smollm2-135m-instruct").unwrap(), &|_| {}).err().map(|e| e.to_string())
        };
        assert_eq!(refusal(&plain), None);
        let mut lacking = plain.clone();
        lacking.tensors.retain(|tensor| tensor.name != needed);
        lacking.place();
        assert!(refusal(&lacking).unwrap().contains(needed));
        let (_, mut other) = llama(&sizes(Architecture::LLAMA, true), 22, |_| WeightType::F32);
        other.tensors.extend(plain.tensors.iter().find(|tensor| tensor.name == needed).cloned());
        other.place();
        assert!(refusal(&other).unwrap().contains(needed));
    }
}

#[test]
fn the_last_token_makes_the_vector_in_every_architecture() {
    for architecture in Architecture::ALL {
        let (_, mut plain) = llama(&sizes(architecture, true), 23, |_| WeightType::F32);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.gguf");
        std::fs::write(&path, plain.bytes()).unwrap();
        let tokens: Vec<u32> = (0..40u32).map(|i| (i * 41 + 5) % VOCAB as u32).collect();
        let logits = ours(&path, &[&tokens]).remove(0);
        plain.set(&format!("{}.pooling_type", architecture.name), u32_value(3));
        std::fs::write(&path, plain.bytes()).unwrap();
        let embedder = load_encoder(&path, Card::from_file(&path).unwrap()).unwrap_or_else(|e| panic!("{e}"));
        let mut sequences = Sequences::new();
        sequences.push(&models::EncoderInput { tokens, type_ids: Vec::new() });
        let vector = embedder.encoder.encode(&sequences).unwrap().remove(0);
        // The head is the embedding, so the vector's products with its rows point where the logits do.
        let words = plain.tensors.iter().find(|tensor| tensor.name == "token_embd.weight").unwrap();
        let words: Vec<f32> =
            words.data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let products: Vec<f32> = words.chunks(vector.len()).map(|row| dot(row, &vector)).collect();
        let cosine = dot(&products, &logits) / (dot(&products, &products) * dot(&logits, &logits)).sqrt();
        assert!(cosine > 0.99999, "{architecture:?}: {cosine}");
    }
}
