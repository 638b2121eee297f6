//! Strict reader of safetensors files: nothing is allocated on the word of a header that has not been checked.
//!
//! The header's own crate checks types, overflow and that the tensors lie back to back; here its size is bounded first, and
//! the file must end where the last tensor does.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor};
use kernels::{PackedMatrix, WeightType};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::weights::WeightError;

/// Largest header: some hundred bytes a tensor, and no known model has a hundred thousand.
const MAX_HEADER_BYTES: u64 = 16 << 20;
const LENGTH_BYTES: u64 = 8;

/// Why a file was refused.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    /// Files.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The header is larger than the limit or the file.
    #[error("the header has {bytes} bytes, more than the limit of {limit} or the file")]
    HeaderLength {
        /// Length it claims.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// No valid header.
    #[error("the header cannot be read: {0}")]
    Header(#[from] serde_json::Error),
    /// The tensors do not end where the file does.
    #[error("the tensors end at byte {expected}, the file at byte {found}")]
    FileLength {
        /// Length of the file.
        found: u64,
        /// Length that the header asks for.
        expected: u64,
    },
}

/// The tensors of one file; may be used from several threads.
#[derive(Debug)]
pub struct TensorFile {
    file: File,
    data_start: u64,
    metadata: Metadata,
    used: Mutex<HashSet<String>>,
}

impl TensorFile {
    /// Opens a file and checks its header.
    ///
    /// # Errors
    /// See [`SafetensorsError`].
    pub fn open(path: &Path) -> Result<Self, SafetensorsError> {
        let mut file = File::open(path)?;
        let found = file.metadata()?.len();
        let mut length = [0; LENGTH_BYTES as usize];
        file.read_exact(&mut length)?;
        let bytes = u64::from_le_bytes(length);
        if bytes > MAX_HEADER_BYTES || bytes > found - LENGTH_BYTES {
            return Err(SafetensorsError::HeaderLength { bytes, limit: MAX_HEADER_BYTES });
        }
        let mut header = vec![0; usize::try_from(bytes).expect("at most MAX_HEADER_BYTES")];
        file.read_exact(&mut header)?;
        let metadata: Metadata = serde_json::from_slice(&header)?;
        let data_start = LENGTH_BYTES + bytes;
        let expected = data_start.saturating_add(metadata.data_len() as u64);
        if expected != found {
            return Err(SafetensorsError::FileLength { found, expected });
        }
        Ok(Self { file, data_start, metadata, used: Mutex::default() })
    }

    /// All tensors by name.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (String, &TensorInfo)> {
        self.metadata.offset_keys().into_iter().filter_map(|name| {
            let info = self.metadata.info(&name)?;
            Some((name, info))
        })
    }

    /// Where the tensors' offsets count from.
    pub(crate) fn data_start(&self) -> u64 {
        self.data_start
    }

    pub(crate) fn into_file(self) -> File {
        self.file
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.metadata.info(name).is_some()
    }

    /// Matrices over the same input, stacked by rows; each is `rows x cols`.
    pub(crate) fn matrix(
        &self,
        parts: &[(&str, usize)],
        cols: usize,
    ) -> Result<Arc<PackedMatrix>, WeightError> {
        let first = self.info(parts[0].0, &[parts[0].1, cols])?.0;
        let mut bytes = Vec::new();
        for (name, rows) in parts {
            let (ty, info) = self.info(name, &[*rows, cols])?;
            if ty != first {
                return Err(WeightError::Type {
                    name: (*name).to_owned(),
                    found: format!("{:?}", info.dtype),
                });
            }
            self.append(name, info, &mut bytes)?;
        }
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        match PackedMatrix::pack(first, rows, cols, &bytes) {
            Ok(matrix) => Ok(Arc::new(matrix)),
            Err(error) => Err(WeightError::Pack { name: parts[0].0.to_owned(), error }),
        }
    }

    /// The values of a tensor of this shape, as f32; all finite.
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
        let (ty, info) = self.info(name, shape)?;
        let mut bytes = Vec::new();
        self.append(name, info, &mut bytes)?;
        let mut values = vec![0.0; shape.iter().product()];
        kernels::dequantize(ty, &bytes, &mut values);
        if values.iter().all(|v| v.is_finite()) {
            Ok(values)
        } else {
            Err(WeightError::Value(name.to_owned()))
        }
    }

    /// Vectors of the same length one after the other, as a tensor `[names.len(), len]`, or `[len]` for a single one.
    pub(crate) fn vectors(&self, names: &[&str], len: usize) -> Result<Tensor, WeightError> {
        let mut values = Vec::with_capacity(names.len() * len);
        for name in names {
            values.extend(self.values(name, &[len])?);
        }
        Ok(match names.len() {
            1 => Tensor::from_vec(values, len, &Device::Cpu)?,
            count => Tensor::from_vec(values, (count, len), &Device::Cpu)?,
        })
    }

    /// Fails if there is a tensor that nobody took and that does not pass `is_known`.
    pub(crate) fn finish(self, is_known: impl Fn(&str) -> bool) -> Result<(), WeightError> {
        let used = self.used.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut left: Vec<String> = self
            .metadata
            .offset_keys()
            .into_iter()
            .filter(|name| !used.contains(name) && !is_known(name))
            .collect();
        left.sort();
        left.into_iter().next().map_or(Ok(()), |name| Err(WeightError::Unused(name)))
    }

    fn info(&self, name: &str, shape: &[usize]) -> Result<(WeightType, &TensorInfo), WeightError> {
        let info = self.metadata.info(name).ok_or_else(|| WeightError::Missing(name.to_owned()))?;
        if info.shape != shape {
            let reversed = |dims: &[usize]| dims.iter().rev().copied().collect();
            let (found, expected) = (reversed(&info.shape), reversed(shape));
            return Err(WeightError::Shape { name: name.to_owned(), found, expected });
        }
        match info.dtype {
            Dtype::F32 => Ok((WeightType::F32, info)),
            Dtype::F16 => Ok((WeightType::F16, info)),
            Dtype::BF16 => Ok((WeightType::BF16, info)),
            other => Err(WeightError::Type { name: name.to_owned(), found: format!("{other:?}") }),
        }
    }

    fn append(&self, name: &str, info: &TensorInfo, out: &mut Vec<u8>) -> Result<(), WeightError> {
        let (from, to) = info.data_offsets;
        let start = out.len();
        out.resize(start + to - from, 0);
        self.file
            .read_exact_at(&mut out[start..], self.data_start + from as u64)
            .map_err(|error| WeightError::Read { name: name.to_owned(), error })?;
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        Ok(())
    }
}
