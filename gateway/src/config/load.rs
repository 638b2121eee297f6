//! Reading the file and laying the environment over it.

use std::path::Path;

use serde::Deserialize;
use toml::{Table, Value};

use super::{Config, ConfigError};

const PREFIX: &str = "SPILLWAY__";

pub(super) fn read(path: &Path) -> Result<Table, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.display().to_string(), source })?;
    // Through the typed form first: its message carries the line, and names the unknown key.
    toml::from_str::<Config>(&text)
        .and_then(|_| toml::from_str(&text))
        .map_err(|error| ConfigError::Parse { path: path.display().to_string(), message: error.to_string() })
}

pub(super) fn apply_overrides(
    table: &mut Table,
    env: impl Iterator<Item = (String, String)>,
) -> Result<(), ConfigError> {
    let mut overrides: Vec<_> = env.filter(|(name, _)| name.starts_with(PREFIX)).collect();
    overrides.sort();
    for (variable, value) in overrides {
        let refuse = |message: String| ConfigError::Variable {
            variable: variable.clone(),
            value: shorten(&value),
            message,
        };
        let path = variable[PREFIX.len()..].to_ascii_lowercase();
        let Some((section, key)) = path
            .split_once("__")
            .filter(|(section, key)| !section.is_empty() && !key.is_empty() && !key.contains("__"))
        else {
            return Err(refuse("must be SPILLWAY__<SECTION>__<KEY>".to_owned()));
        };
        let parsed = parse_value(section, key, &value);
        // Alone first, so that a refusal names this variable.
        let alone = Table::from_iter([(
            section.to_owned(),
            Value::Table(Table::from_iter([(key.to_owned(), parsed.clone())])),
        )]);
        Config::deserialize(Value::Table(alone)).map_err(|error| refuse(one_line(&error)))?;
        let entry = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(section) = entry {
            section.insert(key.to_owned(), parsed);
        }
    }
    Ok(())
}

/// A value whose key holds text by default is text as it stands; any other is read as TOML where it is TOML.
fn parse_value(section: &str, key: &str, value: &str) -> Value {
    let text = || Value::String(value.to_owned());
    let default = Value::try_from(Config::default()).ok();
    match default.as_ref().and_then(|config| config.get(section)?.get(key)) {
        Some(Value::String(_)) | None => text(),
        Some(_) => toml::from_str::<Table>(&format!("value = {value}"))
            .ok()
            .filter(|table| table.len() == 1)
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(text),
    }
}

pub(super) fn one_line(error: &toml::de::Error) -> String {
    error.to_string().trim().replace('\n', " ")
}

fn shorten(value: &str) -> String {
    value.chars().take(80).collect()
}
