//! Models that turn whole texts into vectors: embedders, and cross-encoders that score a pair of texts.
//!
//! They read a directory as the Hugging Face libraries write it: weights in safetensors, `config.json` and
//! `tokenizer.json` beside them; or one GGUF file with a decoder, whose last token's row is the vector. Unlike a generating [`crate::Model`] an encoder sees each text as a whole, in one pass,
//! and leaves nothing behind.

mod bert;
mod config;
mod last;
mod local;
mod tokenizer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Result;

use crate::card::{Card, ModelKind};
use crate::checkpoint::is_decoder;
use crate::load::LoadError;
use crate::safetensors::{SafetensorsError, TensorFile};
use crate::weights::WeightError;
pub use config::{EncoderConfig, EncoderConfigError, Head};
pub(crate) use local::card_of;
pub use tokenizer::{EncoderInput, EncoderTokenizer, EncoderTokenizerError};

/// Whole sequences back to back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequences {
    /// Token ids, `t` of them.
    pub token_ids: Vec<u32>,
    /// Segment of each token: 0, or 1 in the second text of a pair.
    pub type_ids: Vec<u32>,
    /// Sequence `i` has the tokens `starts[i]..starts[i + 1]`; begins with 0 and ends with `t`.
    pub starts: Vec<u32>,
}

impl Sequences {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { starts: vec![0], ..Self::default() }
    }

    /// Appends a sequence.
    pub fn push(&mut self, input: &EncoderInput) {
        self.token_ids.extend_from_slice(&input.tokens);
        self.type_ids.extend_from_slice(&input.type_ids);
        self.type_ids.resize(self.token_ids.len(), 0);
        self.starts.push(u32::try_from(self.token_ids.len()).unwrap_or(u32::MAX));
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A loaded encoder. It holds no state between calls.
pub trait Encoder: Send {
    /// Sizes and constants of the network.
    fn config(&self) -> &EncoderConfig;

    /// Runs all sequences in one pass: for each the pooled vector of an embedder, or the one logit of a cross-encoder.
    /// A sequence's result does not depend on the others, bit for bit.
    ///
    /// # Errors
    /// A token id outside the vocabulary, a sequence that is empty or longer than the positions, or offsets that
    /// contradict the tokens.
    fn encode(&self, sequences: &Sequences) -> Result<Vec<Vec<f32>>>;
}

/// An encoder that is ready to be served.
pub struct LoadedEncoder {
    /// The network.
    pub encoder: Box<dyn Encoder>,
    /// Its tokenizer.
    pub tokenizer: Arc<EncoderTokenizer>,
    /// The card it was loaded under.
    pub card: Card,
}

/// Why an encoder was refused.
#[derive(Debug, thiserror::Error)]
pub enum EncoderLoadError {
    /// A companion of the weights cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: std::io::Error,
    },
    /// The weight file.
    #[error("model file refused: {0}")]
    File(#[from] SafetensorsError),
    /// The configuration beside it.
    #[error("config.json refused: {0}")]
    Config(#[from] EncoderConfigError),
    /// The tokenizer beside it.
    #[error("tokenizer.json refused: {0}")]
    Tokenizer(#[from] EncoderTokenizerError),
    /// Its weights.
    #[error("weights refused: {0}")]
    Weights(#[from] WeightError),
    /// The decoder that is to embed.
    #[error(transparent)]
    Decoder(#[from] LoadError),
    /// The card says something else than the files.
    #[error("the card's kind is {0:?}, which is no encoder")]
    Kind(ModelKind),
}

/// Loads the encoder whose weights are at `path`: a GGUF file by itself, any other with `config.json` and `tokenizer.json`
/// from the same directory. Either may be a decoder whose last token makes the vector.
///
/// # Errors
/// See [`EncoderLoadError`].
pub fn load_encoder(path: &Path, card: Card) -> std::result::Result<LoadedEncoder, EncoderLoadError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    if path.extension().is_some_and(|extension| extension == "gguf") || is_decoder(dir) {
        return last::load(path, card);
    }
    let config = EncoderConfig::from_json(&read(&path.with_file_name("config.json"))?, &card)?;
    let tokenizer_json = read(&path.with_file_name("tokenizer.json"))?;
    let (tokenizer, encoder) = std::thread::scope(|scope| {
        let tokenizer = scope.spawn(|| EncoderTokenizer::from_json(&tokenizer_json, config.vocab));
        let encoder = TensorFile::open(path)
            .map_err(EncoderLoadError::from)
            .and_then(|file| Ok(bert::Bert::load(file, config.clone())?));
        let tokenizer = tokenizer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (tokenizer, encoder)
    });
    Ok(LoadedEncoder { encoder: Box::new(encoder?), tokenizer: Arc::new(tokenizer?), card })
}

fn read(path: &Path) -> std::result::Result<Vec<u8>, EncoderLoadError> {
    std::fs::read(path).map_err(|error| EncoderLoadError::Read { path: path.to_owned(), error })
}

/// Brings a vector to length 1; one of zeros stays as it is.
pub fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
    }
}
