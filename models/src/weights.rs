//! From tensors in a file to packed matrices: shapes are checked, every tensor has to be used.

use std::collections::HashSet;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use kernels::{PackedMatrix, WeightType};

use crate::gguf::{Header, TensorInfo};
use crate::layers::Linear;

/// Why the weights could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// A tensor that the architecture needs is absent.
    #[error("tensor {0:?} is missing")]
    Missing(String),
    /// A tensor of another shape than the configuration asks for.
    #[error("tensor {name:?} has shape {found:?}, expected {expected:?} (fastest dimension first)")]
    Shape {
        /// The tensor.
        name: String,
        /// Its dimensions.
        found: Vec<usize>,
        /// The expected dimensions.
        expected: Vec<usize>,
    },
    /// A tensor of a type that is not supported here, or not that of its neighbours.
    #[error("tensor {name:?} has type {found}, expected F32, F16 or BF16, and the same in stacked matrices")]
    Type {
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// A tensor that this architecture knows nothing of: ignoring it would give wrong answers silently.
    #[error("tensor {0:?} is not part of this architecture as implemented")]
    Unused(String),
    /// A vector holds a value that is not finite, or a frequency factor that is not positive.
    #[error("tensor {0:?} holds a value that is not finite, or not positive where it has to be")]
    Value(String),
    /// The bytes could not be read.
    #[error("cannot read tensor {name:?}: {error}")]
    Read {
        /// The tensor.
        name: String,
        /// The cause.
        error: std::io::Error,
    },
    /// The bytes could not be packed.
    #[error("cannot pack tensor {name:?}: {error}")]
    Pack {
        /// The (first) tensor.
        name: String,
        /// The cause.
        error: kernels::PackError,
    },
    /// A device could not take them.
    #[error(transparent)]
    Device(#[from] kernels::cuda::CudaError),
    /// A tensor could not be built.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// A network's file, or files, as GGUF would describe them.
pub(crate) trait TensorSource: Send + Sync {
    fn header(&self) -> &Header;

    /// Whether q and k are stored in the order that rotation of neighbouring pairs needs, where the architecture has it.
    fn permutes_heads(&self) -> bool {
        false
    }

    /// Appends the bytes of `tensor`, one of the header's, to `out`.
    fn append_tensor(&self, tensor: &TensorInfo, out: &mut Vec<u8>) -> std::io::Result<()>;
}

/// Hands out the tensors of one file; may be used from several threads.
pub(crate) struct Weights<'a> {
    file: &'a dyn TensorSource,
    used: Mutex<HashSet<String>>,
    progress: Mutex<Sender<usize>>,
}

impl<'a> Weights<'a> {
    /// `progress` gets the bytes of every tensor taken.
    pub(crate) fn new(file: &'a dyn TensorSource, progress: Sender<usize>) -> Self {
        Self { file, used: Mutex::default(), progress: Mutex::new(progress) }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.file.header().tensor(name).is_some()
    }

    /// Appends the matrix `name`, `rows` x `cols`, as the file stores it, and tells how that is.
    pub(crate) fn append_matrix(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        out: &mut Vec<u8>,
    ) -> Result<WeightType, WeightError> {
        let info = self.info(name, &[cols, rows])?;
        self.append(info, out)?;
        Ok(info.ty)
    }

    /// The matrix `name`, `rows` x `cols`.
    pub(crate) fn matrix(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Arc<PackedMatrix>, WeightError> {
        let info = self.info(name, &[cols, rows])?;
        let mut bytes = Vec::new();
        self.append(info, &mut bytes)?;
        pack(name, info.ty, rows, cols, &bytes)
    }

    /// One linear layer from several matrices over the same input, stacked by rows: one packed matrix where
    /// their types agree, several otherwise.
    pub(crate) fn linear(&self, parts: &[(&str, usize)], cols: usize) -> Result<Linear, WeightError> {
        let infos = parts
            .iter()
            .map(|(name, rows)| self.info(name, &[cols, *rows]))
            .collect::<Result<Vec<_>, _>>()?;
        if infos.iter().any(|i| i.ty != infos[0].ty) {
            let matrices = parts
                .iter()
                .map(|(name, rows)| self.matrix(name, *rows, cols))
                .collect::<Result<Vec<_>, _>>()?;
            return Ok(Linear::new(matrices));
        }
        let mut bytes = Vec::with_capacity(infos.iter().map(|i| i.bytes).sum());
        for info in &infos {
            self.append(info, &mut bytes)?;
        }
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        Ok(Linear::new(vec![pack(parts[0].0, infos[0].ty, rows, cols, &bytes)?]))
    }

    /// The vector `name` of `len` values.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, WeightError> {
        let info = self.info(name, &[len])?;
        let mut bytes = Vec::new();
        self.append(info, &mut bytes)?;
        let mut values = vec![0.0; len];
        kernels::dequantize(info.ty, &bytes, &mut values);
        if values.iter().all(|v| v.is_finite()) {
            Ok(values)
        } else {
            Err(WeightError::Value(name.to_owned()))
        }
    }

    /// The vector `name` of `len` values as a tensor.
    pub(crate) fn vector_tensor(&self, name: &str, len: usize) -> Result<Tensor, WeightError> {
        Ok(Tensor::from_vec(self.vector(name, len)?, len, &Device::Cpu)?)
    }

    /// Fails if the file has a tensor that nobody took.
    pub(crate) fn finish(self) -> Result<(), WeightError> {
        let used = self.used.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        match self.file.header().tensors.iter().find(|t| !used.contains(&t.name)) {
            Some(tensor) => Err(WeightError::Unused(tensor.name.clone())),
            None => Ok(()),
        }
    }

    fn info(&self, name: &str, dims: &[usize]) -> Result<&'a TensorInfo, WeightError> {
        let info = self.file.header().tensor(name).ok_or_else(|| WeightError::Missing(name.to_owned()))?;
        if info.dims != dims {
            let (found, expected) = (info.dims.clone(), dims.to_vec());
            return Err(WeightError::Shape { name: name.to_owned(), found, expected });
        }
        Ok(info)
    }

    fn append(&self, info: &TensorInfo, out: &mut Vec<u8>) -> Result<(), WeightError> {
        self.file
            .append_tensor(info, out)
            .map_err(|error| WeightError::Read { name: info.name.clone(), error })?;
        self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(info.name.clone());
        // Nobody listening any more is no reason to stop.
        let _ = self.progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner).send(info.bytes);
        Ok(())
    }
}

fn pack(
    name: &str,
    ty: WeightType,
    rows: usize,
    cols: usize,
    bytes: &[u8],
) -> Result<Arc<PackedMatrix>, WeightError> {
    match PackedMatrix::pack(ty, rows, cols, bytes) {
        Ok(matrix) => Ok(Arc::new(matrix)),
        Err(error) => Err(WeightError::Pack { name: name.to_owned(), error }),
    }
}
