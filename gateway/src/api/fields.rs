//! Typed readers of request objects.
//!
//! A request is read by taking its fields one after the other; `null` means absent. What is left at the end is unknown and
//! refused, so no field can be dropped silently.

use super::error::{ApiError, ApiResult, Code};
use super::json::{Json, Object};

/// The fields of an object that nobody has read yet.
#[derive(Debug)]
pub struct Fields {
    path: String,
    rest: Object,
}

impl Fields {
    /// The body's object; anything else is `invalid_type`.
    pub fn root(body: Json) -> ApiResult<Self> {
        match body {
            Json::Object(object) => Ok(Self { path: String::new(), rest: *object }),
            other => Err(ApiError::new(
                Code::InvalidType,
                format!("The body must be a JSON object, not {}.", other.type_name()),
            )),
        }
    }

    /// The object at `path`.
    pub fn nested(value: Json, path: &str) -> ApiResult<Self> {
        match value {
            Json::Object(object) => Ok(Self { path: format!("{path}."), rest: *object }),
            other => Err(wrong_type(path, "an object", &other)),
        }
    }

    /// The full name of a field, as `param` gives it.
    pub fn path(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    /// Takes any value.
    pub fn take(&mut self, key: &str) -> Option<Json> {
        #[cfg(test)]
        taken::note(&self.path(key));
        self.rest.swap_remove(key).filter(|value| *value != Json::Null)
    }

    /// Whether the field is there as `null`, which readers take for absent.
    pub fn is_null(&self, key: &str) -> bool {
        self.rest.get(key) == Some(&Json::Null)
    }

    /// Takes a boolean.
    pub fn boolean(&mut self, key: &str) -> ApiResult<Option<bool>> {
        match self.take(key) {
            None => Ok(None),
            Some(Json::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(&self.path(key), "a boolean", &other)),
        }
    }

    /// Takes an integer of `min..=max`.
    pub fn integer(&mut self, key: &str, min: i64, max: i64) -> ApiResult<Option<i64>> {
        let path = self.path(key);
        self.take(key).map(|value| integer_of(&path, &value, min, max)).transpose()
    }

    /// Takes an integer of `min..=max`, both within `u32`.
    pub fn count(&mut self, key: &str, min: u32, max: u32) -> ApiResult<Option<u32>> {
        let value = self.integer(key, i64::from(min), i64::from(max))?;
        Ok(value.map(|value| u32::try_from(value).expect("within the u32 bounds above")))
    }

    /// Takes a number of `min..=max`.
    pub fn decimal(&mut self, key: &str, min: f64, max: f64) -> ApiResult<Option<f32>> {
        let path = self.path(key);
        Ok(self.take(key).map(|value| decimal_of(&path, &value, min, max)).transpose()?.map(|v| v as f32))
    }

    /// Takes a string of at most `max_bytes` bytes.
    pub fn string(&mut self, key: &str, max_bytes: usize) -> ApiResult<Option<String>> {
        let path = self.path(key);
        self.take(key).map(|value| string_of(&path, value, max_bytes)).transpose()
    }

    /// Takes an array of at most `max_items`.
    pub fn array(&mut self, key: &str, max_items: usize) -> ApiResult<Option<Vec<Json>>> {
        let path = self.path(key);
        self.take(key).map(|value| array_of(&path, value, max_items)).transpose()
    }

    /// The value, or `missing_required_parameter`.
    pub fn required<T>(&self, key: &str, value: Option<T>) -> ApiResult<T> {
        let path = self.path(key);
        value.ok_or_else(|| {
            ApiError::param(
                Code::MissingParameter,
                path.clone(),
                format!("Missing required parameter: '{path}'."),
            )
        })
    }

    /// Refuses fields of the API that this server does not offer.
    pub fn refuse(&self, keys: &[&str]) -> ApiResult<()> {
        for key in keys {
            if self.rest.get(*key).is_some_and(|value| *value != Json::Null) {
                return Err(unsupported(&self.path(key)));
            }
        }
        Ok(())
    }

    /// Takes away fields that [`refuse`](Self::refuse) let pass as `null`, then refuses whatever is left.
    pub fn finish(mut self, known: &[&str]) -> ApiResult<()> {
        self.refuse(known)?;
        for key in known {
            self.rest.swap_remove(*key);
        }
        match self.rest.keys().next() {
            None => Ok(()),
            Some(key) => {
                let path: String = self.path(key).chars().take(128).collect();
                let message = format!("Unknown parameter: '{path}'.");
                Err(ApiError::param(Code::UnknownParameter, path, message))
            }
        }
    }
}

/// `unsupported_parameter` for `path`.
pub fn unsupported(path: &str) -> ApiError {
    ApiError::param(
        Code::UnsupportedParameter,
        path,
        format!("Unsupported parameter: '{path}' is not offered by this server. Leave it out."),
    )
}

/// `invalid_type` for `path`.
pub fn wrong_type(path: &str, wanted: &str, got: &Json) -> ApiError {
    ApiError::param(
        Code::InvalidType,
        path,
        format!("Invalid type for '{path}': expected {wanted}, but got {}.", got.type_name()),
    )
}

/// `invalid_value` for `path`.
pub fn invalid(path: &str, reason: &str) -> ApiError {
    ApiError::param(Code::InvalidValue, path, format!("Invalid value for '{path}': {reason}."))
}

/// An integer of `min..=max`.
pub fn integer_of(path: &str, value: &Json, min: i64, max: i64) -> ApiResult<i64> {
    let below = || {
        let message = format!("Invalid '{path}': the value is below the minimum {min}.");
        ApiError::param(Code::IntegerBelowMin, path, message)
    };
    let above = || {
        let message = format!("Invalid '{path}': the value is above the maximum {max}.");
        ApiError::param(Code::IntegerAboveMax, path, message)
    };
    match *value {
        Json::Integer(v) if v < min => Err(below()),
        Json::Integer(v) if v > max => Err(above()),
        Json::Integer(v) => Ok(v),
        // Whole numbers beyond 64 bits arrive as floats.
        Json::Float(v) if v >= 9.2e18 => Err(above()),
        Json::Float(v) if v <= -9.2e18 => Err(below()),
        ref other => Err(wrong_type(path, "an integer", other)),
    }
}

/// A number of `min..=max`.
pub fn decimal_of(path: &str, value: &Json, min: f64, max: f64) -> ApiResult<f64> {
    let number = match *value {
        Json::Integer(v) => v as f64,
        Json::Float(v) => v,
        ref other => return Err(wrong_type(path, "a number", other)),
    };
    let (code, word, bound) = match number {
        v if v < min => (Code::DecimalBelowMin, "below the minimum", min),
        v if v > max => (Code::DecimalAboveMax, "above the maximum", max),
        v => return Ok(v),
    };
    Err(ApiError::param(code, path, format!("Invalid '{path}': the value is {word} {bound}.")))
}

/// A string of at most `max_bytes` bytes.
pub fn string_of(path: &str, value: Json, max_bytes: usize) -> ApiResult<String> {
    match value {
        Json::String(text) if text.len() > max_bytes => Err(ApiError::param(
            Code::StringTooLong,
            path,
            format!("Invalid '{path}': the string is longer than the maximum {max_bytes} bytes."),
        )),
        Json::String(text) => Ok(text.into_string()),
        other => Err(wrong_type(path, "a string", &other)),
    }
}

/// An array of at most `max_items`.
pub fn array_of(path: &str, value: Json, max_items: usize) -> ApiResult<Vec<Json>> {
    match value {
        Json::Array(items) if items.len() > max_items => Err(ApiError::param(
            Code::ArrayTooLong,
            path,
            format!("Invalid '{path}': the array has {} items, the maximum is {max_items}.", items.len()),
        )),
        Json::Array(items) => Ok(items),
        other => Err(wrong_type(path, "an array", &other)),
    }
}

/// `empty_array` if there are no items.
pub fn not_empty<T>(path: &str, items: &[T]) -> ApiResult<()> {
    if items.is_empty() {
        let message = format!("Invalid '{path}': the array must have at least one item.");
        return Err(ApiError::param(Code::EmptyArray, path, message));
    }
    Ok(())
}

/// For tests that compare what is read with what is documented.
#[cfg(test)]
pub(crate) mod taken {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    thread_local! {
        static TAKEN: RefCell<Option<BTreeSet<String>>> = const { RefCell::new(None) };
    }

    /// Begins to note the fields of a request's root that are taken on this thread.
    pub(crate) fn start() {
        TAKEN.set(Some(BTreeSet::new()));
    }

    /// The fields since [`start`].
    pub(crate) fn finish() -> BTreeSet<String> {
        TAKEN.take().unwrap_or_default()
    }

    pub(super) fn note(path: &str) {
        if !path.contains(['.', '[']) {
            TAKEN.with_borrow_mut(|taken| taken.as_mut().map(|taken| taken.insert(path.to_owned())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::json;
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::root(json::parse(text.as_bytes(), 8).unwrap()).unwrap()
    }

    #[test]
    fn integers_know_their_bounds() {
        let cases = [
            ("0", Err(Code::IntegerBelowMin)),
            ("9", Err(Code::IntegerAboveMax)),
            ("9223372036854775808", Err(Code::IntegerAboveMax)),
            ("18446744073709551616", Err(Code::IntegerAboveMax)),
            ("-9223372036854775809", Err(Code::IntegerBelowMin)),
            ("1.5", Err(Code::InvalidType)),
            ("\"5\"", Err(Code::InvalidType)),
            ("null", Ok(None)),
            ("8", Ok(Some(8))),
        ];
        for (text, want) in cases {
            let got = fields(&format!("{{\"n\":{text}}}")).integer("n", 1, 8);
            assert_eq!(got.map_err(|e| e.code), want, "{text}");
        }
    }

    #[test]
    fn what_is_left_is_unknown_and_null_counts_as_absent() {
        assert!(fields(r#"{"tools":null}"#).finish(&["tools"]).is_ok());
        let refused = fields(r#"{"tools":[]}"#).finish(&["tools"]).unwrap_err();
        assert_eq!((refused.code, refused.param.as_deref()), (Code::UnsupportedParameter, Some("tools")));
        let unknown = fields(r#"{"api_base":"x"}"#).finish(&["tools"]).unwrap_err();
        assert_eq!((unknown.code, unknown.param.as_deref()), (Code::UnknownParameter, Some("api_base")));
    }

    #[test]
    fn roots_that_are_no_objects() {
        for text in ["null", "[]", "\"x\"", "1"] {
            let error = Fields::root(json::parse(text.as_bytes(), 8).unwrap()).unwrap_err();
            assert_eq!(error.code, Code::InvalidType);
        }
    }
}
