//! `tokenizer.json` and what lies beside it, under GGUF's keys.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value as Json;

use super::{CheckpointError, bounded, json, optional, refused};
use crate::gguf::{NumberArray, StringArray, Value};
use crate::tokenizer::pre_name;

/// GGUF's numbers for what a token is.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

#[derive(Deserialize)]
struct TokenizerJson {
    model: Bpe,
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Json,
    #[serde(default)]
    pre_tokenizer: Json,
    #[serde(default)]
    post_processor: Json,
}

#[derive(Deserialize)]
struct Bpe {
    r#type: Option<String>,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
    unk_token: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Joined(String),
}

impl Merge {
    fn joined(&self) -> String {
        match self {
            Self::Pair(left, right) => format!("{left} {right}"),
            Self::Joined(text) => text.clone(),
        }
    }
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    #[serde(default)]
    add_bos_token: Option<bool>,
    #[serde(default)]
    bos_token: Json,
    #[serde(default)]
    eos_token: Json,
    #[serde(default)]
    chat_template: Json,
}

/// Adds the vocabulary of `dir`, filled up to `rows` with words that nothing spells, and the chat template.
pub(super) fn append(
    dir: &Path,
    rows: usize,
    metadata: &mut BTreeMap<String, Value>,
) -> Result<(), CheckpointError> {
    let file: TokenizerJson = json(dir, "tokenizer.json")?;
    let config: TokenizerConfig = optional(dir, "tokenizer_config.json")?.unwrap_or_default();
    let model = &file.model;
    if model.r#type.as_deref().is_some_and(|ty| ty != "BPE") {
        return Err(refused(
            "model.type of tokenizer.json",
            format!("{:?}", model.r#type),
            "only \"BPE\" is supported",
        ));
    }
    let words = words(&file, rows)?;
    let mut set = |key: &str, value| metadata.insert(format!("tokenizer.ggml.{key}"), value);
    if model.byte_fallback {
        set("model", Value::String("llama".to_owned()));
        set("scores", Value::Numbers(scores(model, &words)));
        set("add_space_prefix", Value::Bool(adds_space(&file)));
    } else {
        set("model", Value::String("gpt2".to_owned()));
        set("pre", Value::String(pre_name(&file.pre_tokenizer)?.to_owned()));
        let merges: Vec<String> = model.merges.iter().map(Merge::joined).collect();
        set("merges", Value::Strings(merges.iter().map(String::as_str).collect()));
    }
    set("tokens", Value::Strings(words.iter().map(|word| word.0.as_str()).collect::<StringArray>()));
    set("token_type", Value::Numbers(NumberArray::from_i32s(words.iter().map(|word| word.1))));
    let id_of = |token: &Json| {
        let text = token.as_str().or_else(|| token["content"].as_str())?;
        words.iter().position(|word| word.0 == text)
    };
    for (key, token) in [("bos_token_id", &config.bos_token), ("eos_token_id", &config.eos_token)] {
        if let Some(id) = id_of(token) {
            set(key, Value::Unsigned(id as u64));
        }
    }
    let (opening, closing) = ends(&file.post_processor);
    // What closes a text is what an embedder reads last, whatever ends an answer.
    if let Some(id) = closing.and_then(|text| id_of(&Json::String(text))) {
        set("eos_token_id", Value::Unsigned(id as u64));
    }
    set("add_bos_token", Value::Bool(config.add_bos_token.unwrap_or(opening)));
    if let Some(template) = template(dir, &config.chat_template)? {
        metadata.insert("tokenizer.chat_template".to_owned(), Value::String(template));
    }
    Ok(())
}

/// Whether the `post_processor` of a `tokenizer.json` opens a text with a token, and the token that it closes one with.
pub(crate) fn ends(post_processor: &Json) -> (bool, Option<String>) {
    let steps = post_processor["processors"].as_array().into_iter().flatten();
    let template = steps.chain([post_processor]).find_map(|step| step["single"].as_array());
    let special = |piece: Option<&Json>| Some(piece?["SpecialToken"]["id"].as_str()?.to_owned());
    let pieces = template.map_or(&[][..], Vec::as_slice);
    (special(pieces.first()).is_some(), special(pieces.last()))
}

/// Text and kind of each id below `rows`.
fn words(file: &TokenizerJson, rows: usize) -> Result<Vec<(String, i32)>, CheckpointError> {
    let mut words: Vec<(String, i32)> = (0..rows).map(|id| (format!("[PAD{id}]"), UNUSED)).collect();
    let mut put = |id: u32, text: &str, kind| match words.get_mut(id as usize) {
        // Of two words with one id the text would decide by chance which is meant.
        Some(word) if word.1 != UNUSED && word.0 != text => {
            Err(refused("a token's id in tokenizer.json", id, "two words have it"))
        }
        Some(word) => {
            *word = (text.to_owned(), kind);
            Ok(())
        }
        None => Err(refused("a token's id in tokenizer.json", id, "not below the embedding's rows")),
    };
    for (text, id) in &file.model.vocab {
        let is_byte = file.model.byte_fallback && text.len() == 6 && text.starts_with("<0x");
        let kind = if is_byte { BYTE } else { NORMAL };
        put(*id, text, kind)?;
    }
    for added in &file.added_tokens {
        let is_unknown = file.model.unk_token.as_ref() == Some(&added.content);
        let kind = match added.special {
            true if is_unknown => UNKNOWN,
            true => CONTROL,
            false => USER_DEFINED,
        };
        put(added.id, &added.content, kind)?;
    }
    Ok(words)
}

/// A score for each word, so that the pair of the earliest rule has the highest.
fn scores(model: &Bpe, words: &[(String, i32)]) -> NumberArray {
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (rank, merge) in model.merges.iter().enumerate() {
        ranks.entry(merge.joined().replacen(' ', "", 1)).or_insert(rank);
    }
    let score = |word: &(String, i32)| match ranks.get(&word.0) {
        Some(rank) => -(*rank as f32),
        None => -(model.merges.len() as f32),
    };
    NumberArray::from_f32s(words.iter().map(score))
}

/// Whether a text is read as if a space stood before it.
fn adds_space(file: &TokenizerJson) -> bool {
    let steps = |json: &Json, list: &str| match json[list].as_array() {
        Some(steps) => steps.clone(),
        None => vec![json.clone()],
    };
    let prepends = |step: &Json| step["type"] == "Prepend";
    let metaspace = |step: &Json| {
        step["type"] == "Metaspace"
            && step["prepend_scheme"] != "never"
            && step["add_prefix_space"] != Json::Bool(false)
    };
    steps(&file.normalizer, "normalizers").iter().any(prepends)
        || steps(&file.pre_tokenizer, "pretokenizers").iter().any(metaspace)
}

/// The template in a file of its own, or in the configuration: one, or one of several by name.
fn template(dir: &Path, configured: &Json) -> Result<Option<String>, CheckpointError> {
    let path = dir.join("chat_template.jinja");
    if path.is_file() {
        return Ok(Some(String::from_utf8_lossy(&bounded(&path)?).into_owned()));
    }
    let named = configured.as_array().into_iter().flatten().find(|one| one["name"] == "default");
    let text = configured.as_str().or_else(|| named.and_then(|one| one["template"].as_str()));
    Ok(text.map(str::to_owned))
}
