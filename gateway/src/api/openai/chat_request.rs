//! `POST /v1/chat/completions`: the request. Every field of the API is either honoured or refused by name.

use models::Conversation;

use super::params::{Common, max_tokens};
use super::{chat_messages, chat_tools, format};
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::{Fields, invalid};
use crate::api::json::Json;
use crate::config::Limits;
use crate::serving::PromptInput;

/// Fields of the API that are refused with `unsupported_parameter`.
const REFUSED: &[&str] = &[
    "audio",
    "best_of",
    "moderation",
    "prediction",
    "prompt_cache_options",
    "prompt_cache_retention",
    "verbosity",
    "web_search_options",
];
/// A chat request, checked for itself.
pub fn read(body: Json, limits: &Limits) -> ApiResult<Common> {
    let mut fields = Fields::root(body)?;
    let mut common = Common::read(&mut fields, limits, "/v1/chat/completions")?;
    let messages = chat_messages::read(&mut fields, limits.max_messages)?;
    common.limit_output(output_limit(&mut fields)?)?;
    common.generation.logprobs = logprobs(&mut fields, limits.max_top_logprobs)?;
    common.generation.tools = chat_tools::read(&mut fields, limits.max_tools)?;
    if let Some(format) = format::response_format(&mut fields)? {
        common.set_format(format, "response_format")?;
    }
    modalities(&mut fields)?;
    reasoning_effort(&mut fields)?;
    fields.finish(REFUSED)?;
    common.generation.prompts = vec![PromptInput::Chat(Conversation { messages, ..Conversation::default() })];
    Ok(common)
}

fn output_limit(fields: &mut Fields) -> ApiResult<Option<u32>> {
    let old = max_tokens(fields, "max_tokens")?;
    let new = max_tokens(fields, "max_completion_tokens")?;
    if old.is_some() && new.is_some() {
        return Err(ApiError::param(
            Code::ConflictingParameters,
            "max_tokens",
            "Set either 'max_tokens' or 'max_completion_tokens', not both.",
        ));
    }
    Ok(new.or(old))
}

fn logprobs(fields: &mut Fields, max_top: u8) -> ApiResult<Option<u8>> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    match fields.count("top_logprobs", 0, u32::from(max_top))? {
        Some(_) if !wanted => Err(invalid("top_logprobs", "it is only allowed when 'logprobs' is true")),
        top => Ok(wanted.then(|| u8::try_from(top.unwrap_or(0)).expect("at most `max_top`"))),
    }
}

fn modalities(fields: &mut Fields) -> ApiResult<()> {
    let Some(items) = fields.array("modalities", 8)? else { return Ok(()) };
    if items.iter().all(|item| *item == Json::String("text".into())) && !items.is_empty() {
        return Ok(());
    }
    let message = "This model answers in text only. Leave out 'modalities' or set it to [\"text\"].";
    Err(ApiError::param(Code::UnsupportedValue, "modalities", message))
}

fn reasoning_effort(fields: &mut Fields) -> ApiResult<()> {
    match fields.string("reasoning_effort", 64)?.as_deref() {
        None | Some("none") => Ok(()),
        Some(_) => {
            let message = "This model does not reason. Leave out 'reasoning_effort' or set it to 'none'.";
            Err(ApiError::param(Code::UnsupportedValue, "reasoning_effort", message))
        }
    }
}

#[cfg(test)]
mod tests;
