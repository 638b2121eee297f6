//! Small files of Llama and its like with random weights, each with a twin that holds the same values as plain floats.

use half::{bf16, f16};
use kernels::{WeightType, dequantize};
use models::Architecture;

use crate::sample::{Sample, SampleTensor, f32_value, i32s_value, text_value, texts_value, u32_value};

/// Sizes of a network. Words are the printable characters, a space and an end.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pub(crate) architecture: Architecture,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) inner: usize,
    /// Whether the embedding serves as head.
    pub(crate) tied: bool,
}

/// Longest sequence.
pub(crate) const CONTEXT: u32 = 2048;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in -1..1, a value that bf16 holds.
    fn signed(&mut self) -> f32 {
        bf16::from_f32((self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0).to_f32()
    }
}

/// The file's number for a type.
fn type_id(ty: WeightType) -> u32 {
    match ty {
        WeightType::F32 => 0,
        WeightType::F16 => 1,
        WeightType::Q4_0 => 2,
        WeightType::Q4_1 => 3,
        WeightType::Q8_0 => 8,
        WeightType::Q4K => 12,
        WeightType::Q6K => 14,
        WeightType::BF16 => 30,
    }
}

/// `count` weights of about `scale`, as a file stores them.
fn weights(rng: &mut Rng, ty: WeightType, count: usize, scale: f32) -> Vec<u8> {
    let scale = bf16::from_f32(scale).to_f32();
    let mut out = Vec::new();
    for _ in 0..count / ty.block_len() {
        let value = bf16::from_f32(rng.signed() * scale).to_f32();
        match ty {
            WeightType::F32 => out.extend(value.to_le_bytes()),
            WeightType::F16 => out.extend(f16::from_f32(value).to_le_bytes()),
            WeightType::BF16 => out.extend(bf16::from_f32(value).to_le_bytes()),
            _ => {
                let begin = out.len();
                out.extend((0..ty.block_bytes()).map(|_| rng.next() as u8));
                // Scales of a block, and minimums: levels are centred.
                let (step, fields): (f32, &[(usize, f32)]) = match ty {
                    WeightType::Q4_0 => (scale / 8.0, &[(0, 1.0)]),
                    WeightType::Q4_1 => (scale / 8.0, &[(0, 1.0), (2, -7.5)]),
                    WeightType::Q8_0 => (scale / 128.0, &[(0, 1.0)]),
                    WeightType::Q4K => (scale / 256.0, &[(0, 1.0), (2, 7.5)]),
                    _ => (scale / 2048.0, &[(208, 1.0)]),
                };
                for (at, factor) in fields {
                    out[begin + at..][..2].copy_from_slice(&f16::from_f32(step * factor).to_le_bytes());
                }
            }
        }
    }
    out
}

/// A file whose matrices have the types that `ty` gives for their names, and its twin.
pub(crate) fn llama(sizes: &Sizes, seed: u64, ty: impl Fn(&str) -> WeightType) -> (Sample, Sample) {
    let Sizes { architecture, hidden, layers, heads, kv_heads, head_dim, inner, tied } = *sizes;
    let (q, kv, vocab) = (heads * head_dim, kv_heads * head_dim, words().len());
    let mut rng = Rng(seed);
    let mut tensors = Vec::new();
    let mut matrix = |name: String, rows: usize, cols: usize, gain: f32| {
        let data = weights(&mut rng, ty(&name), rows * cols, gain * (3.0 / cols as f32).sqrt());
        tensors.push((name, vec![cols as u64, rows as u64], data));
    };
    matrix("token_embd.weight".to_owned(), vocab, hidden, 1.0);
    if !tied {
        matrix("output.weight".to_owned(), vocab, hidden, 2.0);
    }
    for layer in 0..layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        matrix(name("attn_q"), q, hidden, 1.0);
        matrix(name("attn_k"), kv, hidden, 1.0);
        matrix(name("attn_v"), kv, hidden, 1.0);
        matrix(name("attn_output"), hidden, q, 1.0);
        matrix(name("ffn_gate"), inner, hidden, 1.0);
        matrix(name("ffn_up"), inner, hidden, 1.0);
        matrix(name("ffn_down"), hidden, inner, 1.0);
    }
    let (mut stored, mut plain) = (header(sizes), header(sizes));
    for (name, dims, data) in tensors {
        let ty = ty(&name);
        let mut values = vec![0.0; dims.iter().product::<u64>() as usize];
        dequantize(ty, &data, &mut values);
        let floats = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor =
            |type_id, data| SampleTensor { name: name.clone(), dims: dims.clone(), type_id, offset: 0, data };
        stored.tensors.push(tensor(type_id(ty), data));
        plain.tensors.push(tensor(0, floats));
    }
    let mut vector = |name: String, len: usize, middle: f32| {
        let data: Vec<u8> = (0..len).flat_map(|_| (middle + 0.2 * rng.signed()).to_le_bytes()).collect();
        for sample in [&mut stored, &mut plain] {
            let (name, dims, data) = (name.clone(), vec![len as u64], data.clone());
            sample.tensors.push(SampleTensor { name, dims, type_id: 0, offset: 0, data });
        }
    };
    vector("output_norm.weight".to_owned(), hidden, 1.0);
    for layer in 0..layers {
        let name = |part: &str| format!("blk.{layer}.{part}");
        vector(name("attn_norm.weight"), hidden, 1.0);
        vector(name("ffn_norm.weight"), hidden, 1.0);
        if architecture.qkv_bias {
            vector(name("attn_q.bias"), q, 0.0);
            vector(name("attn_k.bias"), kv, 0.0);
            vector(name("attn_v.bias"), kv, 0.0);
        }
        if architecture.head_norm {
            vector(name("attn_q_norm.weight"), head_dim, 1.0);
            vector(name("attn_k_norm.weight"), head_dim, 1.0);
        }
    }
    stored.place();
    plain.place();
    (stored, plain)
}

fn words() -> Vec<String> {
    ('!'..='~').map(String::from).chain(["Ġ".into(), "<end>".into()]).collect()
}

fn header(sizes: &Sizes) -> Sample {
    let words = words();
    let mut sample = Sample::empty();
    let architecture = sizes.architecture.name;
    sample.set("general.architecture", text_value(architecture));
    for (key, n) in [
        ("embedding_length", sizes.hidden),
        ("block_count", sizes.layers),
        ("attention.head_count", sizes.heads),
        ("attention.head_count_kv", sizes.kv_heads),
        ("attention.key_length", sizes.head_dim),
        ("attention.value_length", sizes.head_dim),
        ("rope.dimension_count", sizes.head_dim),
        ("feed_forward_length", sizes.inner),
        ("context_length", CONTEXT as usize),
    ] {
        sample.set(&format!("{architecture}.{key}"), u32_value(n as u32));
    }
    sample.set(&format!("{architecture}.attention.layer_norm_rms_epsilon"), f32_value(1e-5));
    sample.set(&format!("{architecture}.rope.freq_base"), f32_value(10_000.0));
    sample.set("tokenizer.ggml.model", text_value("gpt2"));
    sample.set("tokenizer.ggml.pre", text_value("gpt-2"));
    sample.set("tokenizer.ggml.tokens", texts_value(&words.iter().map(String::as_str).collect::<Vec<_>>()));
    let mut types = vec![1; words.len()];
    types[words.len() - 1] = 3;
    sample.set("tokenizer.ggml.token_type", i32s_value(&types));
    sample.set("tokenizer.ggml.merges", texts_value(&[]));
    sample.set("tokenizer.ggml.eos_token_id", u32_value(words.len() as u32 - 1));
    sample.set("tokenizer.chat_template", text_value("{{ messages[0].content }}<end>"));
    sample
}
