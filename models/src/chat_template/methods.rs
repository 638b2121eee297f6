//! The methods of Python strings and dictionaries that chat templates call.

use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};

/// Calls `method` on `value`, if it is one of ours.
pub(super) fn call(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.kind(), value.as_str()) {
        (ValueKind::String, Some(text)) => string_method(text, method, args),
        (ValueKind::Map, _) => map_method(state, value, method, args),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    match method {
        "strip" | "lstrip" | "rstrip" => {
            let (set,): (Option<&str>,) = from_args(args)?;
            let cut = |c: char| set.map_or(c.is_whitespace(), |set| set.contains(c));
            Ok(Value::from(match method {
                "strip" => text.trim_matches(cut),
                "lstrip" => text.trim_start_matches(cut),
                _ => text.trim_end_matches(cut),
            }))
        }
        "startswith" | "endswith" => {
            let (part,): (&str,) = from_args(args)?;
            Ok(Value::from(if method == "startswith" {
                text.starts_with(part)
            } else {
                text.ends_with(part)
            }))
        }
        "split" | "rsplit" => split(text, method == "rsplit", args),
        "replace" => {
            let (from, to): (&str, &str) = from_args(args)?;
            // A longer replacement for a short text could multiply the size of a long one.
            if text.matches(from).count().saturating_mul(to.len()) > super::MAX_ADDED_BYTES + text.len() {
                return Err(Error::new(ErrorKind::InvalidOperation, "replaced string is too large"));
            }
            Ok(Value::from(text.replace(from, to)))
        }
        "find" => {
            let (part,): (&str,) = from_args(args)?;
            let at = text.find(part).map(|byte| text[..byte].chars().count() as u64);
            Ok(at.map_or(Value::from(-1), Value::from))
        }
        "upper" | "lower" | "title" | "capitalize" => {
            let () = from_args(args)?;
            Ok(Value::from(match method {
                "upper" => text.to_uppercase(),
                "lower" => text.to_lowercase(),
                _ => capitalize(text, method == "title"),
            }))
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, limit, keywords): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let limit = match limit {
        Some(n) => n,
        None => keywords.get::<Option<i64>>("maxsplit")?.unwrap_or(-1),
    };
    keywords.assert_all_used()?;
    let pieces = usize::try_from(limit).map_or(usize::MAX, |n| n.saturating_add(1));
    let parts: Vec<&str> = match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(sep) if from_right => {
            let mut parts: Vec<&str> = text.rsplitn(pieces, sep).collect();
            parts.reverse();
            parts
        }
        Some(sep) => text.splitn(pieces, sep).collect(),
        None if limit < 0 => text.split_whitespace().collect(),
        None => return Err(Error::new(ErrorKind::InvalidOperation, "a limited split needs a separator")),
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

fn capitalize(text: &str, every_word: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut start = true;
    for c in text.chars() {
        if start {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
        start = every_word && !c.is_alphabetic();
    }
    out
}

fn map_method(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match method {
        "items" => {
            let () = from_args(args)?;
            state.apply_filter("items", std::slice::from_ref(value))
        }
        "keys" => {
            let () = from_args(args)?;
            Ok(Value::from(value.try_iter()?.collect::<Vec<_>>()))
        }
        "values" => {
            let () = from_args(args)?;
            let items = value.try_iter()?.map(|key| value.get_item(&key));
            Ok(Value::from(items.collect::<Result<Vec<_>, _>>()?))
        }
        "get" => {
            let (key, default): (&Value, Option<&Value>) = from_args(args)?;
            let found = value.get_item(key)?;
            Ok(if found.is_undefined() { default.cloned().unwrap_or(Value::from(())) } else { found })
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}
