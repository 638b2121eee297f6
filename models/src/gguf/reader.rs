//! Streaming, counting and checking of the header.

use std::collections::{BTreeMap, HashMap};
use std::io::{ErrorKind, Read};

use kernels::WeightType;

use super::value::{Number, NumberArray, StringArray, Value};
use super::{
    GgufError, Header, MAX_ALIGNMENT, MAX_ENTRIES, MAX_HEADER_BYTES, MAX_STRING_BYTES, MAX_TENSOR_NAME,
    MAX_TENSORS, TensorInfo, TensorProblem,
};

const TYPE_STRING: u32 = 8;
const TYPE_ARRAY: u32 = 9;
const DEFAULT_ALIGNMENT: u64 = 32;

/// Counts what was read, and refuses to read beyond the end of the header's room.
struct Cursor<R> {
    inner: R,
    at: u64,
    end: u64,
}

impl<R: Read> Cursor<R> {
    /// Fails unless `len` more bytes are there: called before anything of that size is allocated.
    fn need(&self, len: u64, what: &'static str) -> Result<(), GgufError> {
        match self.at.checked_add(len) {
            Some(end) if end <= self.end => Ok(()),
            _ => Err(GgufError::Truncated { what, at: self.at, end: self.end }),
        }
    }

    fn fill(&mut self, out: &mut [u8], what: &'static str) -> Result<(), GgufError> {
        self.need(out.len() as u64, what)?;
        self.inner.read_exact(out).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => GgufError::Truncated { what, at: self.at, end: self.end },
            _ => GgufError::Io(e),
        })?;
        self.at += out.len() as u64;
        Ok(())
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        self.fill(&mut out, what)?;
        Ok(out)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn bytes(&mut self, len: u64, what: &'static str) -> Result<Vec<u8>, GgufError> {
        self.need(len, what)?;
        let len = usize::try_from(len).expect("a header fits memory: need() bounded it");
        let mut out = vec![0; len];
        self.fill(&mut out, what)?;
        Ok(out)
    }

    fn string(&mut self, limit: u64, what: &'static str) -> Result<String, GgufError> {
        let len = self.u64(what)?;
        if len > limit {
            return Err(GgufError::TooLarge { what, value: len, limit });
        }
        let at = self.at;
        String::from_utf8(self.bytes(len, what)?).map_err(|_| GgufError::NotUtf8 { what, at })
    }

    fn count(&mut self, limit: u64, what: &'static str) -> Result<u64, GgufError> {
        let value = self.u64(what)?;
        if value > limit { Err(GgufError::TooLarge { what, value, limit }) } else { Ok(value) }
    }
}

pub(super) fn parse(reader: impl Read, file_len: u64) -> Result<Header, GgufError> {
    let mut cursor = Cursor { inner: reader, at: 0, end: file_len.min(MAX_HEADER_BYTES) };
    let magic = cursor.array("the magic")?;
    if &magic != b"GGUF" {
        return Err(GgufError::Magic { found: magic });
    }
    let version = cursor.u32("the version")?;
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version(version));
    }
    let tensor_count = cursor.count(MAX_TENSORS, "tensor count")?;
    let entry_count = cursor.count(MAX_ENTRIES, "metadata entry count")?;
    let metadata = read_metadata(&mut cursor, entry_count)?;
    let alignment = alignment(&metadata)?;
    let mut raw = Vec::new();
    for _ in 0..tensor_count {
        raw.push(read_tensor(&mut cursor)?);
    }
    // The data section begins at the next aligned byte after the header.
    let data_start = cursor.at.checked_next_multiple_of(alignment).ok_or(GgufError::Alignment(alignment))?;
    let tensors =
        raw.into_iter().map(|t| t.check(data_start, alignment, file_len)).collect::<Result<Vec<_>, _>>()?;
    check_overlaps(&tensors)?;
    let mut index = HashMap::with_capacity(tensors.len());
    for (i, tensor) in tensors.iter().enumerate() {
        if tensor.name.is_empty() || index.insert(tensor.name.clone(), i).is_some() {
            return Err(GgufError::Name { what: "tensor", name: tensor.name.clone() });
        }
    }
    Ok(Header { version, metadata, tensors, index })
}

fn read_metadata<R: Read>(cursor: &mut Cursor<R>, count: u64) -> Result<BTreeMap<String, Value>, GgufError> {
    let mut metadata = BTreeMap::new();
    for _ in 0..count {
        // 65,535 bytes is the format's own limit for keys.
        let key = cursor.string(u64::from(u16::MAX), "metadata key")?;
        let value_type = cursor.u32("metadata value type")?;
        let value = read_value(cursor, &key, value_type)?;
        if key.is_empty() || metadata.contains_key(&key) {
            return Err(GgufError::Name { what: "metadata key", name: key });
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn read_value<R: Read>(cursor: &mut Cursor<R>, key: &str, value_type: u32) -> Result<Value, GgufError> {
    match value_type {
        TYPE_STRING => Ok(Value::String(cursor.string(MAX_STRING_BYTES, "metadata string")?)),
        TYPE_ARRAY => read_array(cursor, key),
        id => {
            let kind = Number::from_id(id)
                .ok_or_else(|| GgufError::ValueType { key: key.to_owned(), value_type: id })?;
            let at = cursor.at;
            let mut raw = [0; 8];
            let raw = &mut raw[..kind.width()];
            cursor.fill(raw, "metadata value")?;
            check_booleans(kind, raw, at)?;
            Ok(kind.decode(raw))
        }
    }
}

fn read_array<R: Read>(cursor: &mut Cursor<R>, key: &str) -> Result<Value, GgufError> {
    const WHAT: &str = "metadata array";
    let value_type = cursor.u32(WHAT)?;
    let len = cursor.u64(WHAT)?;
    if value_type == TYPE_STRING {
        // Each string takes at least its own length field.
        cursor.need(len.saturating_mul(8), WHAT)?;
        let mut strings = StringArray::default();
        for _ in 0..len {
            strings.push(&cursor.string(MAX_STRING_BYTES, "metadata string")?);
        }
        return Ok(Value::Strings(strings));
    }
    let kind = Number::from_id(value_type)
        .ok_or_else(|| GgufError::ValueType { key: key.to_owned(), value_type })?;
    let at = cursor.at;
    let bytes = cursor.bytes(len.saturating_mul(kind.width() as u64), WHAT)?;
    check_booleans(kind, &bytes, at)?;
    Ok(Value::Numbers(NumberArray { kind, bytes }))
}

fn check_booleans(kind: Number, bytes: &[u8], at: u64) -> Result<(), GgufError> {
    match bytes.iter().position(|&b| b > 1) {
        Some(i) if kind == Number::Bool => Err(GgufError::Boolean { at: at + i as u64, value: bytes[i] }),
        _ => Ok(()),
    }
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, GgufError> {
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(Value::Unsigned(n)) => *n,
        Some(_) => {
            return Err(GgufError::WrongType {
                key: "general.alignment".to_owned(),
                expected: "an unsigned integer",
            });
        }
    };
    if alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT {
        Ok(alignment)
    } else {
        Err(GgufError::Alignment(alignment))
    }
}

/// A tensor's description as it stands in the file.
struct RawTensor {
    name: String,
    dims: Vec<u64>,
    type_id: u32,
    offset: u64,
}

fn read_tensor<R: Read>(cursor: &mut Cursor<R>) -> Result<RawTensor, GgufError> {
    let name = cursor.string(MAX_TENSOR_NAME as u64, "tensor name")?;
    let n_dims = cursor.u32("tensor dimension count")?;
    if !(1..=4).contains(&n_dims) {
        return Err(GgufError::Tensor { name, problem: TensorProblem::Dimensions(n_dims) });
    }
    let dims = (0..n_dims).map(|_| cursor.u64("tensor dimension")).collect::<Result<Vec<_>, _>>()?;
    let type_id = cursor.u32("tensor type")?;
    let offset = cursor.u64("tensor offset")?;
    Ok(RawTensor { name, dims, type_id, offset })
}

impl RawTensor {
    fn check(self, data_start: u64, alignment: u64, file_len: u64) -> Result<TensorInfo, GgufError> {
        match self.extent(data_start, alignment, file_len) {
            Ok((dims, ty, offset, bytes)) => Ok(TensorInfo { name: self.name, dims, ty, offset, bytes }),
            Err(problem) => Err(GgufError::Tensor { name: self.name, problem }),
        }
    }

    fn extent(
        &self,
        data_start: u64,
        alignment: u64,
        file_len: u64,
    ) -> Result<(Vec<usize>, WeightType, u64, usize), TensorProblem> {
        let ty = weight_type(self.type_id).ok_or(TensorProblem::Type(self.type_id))?;
        let elements = self.dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).filter(|&n| n > 0);
        let elements = elements.ok_or(TensorProblem::Size)?;
        let (cols, block) = (self.dims[0], ty.block_len() as u64);
        if cols % block != 0 {
            return Err(TensorProblem::Row { cols, block });
        }
        let bytes = (elements / block).checked_mul(ty.block_bytes() as u64).ok_or(TensorProblem::Size)?;
        if !self.offset.is_multiple_of(alignment) {
            return Err(TensorProblem::Misaligned { offset: self.offset, alignment });
        }
        let start = data_start.saturating_add(self.offset);
        let end = start.saturating_add(bytes);
        if end > file_len {
            return Err(TensorProblem::OutOfFile { end, file: file_len });
        }
        let to_usize = |n: u64| usize::try_from(n).map_err(|_| TensorProblem::Size);
        let dims = self.dims.iter().map(|&d| to_usize(d)).collect::<Result<Vec<_>, _>>()?;
        Ok((dims, ty, start, to_usize(bytes)?))
    }
}

fn check_overlaps(tensors: &[TensorInfo]) -> Result<(), GgufError> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|t| t.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].bytes as u64 > pair[1].offset {
            return Err(GgufError::Tensor { name: pair[1].name.clone(), problem: TensorProblem::Overlap });
        }
    }
    Ok(())
}

fn weight_type(id: u32) -> Option<WeightType> {
    Some(match id {
        0 => WeightType::F32,
        1 => WeightType::F16,
        2 => WeightType::Q4_0,
        3 => WeightType::Q4_1,
        8 => WeightType::Q8_0,
        12 => WeightType::Q4K,
        14 => WeightType::Q6K,
        30 => WeightType::BF16,
        _ => return None,
    })
}
