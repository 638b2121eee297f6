//! Strict JSON: what two parsers could read differently is refused instead of guessed.
//!
//! Duplicate keys, a byte order mark, invalid UTF-8, lone surrogates, numbers out of range, deep nesting and trailing bytes
//! are all errors. The tree is small (32 bytes a value) and its size is bounded before it is built.

use std::cell::Cell;
use std::fmt;

use indexmap::IndexMap;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use thiserror::Error;

/// Most values in one document; keeps the tree of a 4 MiB body of zeros within 8 MiB.
pub const MAX_VALUES: usize = 1 << 18;

/// A JSON object. Order matters in schemas alone: answers have their properties in that order.
pub type Object = IndexMap<String, Json>;

/// One JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A whole number that fits 64 bits, written without point or exponent.
    Integer(i64),
    /// Any other number; always finite.
    Float(f64),
    /// A string.
    String(Box<str>),
    /// An array.
    Array(Vec<Json>),
    /// An object without duplicate keys.
    Object(Box<Object>),
}

impl Json {
    /// The word for this value's type in messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "a boolean",
            Json::Integer(_) => "an integer",
            Json::Float(_) => "a number",
            Json::String(_) => "a string",
            Json::Array(_) => "an array",
            Json::Object(_) => "an object",
        }
    }
}

impl From<Json> for serde_json::Value {
    fn from(json: Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(value),
            Json::Integer(value) => value.into(),
            Json::Float(value) => value.into(),
            Json::String(text) => Self::String(text.into_string()),
            Json::Array(items) => items.into_iter().map(Self::from).collect(),
            Json::Object(object) => object.into_iter().map(|(key, value)| (key, Self::from(value))).collect(),
        }
    }
}

/// Why a document was refused.
#[derive(Debug, Error, PartialEq)]
pub enum JsonError {
    /// Not JSON at all.
    #[error("{0}")]
    Invalid(String),
    /// Nested deeper than the limit.
    #[error("arrays and objects are nested more than {0} deep")]
    TooDeep(usize),
    /// A key occurs twice in one object.
    #[error("the key '{0}' occurs twice in one object")]
    Duplicate(String),
    /// More values than [`MAX_VALUES`].
    #[error("the document has more than {MAX_VALUES} values")]
    TooManyValues,
}

/// Reads a whole document; `max_depth` counts arrays and objects, the outermost one included.
pub fn parse(bytes: &[u8], max_depth: usize) -> Result<Json, JsonError> {
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err(JsonError::Invalid("the body starts with a byte order mark".into()));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|e| JsonError::Invalid(format!("the body is not UTF-8 at byte {}", e.valid_up_to())))?;
    let state = State { max_depth, ..State::default() };
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Seed { state: &state, depth: 0 }.deserialize(&mut reader);
    let value = value.and_then(|value| reader.end().map(|()| value));
    value.map_err(|e| state.fault.take().unwrap_or_else(|| JsonError::Invalid(e.to_string())))
}

#[derive(Default)]
struct State {
    max_depth: usize,
    values: Cell<usize>,
    // The typed reason; serde's error carries only text.
    fault: Cell<Option<JsonError>>,
}

impl State {
    fn fail<E: serde::de::Error>(&self, fault: JsonError) -> E {
        let error = E::custom(&fault);
        self.fault.set(Some(fault));
        error
    }
}

#[derive(Clone, Copy)]
struct Seed<'a> {
    state: &'a State,
    depth: usize,
}

impl Seed<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= self.state.max_depth {
            return Err(self.state.fail(JsonError::TooDeep(self.state.max_depth)));
        }
        Ok(Seed { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        let values = self.state.values.get() + 1;
        self.state.values.set(values);
        if values > MAX_VALUES {
            return Err(self.state.fail(JsonError::TooManyValues));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Json, E> {
        Ok(Json::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Json, E> {
        Ok(Json::Integer(v))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Json, E> {
        Ok(i64::try_from(v).map_or(Json::Float(v as f64), Json::Integer))
    }
    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Json, E> {
        if v.is_finite() { Ok(Json::Float(v)) } else { Err(E::custom("number out of range")) }
    }
    fn visit_str<E>(self, v: &str) -> Result<Json, E> {
        Ok(Json::String(v.into()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let inner = self.deeper()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            array.push(item);
        }
        Ok(Json::Array(array))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let inner = self.deeper()?;
        let mut object = Object::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(self.state.fail(JsonError::Duplicate(key)));
            }
            let value = entries.next_value_seed(inner)?;
            object.insert(key, value);
        }
        Ok(Json::Object(Box::new(object)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Json, JsonError> {
        super::parse(bytes, 64)
    }

    fn nested(depth: usize) -> Vec<u8> {
        let mut text = "[".repeat(depth);
        text.push_str(&"]".repeat(depth));
        text.into_bytes()
    }

    #[test]
    fn reads_every_kind_of_value() {
        let value = parse(br#" {"a":[null,true,-3,2.5,"x\u0000"],"b":{}} "#).unwrap();
        let Json::Object(object) = value else { panic!("not an object") };
        assert_eq!(
            object["a"],
            Json::Array(vec![
                Json::Null,
                Json::Bool(true),
                Json::Integer(-3),
                Json::Float(2.5),
                Json::String("x\0".into())
            ])
        );
        assert_eq!(parse(b"9223372036854775808").unwrap(), Json::Float(9_223_372_036_854_775_808.0));
    }

    #[test]
    fn becomes_a_plain_value() {
        let text = r#"{"a":[null,true,-3,2.5,"x"],"b":{"c":[]}}"#;
        let value = serde_json::Value::from(parse(text.as_bytes()).unwrap());
        assert_eq!(value, serde_json::from_str::<serde_json::Value>(text).unwrap());
    }

    #[test]
    fn refuses_what_is_not_json() {
        let cases: &[&[u8]] = &[
            b"",
            b"{\"a\":1",
            b"{} x",
            b"\xef\xbb\xbf{}",
            b"{\"a\":\"\xc3\x28\"}",
            br#"{"a":"\ud800"}"#,
            b"1e999",
            b"-1e999",
            b"NaN",
            b"Infinity",
            b"{\"a\":01}",
            b"{'a':1}",
            b"{\"a\":1,}",
        ];
        for case in cases {
            assert!(matches!(parse(case), Err(JsonError::Invalid(_))), "{case:?}");
        }
    }

    #[test]
    fn refuses_depth_duplicates_and_bulk_by_name() {
        assert!(parse(&nested(64)).is_ok());
        assert_eq!(parse(&nested(65)), Err(JsonError::TooDeep(64)));
        assert_eq!(parse(&nested(1_000_000)), Err(JsonError::TooDeep(64)));
        assert_eq!(parse(br#"{"x":{"a":1,"a":1}}"#), Err(JsonError::Duplicate("a".into())));
        let bulk = format!("[{}0]", "0,".repeat(MAX_VALUES));
        assert_eq!(parse(bulk.as_bytes()), Err(JsonError::TooManyValues));
    }
}
