//! How text is cut into words before merging, by the name a model file gives.

use tokenizers::PreTokenizerWrapper;
use tokenizers::SplitDelimiterBehavior;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

use super::TokenizerError;

/// Known names.
const NAMES: [&str; 7] = ["smollm", "gpt-2", "default", "llama-bpe", "llama3", "qwen2", "refact"];

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A pre-tokenizer, and whether whole words of the vocabulary are taken without merging.
pub(super) fn pre_tokenizer(name: &str) -> Result<(PreTokenizerWrapper, bool), TokenizerError> {
    let parts = match name {
        "gpt-2" | "default" => return Ok((byte_level(true).into(), false)),
        "smollm" | "refact" => vec![Digits::new(true).into(), byte_level(true).into()],
        "llama-bpe" | "llama3" => vec![regex(LLAMA3)?, byte_level(false).into()],
        "qwen2" => vec![regex(QWEN2)?, byte_level(false).into()],
        _ => {
            let supported = NAMES.join(", ");
            return Err(TokenizerError::PreTokenizer { found: name.to_owned(), supported });
        }
    };
    Ok((Sequence::new(parts).into(), matches!(name, "llama-bpe" | "llama3")))
}

/// The name that a model file would give for the `pre_tokenizer` of a `tokenizer.json`.
pub(crate) fn pre_name(json: &serde_json::Value) -> Result<&'static str, TokenizerError> {
    let steps = match json["pretokenizers"].as_array() {
        Some(steps) => steps.iter().collect(),
        None => vec![json],
    };
    let kinds: Vec<&str> = steps.iter().filter_map(|step| step["type"].as_str()).collect();
    let pattern = steps.iter().find_map(|step| step["pattern"]["Regex"].as_str());
    let split = |step: &&serde_json::Value| step["use_regex"] != serde_json::Value::Bool(false);
    match (kinds.as_slice(), pattern) {
        (["ByteLevel"], None) if steps.iter().all(split) => Ok("gpt-2"),
        (["Digits", "ByteLevel"], None) if steps.iter().all(split) => Ok("smollm"),
        (["Split", "ByteLevel"], Some(LLAMA3)) => Ok("llama3"),
        (["Split", "ByteLevel"], Some(QWEN2)) => Ok("qwen2"),
        _ => Err(TokenizerError::PreTokenizer {
            found: pattern.map_or_else(|| kinds.join(", "), str::to_owned),
            supported: NAMES.join(", "),
        }),
    }
}

fn byte_level(use_regex: bool) -> ByteLevel {
    ByteLevel::new(false, false, use_regex)
}

fn regex(pattern: &str) -> Result<PreTokenizerWrapper, TokenizerError> {
    let split = Split::new(SplitPattern::Regex(pattern.to_owned()), SplitDelimiterBehavior::Isolated, false);
    split.map(Into::into).map_err(|e| TokenizerError::Build(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_builds_and_no_other() {
        for name in NAMES {
            pre_tokenizer(name).unwrap();
        }
        assert!(pre_tokenizer("deepseek-r1").unwrap_err().to_string().contains("smollm, gpt-2"));
    }
}
