//! The tokenizer of a model, built from the metadata of its file.
//!
//! The byte-pair encoder knows plain words only. Control tokens are recognised here, and only in text that the
//! operator's template wrote: what a caller writes is never anything but text.

mod build;
mod bytes;
mod control;
mod pre;
mod sentencepiece;

use std::ops::Range;

use crate::chat_template::Prompt;
use crate::gguf::{GgufError, Header};
use control::ControlTokens;
pub(crate) use pre::pre_name;

/// Why a tokenizer was refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The metadata is unreadable or incomplete.
    #[error(transparent)]
    Metadata(#[from] GgufError),
    /// A kind of tokenizer without an implementation.
    #[error("tokenizer.ggml.model {0:?} is not supported (supported: \"gpt2\", \"llama\")")]
    Model(String),
    /// A pre-tokenizer without an implementation.
    #[error("tokenizer.ggml.pre {found:?} is not supported (supported: {supported})")]
    PreTokenizer {
        /// The name found.
        found: String,
        /// The names known.
        supported: String,
    },
    /// An array whose length is not that of the vocabulary.
    #[error("{what} has {found} entries, expected {expected}")]
    Length {
        /// Which array.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The expected length.
        expected: usize,
    },
    /// The vocabulary and the embedding disagree.
    #[error("the vocabulary has {tokens} tokens, the embedding {rows} rows")]
    VocabSize {
        /// Tokens in the vocabulary.
        tokens: usize,
        /// Rows of the embedding.
        rows: usize,
    },
    /// A token that is no valid entry.
    #[error("token {id} ({text:?}): {reason}")]
    Token {
        /// Its id.
        id: usize,
        /// Its text.
        text: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A merge rule that is not two known tokens.
    #[error("merge {index} ({text:?}) is not two known tokens that make a third")]
    Merge {
        /// Its index.
        index: usize,
        /// Its text.
        text: String,
    },
    /// A special token id outside the vocabulary.
    #[error("{key} is {id}, the vocabulary has {vocab} tokens")]
    SpecialId {
        /// The metadata key.
        key: &'static str,
        /// The id.
        id: u64,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// No token ends a text.
    #[error("the model names no end-of-text token")]
    NoEnd,
    /// The encoder could not be built.
    #[error("the encoder cannot be built: {0}")]
    Build(String),
}

/// Why a text could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum TokenizeError {
    /// The encoder failed.
    #[error("the text cannot be encoded: {0}")]
    Encode(String),
    /// A prompt whose ranges do not lie inside its text.
    #[error("prompt range {start}..{end} is outside the text of {len} bytes")]
    Range {
        /// First byte of the range.
        start: usize,
        /// First byte after it.
        end: usize,
        /// Length of the text.
        len: usize,
    },
}

/// Text to tokens and back. Shared between threads.
pub struct Tokenizer {
    encoder: tokenizers::Tokenizer,
    control: ControlTokens,
    /// Bytes of all tokens back to back; token `i` is `bytes[starts[i]..starts[i + 1]]`.
    bytes: Vec<u8>,
    starts: Vec<u32>,
    is_control: Vec<bool>,
    eos_ids: Vec<u32>,
    bos_id: Option<u32>,
    adds_bos: bool,
    /// Whether a run of text is read as if a space stood before it.
    adds_space: bool,
    bos_text: String,
    eos_text: String,
    max_token_bytes: usize,
}

impl Tokenizer {
    /// Builds the tokenizer that `header` describes.
    ///
    /// # Errors
    /// See [`TokenizerError`].
    pub fn from_header(header: &Header) -> Result<Self, TokenizerError> {
        build::build(header)
    }

    /// Encodes plain text. Control tokens are never produced, whatever the text says.
    ///
    /// # Errors
    /// The encoder fails.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, TokenizeError> {
        let mut ids = Vec::new();
        self.encode_run(text, &mut ids)?;
        Ok(ids)
    }

    /// Encodes a rendered conversation. Control strings become control tokens where not one of their bytes is
    /// the caller's; everything between two of them is encoded whole, as if it were one plain text.
    ///
    /// # Errors
    /// The encoder fails, or a range lies outside the text.
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, TokenizeError> {
        let mut ids = Vec::new();
        let mut at = 0;
        for (Range { start, end }, id) in self.control.find(&prompt.text, &prompt.user_ranges)? {
            self.encode_run(&prompt.text[at..start], &mut ids)?;
            ids.push(id);
            at = end;
        }
        self.encode_run(&prompt.text[at..], &mut ids)?;
        Ok(ids)
    }

    fn encode_run(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizeError> {
        if text.is_empty() {
            return Ok(());
        }
        let spaced = self.adds_space.then(|| format!(" {text}"));
        let encoding = self.encoder.encode_fast(spaced.as_deref().unwrap_or(text), false);
        ids.extend_from_slice(encoding.map_err(|e| TokenizeError::Encode(e.to_string()))?.get_ids());
        Ok(())
    }

    /// The bytes a token stands for; empty for an id outside the vocabulary. Control tokens give their name.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        match self.starts.get(id..id.saturating_add(2)) {
            Some(&[start, end]) => &self.bytes[start as usize..end as usize],
            _ => &[],
        }
    }

    /// Whether the token steers the model and is no text.
    pub fn is_control(&self, id: u32) -> bool {
        self.is_control.get(id as usize).copied().unwrap_or(false)
    }

    /// Tokens that end an answer; never empty.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// The token that a template knows as `eos_token`.
    pub fn end_id(&self) -> u32 {
        let mut ids = self.eos_ids.iter().copied();
        ids.find(|id| self.token_bytes(*id) == self.eos_text.as_bytes()).unwrap_or(self.eos_ids[0])
    }

    /// The token that opens a text, where the model wants one before plain (untemplated) text.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id.filter(|_| self.adds_bos)
    }

    /// What a template knows as `bos_token`.
    pub fn bos_text(&self) -> &str {
        &self.bos_text
    }

    /// What a template knows as `eos_token`.
    pub fn eos_text(&self) -> &str {
        &self.eos_text
    }

    /// Number of token ids.
    pub fn vocab_size(&self) -> usize {
        self.is_control.len()
    }

    /// Bytes of the longest token that text can become.
    pub fn max_token_bytes(&self) -> usize {
        self.max_token_bytes
    }

    /// A lower bound for the number of tokens of `bytes` bytes of text: refuses a huge prompt without encoding
    /// it. Text of bytes that the vocabulary lacks (control characters in some models) may fall below it.
    pub fn min_tokens(&self, bytes: usize) -> usize {
        bytes.div_ceil(self.max_token_bytes)
    }
}
