//! A decoder's directory as Hugging Face's libraries write it (`config.json`, `tokenizer.json`, safetensors), read as if it
//! were a GGUF file: its settings under GGUF's keys, its tensors under GGUF's names. What follows sees one kind of file.

mod settings;
mod tensors;
mod vocabulary;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::gguf::{Header, TensorInfo};
use crate::safetensors::SafetensorsError;
use crate::tokenizer::TokenizerError;
use crate::weights::TensorSource;

pub(crate) use settings::is_decoder;
pub(crate) use vocabulary::ends;

/// Largest of the small files: tokenizers of 250,000 words take 35 MB.
const MAX_JSON_BYTES: u64 = 128 << 20;

/// Most words, as in [`ModelConfig`](crate::ModelConfig).
const MAX_WORDS: usize = 1 << 20;

/// Why a directory was refused.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// A file is not the JSON it should be.
    #[error("{}: {error}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: serde_json::Error,
    },
    /// A weights file is no sound safetensors file.
    #[error("{}: {error}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: SafetensorsError,
    },
    /// A value that is not supported.
    #[error("{field} is {value}: {reason}")]
    Field {
        /// Which field, with the file it is in where that is not `config.json`.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The words.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

fn refused(field: &'static str, value: impl ToString, reason: &'static str) -> CheckpointError {
    CheckpointError::Field { field, value: value.to_string(), reason }
}

/// Where the bytes of a tensor are.
enum Place {
    /// In this one of the files.
    File(usize),
    /// Made from the settings.
    Made(Vec<u8>),
}

/// An open directory.
pub(crate) struct Checkpoint {
    header: Header,
    files: Vec<File>,
    places: HashMap<String, Place>,
}

impl Checkpoint {
    /// Opens the directory around `path`, one of its weights files, and checks all headers.
    pub(crate) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let config = settings::read(dir)?;
        let (files, mut tensors, mut places) = tensors::open(dir, path, &config)?;
        if let Some(factors) = settings::frequency_factors(&config)? {
            let (info, bytes) = tensors::made("rope_freqs.weight", &factors);
            places.insert(info.name.clone(), Place::Made(bytes));
            tensors.push(info);
        }
        let words = tensors.iter().find(|tensor| tensor.name == "token_embd.weight");
        let rows = words.map_or(0, TensorInfo::rows);
        if rows > MAX_WORDS {
            return Err(refused("the embedding's rows", rows, "1048576 are supported"));
        }
        let mut metadata = settings::metadata(&config)?;
        vocabulary::append(dir, rows, &mut metadata)?;
        Ok(Self { header: Header::new(metadata, tensors), files, places })
    }
}

impl TensorSource for Checkpoint {
    fn header(&self) -> &Header {
        &self.header
    }

    fn append_tensor(&self, tensor: &TensorInfo, out: &mut Vec<u8>) -> io::Result<()> {
        match &self.places[&tensor.name] {
            Place::Made(bytes) => out.extend_from_slice(bytes),
            Place::File(file) => {
                let start = out.len();
                out.resize(start + tensor.bytes, 0);
                self.files[*file].read_exact_at(&mut out[start..], tensor.offset)?;
            }
        }
        Ok(())
    }
}

/// The JSON file `name` of `dir`.
fn json<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<T, CheckpointError> {
    let path = dir.join(name);
    let bytes = bounded(&path)?;
    serde_json::from_slice(&bytes).map_err(|error| CheckpointError::Json { path, error })
}

/// The same, where there may be none.
fn optional<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<Option<T>, CheckpointError> {
    if dir.join(name).is_file() { json(dir, name).map(Some) } else { Ok(None) }
}

fn bounded(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_JSON_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_JSON_BYTES {
            return Err(io::Error::other(format!(
                "the file is larger than the limit of {MAX_JSON_BYTES} bytes"
            )));
        }
        Ok(bytes)
    };
    read().map_err(|error| CheckpointError::Read { path: path.to_owned(), error })
}
