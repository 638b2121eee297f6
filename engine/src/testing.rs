//! A tiny deterministic model without weights, for tests of this crate and of those above it.
//!
//! Its next token depends on every token of the context, read back through the block table from its own memory of
//! slots: a wrong page, a wrong slot or a wrongly shared block changes the output.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use candle_core::{Device, Result, Tensor};
use models::gguf::Header;
use models::{
    Architecture, Batch, Card, ChatTemplate, KvCache, Loaded, Model, ModelConfig, SamplingDefaults, Tokenizer,
};

use crate::{Engine, EngineConfig};

/// Tokens 0..256 are bytes; then three control tokens.
pub const VOCAB: usize = 259;
/// Ends a text.
pub const END_OF_TEXT: u32 = 256;
const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + \
     '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// What the fake model does.
#[derive(Clone, Debug)]
pub struct FakeModel {
    /// Time of one step.
    pub delay: Duration,
    /// Longest sequence.
    pub context_len: usize,
    /// One in so many tokens is the end of text; 0 = never.
    pub end_one_in: u64,
    /// The next token is the one so many positions before; a prompt of this length is repeated for ever.
    pub repeat: Option<usize>,
    /// Logits after this token are NaN.
    pub nan_after: Option<u32>,
    /// A step that contains this token panics.
    pub panic_on: Option<u32>,
    /// A step that contains this token fails.
    pub fail_on: Option<u32>,
}

impl Default for FakeModel {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            context_len: 4096,
            end_one_in: 0,
            repeat: None,
            nan_after: None,
            panic_on: None,
            fail_on: None,
        }
    }
}

impl FakeModel {
    /// An engine that runs this model.
    ///
    /// # Panics
    /// `config` is invalid.
    pub fn start(self, config: EngineConfig) -> Engine {
        Engine::start(self.loaded(), config).expect("the test's configuration is valid")
    }

    /// This model as if it came from a file.
    pub fn loaded(self) -> Loaded {
        let config = ModelConfig {
            architecture: Architecture::LLAMA,
            hidden: 8,
            layers: 1,
            heads: 1,
            kv_heads: 1,
            head_dim: 8,
            intermediate: 8,
            vocab: VOCAB,
            context_len: self.context_len,
            rms_eps: 1e-5,
            rope_theta: 10_000.0,
            rotary_dim: 8,
        };
        let template = ChatTemplate::new(TEMPLATE, "", CONTROL[0]).expect("the template is valid");
        Loaded {
            model: Box::new(Running { fake: self, config, slots: Mutex::new(Vec::new()) }),
            tokenizer: tokenizer(),
            template: Arc::new(template),
            card: card(),
        }
    }

    /// The token after `context`.
    pub fn next(&self, context: &[u32]) -> u32 {
        if let Some(period) = self.repeat.filter(|period| *period <= context.len()) {
            return context[context.len() - period];
        }
        let hash = context.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, token| {
            (hash ^ u64::from(*token)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
        });
        if self.end_one_in > 0 && hash % self.end_one_in == 0 {
            return END_OF_TEXT;
        }
        // Lower-case letters and, now and then, a space.
        match (hash >> 20) % 32 {
            letter @ 0..26 => u32::from(b'a') + letter as u32,
            _ => u32::from(b' '),
        }
    }

    /// What greedy sampling of `n` tokens after `prompt` gives; ends after an end of text.
    pub fn expected(&self, prompt: &[u32], n: usize) -> Vec<u32> {
        let mut context = prompt.to_vec();
        while context.len() < prompt.len() + n && context[prompt.len()..].last() != Some(&END_OF_TEXT) {
            context.push(self.next(&context));
        }
        context.split_off(prompt.len())
    }

    fn logits(&self, context: &[u32], out: &mut [f32]) {
        let next = self.next(context);
        for (token, logit) in out.iter_mut().enumerate() {
            *logit = -((token as u32 ^ next).trailing_zeros() as f32) / 8.0;
        }
        out[next as usize] = 6.0;
        if self.nan_after.is_some() && self.nan_after == context.last().copied() {
            out.fill(f32::NAN);
        }
    }
}

/// An engine that runs [`FakeModel::default`].
///
/// # Panics
/// `config` is invalid.
pub fn fake_engine(config: EngineConfig) -> Engine {
    FakeModel::default().start(config)
}

struct Running {
    fake: FakeModel,
    config: ModelConfig,
    /// The token stored in each slot of the cache.
    slots: Mutex<Vec<u32>>,
}

impl Model for Running {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn new_cache(&self, num_blocks: usize, block_size: usize) -> Result<KvCache> {
        *self.slots.lock().unwrap_or_else(PoisonError::into_inner) = vec![u32::MAX; num_blocks * block_size];
        Ok(KvCache::without_pages(num_blocks, block_size))
    }

    fn forward(&self, batch: &Batch, cache: &KvCache) -> Result<Tensor> {
        let begin = std::time::Instant::now();
        let present = |token: Option<u32>| token.is_some_and(|token| batch.token_ids.contains(&token));
        assert!(!present(self.fake.panic_on), "the fake model was told to panic");
        if present(self.fake.fail_on) {
            candle_core::bail!("the fake model was told to fail");
        }
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        for (token, slot) in batch.token_ids.iter().zip(&batch.attention.slot_mapping) {
            slots[*slot as usize] = *token;
        }
        let meta = &batch.attention;
        let mut logits = vec![0.0; batch.logits_at.len() * VOCAB];
        for (row, out) in batch.logits_at.iter().zip(logits.chunks_mut(VOCAB)) {
            let sequence = meta.query_start.partition_point(|start| start <= row) - 1;
            let table = &meta.block_table[sequence * meta.table_stride..];
            let read = |position: usize| {
                let page = table[position / cache.block_size] as usize;
                slots[page * cache.block_size + position % cache.block_size]
            };
            let context: Vec<u32> = (0..=meta.positions[*row as usize] as usize).map(read).collect();
            self.fake.logits(&context, out);
        }
        std::thread::sleep(self.fake.delay.saturating_sub(begin.elapsed()));
        Tensor::from_vec(logits, (batch.logits_at.len(), VOCAB), &Device::Cpu)
    }
}

fn card() -> Card {
    Card {
        kind: models::ModelKind::Chat,
        companions: Vec::new(),
        embedding: None,
        id: "fake".to_owned(),
        name: "Fake".to_owned(),
        sources: Vec::new(),
        file: "fake.gguf".to_owned(),
        sha256: String::new(),
        bytes: 0,
        context_len: None,
        sampling: SamplingDefaults::default(),
        tool_syntax: None,
        thinks: None,
        license: "Apache-2.0".to_owned(),
        owned_by: "spillway".to_owned(),
    }
}

/// A tokenizer whose tokens are bytes, so that a character may take several.
///
/// # Panics
/// Never: its vocabulary is fixed.
pub fn tokenizer() -> Arc<Tokenizer> {
    let bytes = tokenizer_header();
    let header = Header::parse(&bytes[..], bytes.len() as u64).expect("the header is well formed");
    Arc::new(Tokenizer::from_header(&header).expect("the vocabulary is complete"))
}

/// The metadata of a file with a byte-level vocabulary and no merges.
fn tokenizer_header() -> Vec<u8> {
    // The byte-level alphabet: printable Latin-1 stands for itself, the others for characters from U+0100 on.
    let is_printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut others = 256_u32..;
    let letters = (0..=255_u8).map(|byte| {
        let code = if is_printable(byte) { u32::from(byte) } else { others.next().unwrap_or(256) };
        char::from_u32(code).unwrap_or(' ').to_string()
    });
    let tokens: Vec<String> = letters.chain(CONTROL.map(str::to_owned)).collect();
    let mut out = b"GGUF".to_vec();
    let string = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let key = |out: &mut Vec<u8>, name: &str, value_type: u32| {
        string(out, &format!("tokenizer.ggml.{name}"));
        out.extend(value_type.to_le_bytes());
    };
    let array = |out: &mut Vec<u8>, item_type: u32, len: usize| {
        out.extend(item_type.to_le_bytes());
        out.extend((len as u64).to_le_bytes());
    };
    out.extend(3_u32.to_le_bytes());
    out.extend(0_u64.to_le_bytes());
    out.extend(5_u64.to_le_bytes());
    key(&mut out, "model", 8);
    string(&mut out, "gpt2");
    key(&mut out, "tokens", 9);
    array(&mut out, 8, tokens.len());
    tokens.iter().for_each(|token| string(&mut out, token));
    key(&mut out, "token_type", 9);
    array(&mut out, 5, tokens.len());
    (0..tokens.len()).for_each(|id| out.extend((if id < 256 { 1_i32 } else { 3 }).to_le_bytes()));
    key(&mut out, "merges", 9);
    array(&mut out, 8, 0);
    key(&mut out, "eos_token_id", 4);
    out.extend(END_OF_TEXT.to_le_bytes());
    out
}
