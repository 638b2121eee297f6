//! What a test asks of a server and of a key; the one place that knows how configuration and flags are spelled.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

/// Identifier of the model under test, as requests name it.
pub(crate) fn model_id() -> &'static str {
    "smollm2-135m-instruct"
}

/// The file of the model under test, fetched if need be.
pub(crate) fn model_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(models::fetch::ensure_test_model)
}

/// The settings of one server: `section.key = literal`, then tables of arrays as they are.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    sections: BTreeMap<&'static str, BTreeMap<&'static str, String>>,
    tail: String,
}

impl Config {
    /// Loopback, free ports, the test model, and no limits that a busy test would meet; everything else is default.
    pub(crate) fn new() -> Self {
        Self { sections: BTreeMap::new(), tail: String::new() }
            .with("server", "listen", "\"127.0.0.1:0\"")
            .with("server", "admin_listen", "\"127.0.0.1:0\"")
            .model(model_path())
            .with("limits", "key_requests_per_minute", "1000000")
            .with("limits", "key_tokens_per_minute", "1000000000")
            .with("limits", "project_requests_per_minute", "1000000")
            .with("limits", "project_tokens_per_minute", "1000000000")
    }

    /// Serves the weights of this file.
    pub(crate) fn model(self, path: &Path) -> Self {
        let literal = Value::from(path.to_str().expect("the model path is text")).to_string();
        self.with("model", "path", &literal)
    }

    /// Serves these models in place of the one.
    pub(crate) fn models(mut self, models: &[(&str, &Path)]) -> Self {
        self.sections.remove("model");
        for (id, path) in models {
            let path = Value::from(path.to_str().expect("the model path is text"));
            self.tail.push_str(&format!("[[models]]\nid = \"{id}\"\npath = {path}\n"));
        }
        self
    }

    /// Sets one key; `literal` is TOML.
    pub(crate) fn with(mut self, section: &'static str, key: &'static str, literal: &str) -> Self {
        self.sections.entry(section).or_default().insert(key, literal.to_owned());
        self
    }

    /// Limits what a project (`organisation/project`) or an organisation may ever spend; `usd` is a decimal string.
    pub(crate) fn budget(mut self, scope: &str, name: &str, usd: &str) -> Self {
        let lines = format!("[[money.budget]]\nscope = \"{scope}\"\nname = \"{name}\"\nusd = \"{usd}\"\n");
        self.tail.push_str(&lines);
        self
    }

    /// Adds tables in TOML as they stand.
    pub(crate) fn table(mut self, toml: &str) -> Self {
        self.tail.push_str(toml);
        self
    }

    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        for (section, keys) in &self.sections {
            text.push_str(&format!("[{section}]\n"));
            for (key, literal) in keys {
                text.push_str(&format!("{key} = {literal}\n"));
            }
        }
        text + &self.tail
    }
}

/// What `keys create` is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KeyOptions<'a> {
    pub(crate) project: &'a str,
    pub(crate) name: Option<&'a str>,
    pub(crate) org: Option<&'a str>,
    pub(crate) requests_per_minute: Option<u32>,
    pub(crate) tokens_per_minute: Option<u32>,
    pub(crate) concurrency: Option<u32>,
    /// USD, a decimal string.
    pub(crate) budget: Option<&'a str>,
    pub(crate) expires: Option<&'a str>,
}

impl KeyOptions<'_> {
    pub(crate) fn arguments(&self) -> Vec<String> {
        let number = |n: Option<u32>| n.map(|n| n.to_string());
        let text = |t: Option<&str>| t.map(str::to_owned);
        let project = if self.project.is_empty() { "default" } else { self.project };
        let pairs = [
            ("--project", Some(project.to_owned())),
            ("--name", text(self.name)),
            ("--org", text(self.org)),
            ("--rpm", number(self.requests_per_minute)),
            ("--tpm", number(self.tokens_per_minute)),
            ("--concurrency", number(self.concurrency)),
            ("--budget", text(self.budget)),
            ("--expires", text(self.expires)),
        ];
        let mut arguments = vec!["keys".to_owned(), "create".to_owned()];
        for (flag, value) in pairs {
            if let Some(value) = value {
                arguments.extend([flag.to_owned(), value]);
            }
        }
        arguments
    }
}
