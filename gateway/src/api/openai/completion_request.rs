//! `POST /v1/completions`: the request in the older form, one or many prompts as text or token ids.

use super::params::{Common, token_of};
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::{Fields, not_empty, wrong_type};
use crate::api::json::Json;
use crate::config::Limits;
use crate::serving::PromptInput;

/// The API's own default.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// A completion request, checked for itself, and whether the answer repeats the prompt.
pub fn read(body: Json, limits: &Limits) -> ApiResult<(Common, bool)> {
    let mut fields = Fields::root(body)?;
    let mut common = Common::read(&mut fields, limits, "/v1/completions")?;
    let prompt = fields.take("prompt").map(|prompt| prompts(prompt, limits.max_prompts)).transpose()?;
    let max_tokens = fields.count("max_tokens", 0, i32::MAX as u32)?.unwrap_or(DEFAULT_MAX_TOKENS);
    common.limit_output(Some(max_tokens))?;
    let logprobs = fields.count("logprobs", 0, 5)?;
    let logprobs = logprobs.map(|n| u8::try_from(n).expect("at most 5"));
    let echo = fields.boolean("echo")?.unwrap_or(false);
    // A chat sent here by mistake hears of its messages first.
    let prompts = fields.required("prompt", prompt);
    suffix(&mut fields)?;
    fields.finish(&["best_of"])?;
    let generation = &mut common.generation;
    generation.logprobs = logprobs;
    // Without output there is nothing to do but to score.
    generation.prompt_logprobs =
        if echo { logprobs.or((max_tokens == 0).then_some(0)) } else { (max_tokens == 0).then_some(0) };
    generation.prompts = prompts?;
    Ok((common, echo))
}

fn suffix(fields: &mut Fields) -> ApiResult<()> {
    match fields.string("suffix", usize::MAX)? {
        None => Ok(()),
        Some(text) if text.is_empty() => Ok(()),
        Some(_) => {
            let message =
                "This model writes on from a prompt and cannot fill a gap before a 'suffix'. Leave it out.";
            Err(ApiError::param(Code::UnsupportedParameter, "suffix", message))
        }
    }
}

fn prompts(prompt: Json, max: usize) -> ApiResult<Vec<PromptInput>> {
    match prompt {
        Json::String(text) => Ok(vec![text_prompt(&text)?]),
        Json::Array(items) => {
            not_empty("prompt", &items)?;
            match items[0] {
                Json::Integer(_) | Json::Float(_) => Ok(vec![token_prompt("prompt", &items)?]),
                _ => many_prompts(&items, max),
            }
        }
        other => Err(wrong_type("prompt", "a string, an array of strings or arrays of token ids", &other)),
    }
}

fn many_prompts(items: &[Json], max: usize) -> ApiResult<Vec<PromptInput>> {
    if items.len() > max {
        let message =
            format!("Invalid 'prompt': the array has {} prompts, the maximum is {max}.", items.len());
        return Err(ApiError::param(Code::ArrayTooLong, "prompt", message));
    }
    let one = |(i, item): (usize, &Json)| match item {
        Json::String(text) => text_prompt(text),
        Json::Array(ids) => token_prompt(&format!("prompt[{i}]"), ids),
        other => Err(wrong_type(&format!("prompt[{i}]"), "a string or an array of token ids", other)),
    };
    items.iter().enumerate().map(one).collect()
}

fn text_prompt(text: &str) -> ApiResult<PromptInput> {
    if text.is_empty() {
        return Err(empty_prompt());
    }
    Ok(PromptInput::Text(text.to_owned()))
}

fn token_prompt(path: &str, items: &[Json]) -> ApiResult<PromptInput> {
    if items.is_empty() {
        return Err(empty_prompt());
    }
    let ids = items.iter().enumerate().map(|(i, id)| token_of(&format!("{path}[{i}]"), id));
    Ok(PromptInput::Tokens(ids.collect::<ApiResult<_>>()?))
}

fn empty_prompt() -> ApiError {
    ApiError::param(Code::EmptyPrompt, "prompt", "Invalid 'prompt': a prompt must have at least one token.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::generation::Generation;
    use crate::api::json;

    fn read(extra: &str) -> ApiResult<Generation> {
        let body = json::parse(format!(r#"{{"model":"m",{extra}}}"#).as_bytes(), 64).unwrap();
        super::read(body, &Limits::default()).map(|(common, _)| common.generation)
    }

    #[test]
    fn prompts_in_four_shapes() {
        for (text, count) in
            [("\"a\"", 1), ("[\"a\",\"b\"]", 2), ("[1,2]", 1), ("[[1],[2,3]]", 2), ("[[1],\"a\"]", 2)]
        {
            assert_eq!(read(&format!("\"prompt\":{text}")).unwrap().prompts.len(), count, "{text}");
        }
        assert_eq!(read("\"prompt\":\"a\"").unwrap().max_tokens, Some(16));
        assert_eq!(read("\"prompt\":\"a\",\"logprobs\":5,\"echo\":false").unwrap().logprobs, Some(5));
    }

    #[test]
    fn prompts_are_scored_where_they_are_repeated_or_nothing_is_generated() {
        let scores = |extra: &str| read(&format!("\"prompt\":\"a\",{extra}")).unwrap().prompt_logprobs;
        assert_eq!(scores("\"echo\":true,\"logprobs\":2"), Some(2));
        assert_eq!(scores("\"echo\":true,\"logprobs\":1,\"max_tokens\":0"), Some(1));
        assert_eq!(scores("\"echo\":true,\"max_tokens\":0"), Some(0));
        assert_eq!(scores("\"max_tokens\":0"), Some(0));
        assert_eq!(scores("\"echo\":true"), None);
        assert_eq!(scores("\"logprobs\":2,\"suffix\":\"\""), None);
    }

    #[test]
    fn refusals() {
        let many = format!("\"prompt\":[{}\"a\"]", "\"a\",".repeat(32));
        let cases = [
            ("\"n\":1", Code::MissingParameter),
            ("\"prompt\":\"\"", Code::EmptyPrompt),
            ("\"prompt\":[\"\"]", Code::EmptyPrompt),
            ("\"prompt\":[]", Code::EmptyArray),
            ("\"prompt\":[[]]", Code::EmptyPrompt),
            ("\"prompt\":{}", Code::InvalidType),
            ("\"prompt\":[1,\"a\"]", Code::InvalidType),
            ("\"prompt\":[-1]", Code::IntegerBelowMin),
            ("\"prompt\":[1.5]", Code::InvalidType),
            (many.as_str(), Code::ArrayTooLong),
            ("\"prompt\":\"a\",\"logprobs\":6", Code::IntegerAboveMax),
            ("\"prompt\":\"a\",\"best_of\":1000000000", Code::UnsupportedParameter),
            ("\"prompt\":\"a\",\"suffix\":\"x\"", Code::UnsupportedParameter),
            ("\"prompt\":\"a\",\"echo\":1", Code::InvalidType),
            ("\"prompt\":\"a\",\"max_tokens\":-1", Code::IntegerBelowMin),
            ("\"prompt\":\"a\",\"max_tokens\":0,\"min_tokens\":1", Code::InvalidValue),
            ("\"prompt\":\"a\",\"messages\":[]", Code::UnknownParameter),
        ];
        for (extra, code) in cases {
            assert_eq!(read(extra).unwrap_err().code, code, "{extra}");
        }
    }

    #[test]
    fn the_document_lists_what_is_read() {
        let read = || assert!(read("\"prompt\":\"a\"").is_ok());
        crate::api::openapi::testing::assert_documented("CompletionRequest", read);
    }
}
