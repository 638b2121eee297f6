//! The tokenizer of an encoder, from its `tokenizer.json` or that of a decoder.

use std::sync::Arc;

use tokenizers::PostProcessor;

use crate::decoder::Decoder;
use crate::tokenizer::Tokenizer;

/// Why a tokenizer was refused.
#[derive(Debug, thiserror::Error)]
pub enum EncoderTokenizerError {
    /// Not a tokenizer.
    #[error("it cannot be read: {0}")]
    Read(String),
    /// The vocabulary does not fit the embedding.
    #[error("it has token ids up to {highest}, the model {rows} rows")]
    VocabSize {
        /// Highest id.
        highest: u32,
        /// Rows of the embedding.
        rows: usize,
    },
    /// A text could not be encoded.
    #[error("the text cannot be encoded: {0}")]
    Encode(String),
}

/// One text, or a pair of texts, as the model takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncoderInput {
    /// Token ids, those around the text included.
    pub tokens: Vec<u32>,
    /// Segment of each token; empty where all are in the first.
    pub type_ids: Vec<u32>,
}

/// Text to tokens. Shared between threads.
pub struct EncoderTokenizer {
    words: Words,
    vocab: usize,
    around_one: usize,
}

enum Words {
    OfFile(Box<tokenizers::Tokenizer>),
    /// With the tokens that go before and after a text.
    OfDecoder {
        tokenizer: Arc<Tokenizer>,
        before: Option<u32>,
        after: Option<u32>,
    },
}

impl EncoderTokenizer {
    /// Reads a `tokenizer.json` for a model of `rows` words. Truncation and padding that the file asks for are switched
    /// off: a text is taken whole or refused.
    ///
    /// # Errors
    /// See [`EncoderTokenizerError`].
    pub fn from_json(json: &[u8], rows: usize) -> Result<Self, EncoderTokenizerError> {
        let unreadable = |e: tokenizers::Error| EncoderTokenizerError::Read(e.to_string());
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(unreadable)?;
        inner.with_truncation(None).map_err(unreadable)?;
        inner.with_padding(None);
        // What a caller writes is never anything but text: "[SEP]" in a text is five characters, no separator.
        inner.set_encode_special_tokens(true);
        let highest = inner.get_vocab(true).into_values().max().unwrap_or(0);
        if highest as usize >= rows {
            return Err(EncoderTokenizerError::VocabSize { highest, rows });
        }
        let around_one = inner.get_post_processor().map_or(0, |p| p.added_tokens(false));
        Ok(Self { words: Words::OfFile(Box::new(inner)), vocab: rows, around_one })
    }

    /// That of a decoder, which may want its end-of-text token after a text.
    pub(super) fn of_decoder(tokenizer: Tokenizer, append_eos: bool) -> Self {
        let (before, after) = (tokenizer.bos_id(), append_eos.then(|| tokenizer.end_id()));
        let around_one = before.iter().chain(&after).count();
        let vocab = tokenizer.vocab_size();
        Self { words: Words::OfDecoder { tokenizer: Arc::new(tokenizer), before, after }, vocab, around_one }
    }

    /// Encodes one text, with the tokens that the model wants around it.
    ///
    /// # Errors
    /// The encoder fails.
    pub fn encode(&self, text: &str) -> Result<EncoderInput, EncoderTokenizerError> {
        match &self.words {
            Words::OfFile(inner) => run(inner, text),
            Words::OfDecoder { tokenizer, before, after } => {
                let text = tokenizer.encode_text(text).map_err(failed)?;
                let tokens = before.iter().chain(&text).chain(after).copied().collect();
                Ok(EncoderInput { tokens, type_ids: Vec::new() })
            }
        }
    }

    /// Encodes two texts for a cross-encoder.
    ///
    /// # Errors
    /// The encoder fails.
    pub fn encode_pair(&self, first: &str, second: &str) -> Result<EncoderInput, EncoderTokenizerError> {
        match &self.words {
            Words::OfFile(inner) => run(inner, (first, second)),
            Words::OfDecoder { .. } => Err(failed("this model reads one text at a time")),
        }
    }

    /// Text of tokens, without those that are no text. What the encoder threw away (case, accents, runs of spaces) does
    /// not come back.
    ///
    /// # Errors
    /// The decoder fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, EncoderTokenizerError> {
        match &self.words {
            Words::OfFile(inner) => inner.decode(tokens, true).map_err(failed),
            Words::OfDecoder { tokenizer, .. } => {
                let mut decoder = Decoder::new(Arc::clone(tokenizer));
                let text: String = tokens.iter().map(|token| decoder.push(*token)).collect();
                Ok(text + &decoder.finish())
            }
        }
    }

    /// The token as the vocabulary writes it.
    pub fn token_text(&self, id: u32) -> Option<String> {
        match &self.words {
            Words::OfFile(inner) => inner.id_to_token(id),
            Words::OfDecoder { tokenizer, .. } => {
                let is_known = (id as usize) < tokenizer.vocab_size();
                is_known.then(|| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned())
            }
        }
    }

    /// Number of token ids.
    pub fn vocab_size(&self) -> usize {
        self.vocab
    }

    /// Tokens that are put around one text.
    pub fn around_one(&self) -> usize {
        self.around_one
    }
}

fn run<'s>(
    inner: &tokenizers::Tokenizer,
    input: impl Into<tokenizers::EncodeInput<'s>> + Send,
) -> Result<EncoderInput, EncoderTokenizerError> {
    let encoding = inner.encode_fast(input, true).map_err(failed)?;
    let type_ids = encoding.get_type_ids();
    let type_ids = if type_ids.iter().all(|id| *id == 0) { Vec::new() } else { type_ids.to_vec() };
    Ok(EncoderInput { tokens: encoding.get_ids().to_vec(), type_ids })
}

fn failed(error: impl std::fmt::Display) -> EncoderTokenizerError {
    EncoderTokenizerError::Encode(error.to_string())
}
