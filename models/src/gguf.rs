//! A strict reader of GGUF files (versions 2 and 3).
//!
//! The header of a weight file is untrusted input. Every length is checked against a limit and against the bytes
//! that are really there before anything is allocated for it, all arithmetic is checked, and tensors have to lie
//! aligned, disjoint and wholly inside the file. The header is streamed; tensor bytes are read one at a time.

mod reader;
mod value;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use kernels::WeightType;

use crate::weights::TensorSource;

pub use value::{NumberArray, StringArray, Value};

/// Most tensors a file may list.
pub const MAX_TENSORS: u64 = 65_536;
/// Most metadata entries a file may list.
pub const MAX_ENTRIES: u64 = 65_536;
/// Longest string in the metadata, in bytes.
pub const MAX_STRING_BYTES: u64 = 16 << 20;
/// Longest header. A 256k-word vocabulary needs about 16 MiB; this bounds what a hostile file can make us hold.
pub const MAX_HEADER_BYTES: u64 = 64 << 20;
/// Longest tensor name in bytes, as the format's own specification says.
pub const MAX_TENSOR_NAME: usize = 64;
/// Largest alignment of the tensor data; anything beyond a few pages is nonsense.
pub const MAX_ALIGNMENT: u64 = 1 << 20;

/// Why a file was refused.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file could not be read.
    #[error("cannot read the file: {0}")]
    Io(#[from] io::Error),
    /// Not a GGUF file at all.
    #[error("bad magic {found:02x?}, expected \"GGUF\"")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// A version this reader does not know.
    #[error("version {0} is not supported, expected 2 or 3 in little-endian order")]
    Version(u32),
    /// The file ends inside its own header.
    #[error("file ends at byte {end} while reading {what} at byte {at}")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where that begins.
        at: u64,
        /// Length of the file, or the longest allowed header.
        end: u64,
    },
    /// A declared count or length is beyond its limit.
    #[error("{what} is {value}, the limit is {limit}")]
    TooLarge {
        /// Which count.
        what: &'static str,
        /// The declared value.
        value: u64,
        /// The largest allowed value.
        limit: u64,
    },
    /// Text that is not UTF-8.
    #[error("{what} at byte {at} is not UTF-8")]
    NotUtf8 {
        /// Which text.
        what: &'static str,
        /// Where it begins.
        at: u64,
    },
    /// A metadata value type that does not exist, or an array of arrays.
    #[error("metadata key {key:?} has value type {value_type}, which is unknown or not allowed there")]
    ValueType {
        /// The metadata key.
        key: String,
        /// The type number found.
        value_type: u32,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("boolean at byte {at} is {value}, expected 0 or 1")]
    Boolean {
        /// Where it is.
        at: u64,
        /// The byte found.
        value: u8,
    },
    /// A key or a tensor name that occurs twice, or an empty one.
    #[error("{what} {name:?} is empty or occurs twice")]
    Name {
        /// "metadata key" or "tensor".
        what: &'static str,
        /// The name.
        name: String,
    },
    /// `general.alignment` is unusable.
    #[error("alignment {0} is not a power of two between 1 and {MAX_ALIGNMENT}")]
    Alignment(u64),
    /// A tensor whose description contradicts itself or the file.
    #[error("tensor {name:?}: {problem}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        problem: TensorProblem,
    },
    /// A metadata entry that is needed and absent.
    #[error("metadata key {0:?} is missing")]
    Missing(String),
    /// A metadata entry of another type than expected.
    #[error("metadata key {key:?} is not {expected}")]
    WrongType {
        /// The metadata key.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// What can be wrong with one tensor's description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TensorProblem {
    /// Dimension count outside 1..=4.
    #[error("{0} dimensions, expected 1 to 4")]
    Dimensions(u32),
    /// A dimension of zero, or a product that does not fit.
    #[error("its dimensions are zero or their product overflows")]
    Size,
    /// A storage type outside the supported ones.
    #[error("type {0} is not supported (F32, F16, BF16, Q4_0, Q4_1, Q8_0, Q4_K, Q6_K are)")]
    Type(u32),
    /// A row that is no whole number of quantisation blocks.
    #[error("rows of {cols} values are no multiple of {block} values")]
    Row {
        /// Values in a row.
        cols: u64,
        /// Values in a block.
        block: u64,
    },
    /// An offset that breaks the file's alignment.
    #[error("offset {offset} is not a multiple of {alignment}")]
    Misaligned {
        /// Offset in the data section.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// Bytes beyond the end of the file.
    #[error("its bytes end at {end}, the file at {file}")]
    OutOfFile {
        /// Where the tensor would end (saturating).
        end: u64,
        /// Length of the file.
        file: u64,
    },
    /// Bytes shared with another tensor.
    #[error("it overlaps another tensor")]
    Overlap,
}

/// One tensor's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique in the file.
    pub name: String,
    /// Dimensions, fastest first: `[cols, rows, ..]`.
    pub dims: Vec<usize>,
    /// Storage type.
    pub ty: WeightType,
    /// Absolute offset of the first byte in the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: usize,
}

impl TensorInfo {
    /// Values in a row (the fastest dimension).
    pub fn cols(&self) -> usize {
        self.dims[0]
    }

    /// Number of rows: the product of all other dimensions.
    pub fn rows(&self) -> usize {
        self.dims[1..].iter().product()
    }
}

/// The checked header of a file.
#[derive(Debug, Clone)]
pub struct Header {
    /// Format version, 2 or 3.
    pub version: u32,
    /// Metadata by key.
    pub metadata: BTreeMap<String, Value>,
    /// Tensors in file order.
    pub tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
}

impl Header {
    /// Reads and checks a header from `reader`, which has `file_len` bytes in all.
    ///
    /// # Errors
    /// Everything in [`GgufError`] that concerns the header's form.
    pub fn parse(reader: impl Read, file_len: u64) -> Result<Self, GgufError> {
        reader::parse(reader, file_len)
    }

    /// A header from its parts, for files of another kind; names are unique.
    pub(crate) fn new(metadata: BTreeMap<String, Value>, tensors: Vec<TensorInfo>) -> Self {
        let index = tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), i)).collect();
        Self { version: 3, metadata, tensors, index }
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    /// The metadata value under `key`, if any.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// The string under `key`, or `None` where the key is absent.
    ///
    /// # Errors
    /// The value is no string.
    pub fn string(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a string", |v| match v {
            Value::String(s) => Some(s.as_str()),
            _ => None,
        })
    }

    /// The non-negative integer under `key`, or `None` where the key is absent.
    ///
    /// # Errors
    /// The value is no integer or negative.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "a non-negative integer", |v| match v {
            Value::Unsigned(n) => Some(*n),
            Value::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        })
    }

    /// The number under `key`, or `None` where the key is absent.
    ///
    /// # Errors
    /// The value is no floating-point number.
    pub fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.typed(key, "a floating-point number", |v| match v {
            Value::Float(n) => Some(*n),
            _ => None,
        })
    }

    /// The boolean under `key`, or `None` where the key is absent.
    ///
    /// # Errors
    /// The value is no boolean.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a boolean", |v| match v {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    /// The array of strings under `key`.
    ///
    /// # Errors
    /// The key is absent or holds something else.
    pub fn strings(&self, key: &str) -> Result<&StringArray, GgufError> {
        self.typed(key, "an array of strings", |v| match v {
            Value::Strings(a) => Some(a),
            _ => None,
        })?
        .ok_or_else(|| GgufError::Missing(key.to_owned()))
    }

    /// The array of integers under `key`.
    ///
    /// # Errors
    /// The key is absent or holds something else.
    pub fn integers(&self, key: &str) -> Result<Vec<i64>, GgufError> {
        self.typed(key, "an array of integers", |v| match v {
            Value::Numbers(a) => a.integers(),
            _ => None,
        })?
        .ok_or_else(|| GgufError::Missing(key.to_owned()))
    }

    /// The floats under `key`.
    ///
    /// # Errors
    /// The key is absent or holds something else.
    pub fn floats(&self, key: &str) -> Result<Vec<f64>, GgufError> {
        self.typed(key, "an array of floats", |v| match v {
            Value::Numbers(a) => a.floats(),
            _ => None,
        })?
        .ok_or_else(|| GgufError::Missing(key.to_owned()))
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        get: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match get(value) {
                Some(found) => Ok(Some(found)),
                None => Err(GgufError::WrongType { key: key.to_owned(), expected }),
            },
        }
    }
}

/// An open file with its checked header.
#[derive(Debug)]
pub struct GgufFile {
    header: Header,
    file: File,
}

impl GgufFile {
    /// Opens `path` and checks its header.
    ///
    /// # Errors
    /// See [`GgufError`].
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let header = Header::parse(BufReader::with_capacity(1 << 18, &file), len)?;
        Ok(Self { header, file })
    }

    /// The checked header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Appends the bytes of `tensor` to `out`.
    ///
    /// # Errors
    /// The file shrank or cannot be read.
    pub fn append_tensor(&self, tensor: &TensorInfo, out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        out.resize(start + tensor.bytes, 0);
        self.file.read_exact_at(&mut out[start..], tensor.offset)
    }
}

impl TensorSource for GgufFile {
    fn header(&self) -> &Header {
        &self.header
    }

    fn permutes_heads(&self) -> bool {
        true
    }

    fn append_tensor(&self, tensor: &TensorInfo, out: &mut Vec<u8>) -> io::Result<()> {
        self.append_tensor(tensor, out)
    }
}
