//! Readers of fields that several routes have.

use std::str::FromStr;

use engine::Tier;

use crate::accounts::KeyLimits;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::{Fields, invalid, string_of, wrong_type};
use crate::api::json::Json;
use crate::money::{MoneyError, Picos};
use crate::serving::unix_ms;

/// Longest name, id or decimal of a body, in bytes; what they may be is checked where they are used.
pub(super) const MAX_TEXT: usize = 512;
/// Items of a list of models, addresses or rights.
const MAX_ITEMS: usize = 1_000;
/// Later than year 9999 is a mistake.
const MAX_TIME_S: i64 = 253_402_300_799;

/// A text.
pub(super) fn text(fields: &mut Fields, key: &str) -> ApiResult<Option<String>> {
    fields.string(key, MAX_TEXT)
}

/// An amount of USD: a decimal string, because a float could not carry it exactly.
pub(super) fn usd(fields: &mut Fields, key: &str) -> ApiResult<Option<Picos>> {
    decimal(fields, key, Picos::parse_usd)
}

/// A decimal string.
pub(super) fn decimal(
    fields: &mut Fields,
    key: &str,
    parse: fn(&str) -> Result<Picos, MoneyError>,
) -> ApiResult<Option<Picos>> {
    let path = fields.path(key);
    match fields.take(key) {
        None => Ok(None),
        Some(Json::String(text)) => {
            parse(&text).map(Some).map_err(|error| invalid(&path, &error.to_string()))
        }
        Some(other) => Err(wrong_type(&path, "a decimal string such as \"12.50\"", &other)),
    }
}

/// A list of what parses from text. An empty list takes a restriction away, as in the public API.
pub(super) fn list<T: FromStr<Err = String>>(fields: &mut Fields, key: &str) -> ApiResult<Option<Vec<T>>> {
    let path = fields.path(key);
    let Some(items) = fields.array(key, MAX_ITEMS)? else { return Ok(None) };
    let parse = |(at, item)| {
        let path = format!("{path}[{at}]");
        let text = string_of(&path, item, MAX_TEXT)?;
        text.parse().map_err(|error: String| invalid(&path, &error))
    };
    items.into_iter().enumerate().map(parse).collect::<ApiResult<_>>().map(Some)
}

/// A list of texts.
pub(super) fn texts(fields: &mut Fields, key: &str) -> ApiResult<Option<Vec<String>>> {
    struct Text(String);
    impl FromStr for Text {
        type Err = String;
        fn from_str(text: &str) -> Result<Self, String> {
            match text.is_empty() || text.chars().any(char::is_control) {
                true => Err("it must have characters, none of them a control character".to_owned()),
                false => Ok(Self(text.to_owned())),
            }
        }
    }
    Ok(list::<Text>(fields, key)?.map(|texts| texts.into_iter().map(|text| text.0).collect()))
}

/// What an update makes of a restriction: unchanged where absent, none where null or empty.
pub(super) fn restriction<T>(was_null: bool, new: Option<Vec<T>>, old: Option<Vec<T>>) -> Option<Vec<T>> {
    match new {
        None if was_null => None,
        None => old,
        Some(list) if list.is_empty() => None,
        some => some,
    }
}

/// The name of a service tier.
pub(super) fn tier(path: &str, name: &str) -> ApiResult<()> {
    if Tier::named(name).is_some() {
        return Ok(());
    }
    let names = Tier::ALL.map(Tier::name).join(", ");
    Err(ApiError::param(
        Code::InvalidValue,
        path,
        format!("Invalid value for '{path}': expected one of {names}."),
    ))
}

/// `requests_per_minute`, `tokens_per_minute` and `concurrency`; null gives up a limit of its own, absent leaves it.
pub(super) fn limits(fields: &mut Fields, old: KeyLimits) -> ApiResult<KeyLimits> {
    let mut one = |key: &str, old: Option<u32>| -> ApiResult<Option<u32>> {
        if fields.is_null(key) {
            fields.take(key);
            return Ok(None);
        }
        Ok(fields.count(key, 0, u32::MAX)?.or(old))
    };
    Ok(KeyLimits {
        requests_per_minute: one("requests_per_minute", old.requests_per_minute)?,
        tokens_per_minute: one("tokens_per_minute", old.tokens_per_minute)?,
        concurrency: one("concurrency", old.concurrency)?,
    })
}

/// `expires_at` (Unix seconds) or `expires_in_seconds`, as Unix milliseconds in the future.
pub(super) fn expiry(fields: &mut Fields) -> ApiResult<Option<u64>> {
    let at = fields.integer("expires_at", 0, MAX_TIME_S)?.map(|s| s.unsigned_abs() * 1_000);
    let within = fields.integer("expires_in_seconds", 1, MAX_TIME_S)?;
    let within = within.map(|s| unix_ms().saturating_add(s.unsigned_abs() * 1_000));
    if at.is_some() && within.is_some() {
        let message = "Give 'expires_at' or 'expires_in_seconds', not both.";
        return Err(ApiError::param(Code::ConflictingParameters, "expires_in_seconds", message));
    }
    if at.is_some_and(|at| at <= unix_ms()) {
        return Err(invalid("expires_at", "it is not in the future"));
    }
    Ok(at.or(within))
}
