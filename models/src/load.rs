//! Opening a model: header, configuration, tokenizer, template and weights, in that order of trust.

use std::path::Path;
use std::sync::{Arc, mpsc};

use crate::card::Card;
use crate::chat_template::{ChatTemplate, TemplateError};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::{ConfigError, ModelConfig};
use crate::cuda::CudaLlama;
use crate::dialect::Dialect;
use crate::gguf::{GgufError, GgufFile, Header};
use crate::llama::{Llama, rope_table};
use crate::model::Model;
use crate::place::Place;
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::weights::{TensorSource, WeightError, Weights};

/// A model that is ready to be served.
pub struct Loaded {
    /// The network.
    pub model: Box<dyn Model>,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template; a model without one gets a template that refuses every conversation.
    pub template: Arc<ChatTemplate>,
    /// The card it was loaded under.
    pub card: Card,
}

/// Why a model file was refused.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file's header.
    #[error("model file refused: {0}")]
    File(#[from] GgufError),
    /// The directory around a safetensors file.
    #[error("model directory refused: {0}")]
    Directory(#[from] CheckpointError),
    /// The configuration in it.
    #[error("model configuration refused: {0}")]
    Config(#[from] ConfigError),
    /// The tokenizer in it.
    #[error("tokenizer refused: {0}")]
    Tokenizer(#[from] TokenizerError),
    /// The chat template in it.
    #[error("chat template refused: {0}")]
    Template(#[from] TemplateError),
    /// Its weights.
    #[error("weights refused: {0}")]
    Weights(#[from] WeightError),
}

const NO_TEMPLATE: &str = "{{ raise_exception('this model has no chat template') }}";

/// Loads the model at `path`, a GGUF file, or a safetensors file with what Hugging Face's libraries write beside it;
/// `progress` gets the share of the weights that is done, from 0 to 1.
///
/// The served context is the smaller of the card's and the file's own.
///
/// # Errors
/// See [`LoadError`]; nothing is allocated on the word of a header that has not been checked.
pub fn load(path: &Path, card: Card, progress: &dyn Fn(f32)) -> Result<Loaded, LoadError> {
    load_on(path, card, &Place::Cpu, progress)
}

/// The same for a network that is to run on `place`.
///
/// # Errors
/// See [`LoadError`].
pub fn load_on(path: &Path, card: Card, place: &Place, progress: &dyn Fn(f32)) -> Result<Loaded, LoadError> {
    let (file, config) = open(path, card.context_len)?;
    let vocab = config.vocab;
    let total: usize = file.header().tensors.iter().map(|t| t.bytes).sum();
    let (sender, receiver) = mpsc::channel();
    let (text, model) = std::thread::scope(|scope| {
        let text = scope.spawn(|| load_text(file.header(), vocab));
        let model = scope.spawn(|| load_network(file.as_ref(), config, place, sender));
        let mut done = 0;
        for bytes in receiver {
            done += bytes;
            #[allow(clippy::cast_precision_loss)]
            progress(done as f32 / total.max(1) as f32);
        }
        (join(text), join(model))
    });
    let (tokenizer, mut template) = text?;
    let told = template.dialect();
    template.set_dialect(Dialect {
        tools: card.tool_syntax.unwrap_or(told.tools),
        thinks: card.thinks.unwrap_or(told.thinks),
        ..told
    });
    Ok(Loaded { model: model?, tokenizer: Arc::new(tokenizer), template: Arc::new(template), card })
}

/// The network and the tokenizer of a file whose texts are to become vectors.
pub(crate) fn open_llama(path: &Path, context_len: Option<usize>) -> Result<(Llama, Tokenizer), LoadError> {
    let (file, config) = open(path, context_len)?;
    let tokenizer = load_tokenizer(file.header(), config.vocab)?;
    let (progress, _done) = mpsc::channel();
    let weights = Weights::new(file.as_ref(), progress);
    let network = Llama::load(&weights, config)?;
    weights.finish()?;
    Ok((network, tokenizer))
}

/// The file and what its network is, cut to `context_len`.
fn open(path: &Path, context_len: Option<usize>) -> Result<(Box<dyn TensorSource>, ModelConfig), LoadError> {
    let file: Box<dyn TensorSource> = if is_safetensors(path) {
        Box::new(Checkpoint::open(path)?)
    } else {
        Box::new(GgufFile::open(path)?)
    };
    let mut config = ModelConfig::from_header(file.header())?;
    config.context_len = context_len.unwrap_or(config.context_len).min(config.context_len);
    config.architecture.interleaved_rope &= file.permutes_heads();
    Ok((file, config))
}

pub(crate) fn is_safetensors(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "safetensors")
}

fn join<T>(handle: std::thread::ScopedJoinHandle<T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn load_text(header: &Header, vocab: usize) -> Result<(Tokenizer, ChatTemplate), LoadError> {
    let tokenizer = load_tokenizer(header, vocab)?;
    let source = header.string("tokenizer.chat_template")?.unwrap_or(NO_TEMPLATE);
    let template = ChatTemplate::new(source, tokenizer.bos_text(), tokenizer.eos_text())?;
    template.probe()?;
    Ok((tokenizer, template))
}

fn load_tokenizer(header: &Header, vocab: usize) -> Result<Tokenizer, LoadError> {
    let tokenizer = Tokenizer::from_header(header)?;
    match tokenizer.vocab_size() {
        tokens if tokens == vocab => Ok(tokenizer),
        tokens => Err(TokenizerError::VocabSize { tokens, rows: vocab }.into()),
    }
}

fn load_network(
    file: &dyn TensorSource,
    config: ModelConfig,
    place: &Place,
    progress: mpsc::Sender<usize>,
) -> Result<Box<dyn Model>, LoadError> {
    let weights = Weights::new(file, progress);
    let model: Box<dyn Model> = match place {
        Place::Cpu => Box::new(Llama::load(&weights, config)?),
        Place::Cuda(device) => {
            let rope = rope_table(&weights, &config)?;
            Box::new(CudaLlama::load(&weights, config, &rope, device)?)
        }
    };
    weights.finish()?;
    Ok(model)
}
