//! Metadata values, stored so that they never take more memory than their bytes in the file.

/// A metadata value. Integers and floats keep their value, not their width.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// A 32- or 64-bit float.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// An array of strings.
    Strings(StringArray),
    /// An array of fixed-width values.
    Numbers(NumberArray),
}

/// Strings back to back in one allocation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StringArray {
    text: String,
    ends: Vec<u32>,
}

impl StringArray {
    /// Appends a string. The caller keeps the total below 4 GiB.
    pub(super) fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(u32::try_from(self.text.len()).expect("the header is bounded far below 4 GiB"));
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|i| {
            let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
            &self.text[start..self.ends[i] as usize]
        })
    }
}

impl<'a> FromIterator<&'a str> for StringArray {
    fn from_iter<T: IntoIterator<Item = &'a str>>(texts: T) -> Self {
        let mut array = Self::default();
        texts.into_iter().for_each(|text| array.push(text));
        array
    }
}

/// How the elements of a [`NumberArray`] are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
    Bool,
}

impl Number {
    /// The fixed-width type with this number in the format.
    pub(super) fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    /// Bytes of one element.
    pub(super) fn width(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// Decodes one element of `width()` little-endian bytes.
    pub(super) fn decode(self, bytes: &[u8]) -> Value {
        let mut raw = [0u8; 8];
        raw[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(raw);
        // The casts below keep exactly the bits that the width of the type allows.
        #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
        match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Value::Unsigned(bits),
            Self::I8 => Value::Signed(i64::from(bits as i8)),
            Self::I16 => Value::Signed(i64::from(bits as i16)),
            Self::I32 => Value::Signed(i64::from(bits as i32)),
            Self::I64 => Value::Signed(bits as i64),
            Self::F32 => Value::Float(f64::from(f32::from_bits(bits as u32))),
            Self::F64 => Value::Float(f64::from_bits(bits)),
            Self::Bool => Value::Bool(bits != 0),
        }
    }
}

/// Fixed-width values as they lie in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberArray {
    pub(super) kind: Number,
    pub(super) bytes: Vec<u8>,
}

impl NumberArray {
    /// These integers.
    pub(crate) fn from_i32s(values: impl Iterator<Item = i32>) -> Self {
        Self { kind: Number::I32, bytes: values.flat_map(i32::to_le_bytes).collect() }
    }

    /// These floats.
    pub(crate) fn from_f32s(values: impl Iterator<Item = f32>) -> Self {
        Self { kind: Number::F32, bytes: values.flat_map(f32::to_le_bytes).collect() }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.kind.width()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All elements as integers; `None` if they are floats, booleans, or beyond `i64`.
    pub fn integers(&self) -> Option<Vec<i64>> {
        self.bytes
            .chunks_exact(self.kind.width())
            .map(|c| match self.kind.decode(c) {
                Value::Unsigned(n) => i64::try_from(n).ok(),
                Value::Signed(n) => Some(n),
                _ => None,
            })
            .collect()
    }

    /// All elements as floats; `None` if they are something else.
    pub fn floats(&self) -> Option<Vec<f64>> {
        let decoded = self.bytes.chunks_exact(self.kind.width()).map(|c| self.kind.decode(c));
        decoded.map(|value| if let Value::Float(f) = value { Some(f) } else { None }).collect()
    }
}
