//! A card for a directory of weights that came without one.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::config::ConfigJson;
use super::{EncoderConfigError, EncoderLoadError, read};
use crate::card::{Card, EmbeddingCard, ModelKind, Pooling, SamplingDefaults, slug};
use crate::checkpoint::{ends, is_decoder};

/// `modules.json`: the layers of a sentence-transformers model.
#[derive(Deserialize)]
struct Module {
    r#type: String,
    path: String,
}

#[derive(Deserialize)]
struct PoolingJson {
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
    #[serde(default)]
    pooling_mode_lasttoken: bool,
}

/// `generation_config.json`: how a decoder wants to be sampled.
#[derive(Deserialize)]
struct GenerationJson {
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
}

#[derive(Deserialize)]
struct SentenceJson {
    max_seq_length: Option<usize>,
}

/// Makes a card from the files beside `path`. A network with a classifier of one label is a cross-encoder; any other is an
/// embedder, pooled as its sentence-transformers files say (mean and normalised without them).
///
/// # Errors
/// The files cannot be read, or ask for a pooling that is not offered.
pub(crate) fn card_of(path: &Path) -> Result<Card, EncoderLoadError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let bytes =
        path.metadata().map_err(|error| EncoderLoadError::Read { path: path.to_owned(), error })?.len();
    let card = Card {
        id: slug(&name),
        name,
        kind: ModelKind::Chat,
        sources: Vec::new(),
        file: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        sha256: String::new(),
        bytes,
        companions: Vec::new(),
        context_len: None,
        sampling: SamplingDefaults::default(),
        tool_syntax: None,
        thinks: None,
        embedding: None,
        license: "unknown".to_owned(),
        owned_by: "unknown".to_owned(),
    };
    if is_decoder(dir) {
        return decoder(dir, card);
    }
    let config: ConfigJson = parse(&read(&dir.join("config.json"))?)?;
    let classifies = config.architectures.iter().any(|name| name.ends_with("ForSequenceClassification"));
    let kind = if classifies { ModelKind::Rerank } else { ModelKind::Embedding };
    let limit = match optional::<SentenceJson>(&dir.join("sentence_bert_config.json"))? {
        Some(sentence) => sentence.max_seq_length,
        None => None,
    };
    Ok(Card {
        kind,
        context_len: Some(limit.unwrap_or(config.max_position_embeddings)),
        embedding: (kind == ModelKind::Embedding).then(|| embedding(dir)).transpose()?,
        ..card
    })
}

/// The card of a decoder: it continues texts, or embeds them where sentence-transformers files say how.
fn decoder(dir: &Path, card: Card) -> Result<Card, EncoderLoadError> {
    if dir.join("modules.json").is_file() {
        let embedding = Some(EmbeddingCard { append_eos: appends_eos(dir)?, ..embedding(dir)? });
        return Ok(Card { kind: ModelKind::Embedding, embedding, ..card });
    }
    let Some(said) = optional::<GenerationJson>(&dir.join("generation_config.json"))? else {
        return Ok(card);
    };
    let SamplingDefaults { temperature, top_p, top_k } = card.sampling;
    let sampling = SamplingDefaults {
        temperature: said.temperature.unwrap_or(temperature),
        top_p: said.top_p.unwrap_or(top_p),
        top_k: said.top_k.filter(|k| *k > 0).or(top_k),
    };
    Ok(Card { sampling, ..card })
}

/// Whether the tokenizer closes a text with a token.
fn appends_eos(dir: &Path) -> Result<bool, EncoderLoadError> {
    let json: serde_json::Value = parse(&read(&dir.join("tokenizer.json"))?)?;
    Ok(ends(&json["post_processor"]).1.is_some())
}

fn embedding(dir: &Path) -> Result<EmbeddingCard, EncoderLoadError> {
    let Some(modules) = optional::<Vec<Module>>(&dir.join("modules.json"))? else {
        return Ok(EmbeddingCard::default());
    };
    let ends = |module: &Module, name: &str| module.r#type.ends_with(name);
    if let Some(other) =
        modules.iter().find(|m| !["Transformer", "Pooling", "Normalize"].iter().any(|n| ends(m, n)))
    {
        return Err(unsupported("modules.json", other.r#type.clone()));
    }
    let pooling = match modules.iter().find(|module| ends(module, "Pooling")) {
        None => Pooling::Mean,
        Some(module) => {
            // The path is written by the model's author: only a plain name stays inside the directory.
            let plain = Path::new(&module.path).file_name().is_some_and(|name| name == module.path.as_str());
            if !plain {
                return Err(unsupported("modules.json", module.path.clone()));
            }
            let json: PoolingJson = parse(&read(&dir.join(&module.path).join("config.json"))?)?;
            match (json.pooling_mode_cls_token, json.pooling_mode_mean_tokens, json.pooling_mode_lasttoken) {
                (true, false, false) => Pooling::Cls,
                (false, true, false) => Pooling::Mean,
                (false, false, true) => Pooling::Last,
                _ => {
                    return Err(unsupported(
                        "pooling",
                        "another mode than one of cls, mean, last".to_owned(),
                    ));
                }
            }
        }
    };
    let normalize = modules.iter().any(|module| ends(module, "Normalize"));
    Ok(EmbeddingCard { pooling, normalize, ..EmbeddingCard::default() })
}

fn unsupported(field: &'static str, value: String) -> EncoderLoadError {
    EncoderConfigError::Field { field, value, reason: "not supported" }.into()
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, EncoderLoadError> {
    Ok(serde_json::from_slice(bytes).map_err(EncoderConfigError::from)?)
}

/// The file, if there is one.
fn optional<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, EncoderLoadError> {
    if path.is_file() { parse(&read(path)?).map(Some) } else { Ok(None) }
}
