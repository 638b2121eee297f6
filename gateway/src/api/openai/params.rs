//! The fields that chat and text completions share.

use std::time::Duration;

use engine::{Stop, Tier};
use serde_json::{Map, Value};

use super::format::structured_outputs;
use super::surface::ChunkOptions;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::{Fields, array_of, decimal_of, integer_of, invalid, string_of, wrong_type};
use crate::api::generation::{Format, Generation, Sampling};
use crate::api::json::Json;
use crate::config::Limits;
use crate::money::Picos;
use crate::serving::Demand;

/// Longest name of a model.
pub const MAX_MODEL_BYTES: usize = 256;
const MAX_STOP_TOKENS: usize = 64;
const MIN_DEADLINE_S: f64 = 0.001;
const MAX_DEADLINE_S: f64 = 86_400.0;
const MAX_PRICE_BYTES: usize = 40;
const MAX_METADATA_KEY_BYTES: usize = 64;
const MAX_METADATA_VALUE_BYTES: usize = 512;

/// Shared request fields: a generation without prompts, and how to stream it.
#[derive(Debug)]
pub struct Common {
    /// Prompts, output limit and log probabilities are still missing.
    pub generation: Generation,
    /// Settings of the stream.
    pub options: ChunkOptions,
}

impl Common {
    /// Takes the shared fields of a request to `endpoint`.
    pub fn read(fields: &mut Fields, limits: &Limits, endpoint: &'static str) -> ApiResult<Self> {
        let model = fields.string("model", MAX_MODEL_BYTES)?;
        let model = fields.required("model", model)?;
        let stream = fields.boolean("stream")?.unwrap_or(false);
        let options = stream_options(fields, stream)?;
        let (tier, demand) = (service_tier(fields)?, demand(fields)?);
        store(fields)?;
        // Prefixes are cached for every request; the key is a routing hint that one server has no use for.
        fields.string("prompt_cache_key", 1_024)?;
        let user = fields.string("user", limits.user_bytes)?;
        let safety_identifier = fields.string("safety_identifier", limits.user_bytes)?;
        let generation = Generation {
            endpoint,
            model,
            n: fields.count("n", 1, limits.max_n)?.unwrap_or(1),
            stream,
            tier,
            demand,
            sampling: sampling(fields, limits)?,
            stop: stop(fields, limits)?,
            user: safety_identifier.or(user),
            metadata: metadata(fields, limits.max_metadata)?,
            format: structured_outputs(fields)?.unwrap_or_default(),
            ..Generation::default()
        };
        Ok(Self { generation, options })
    }

    /// Sets the format that `field` asks for; only one field may.
    pub fn set_format(&mut self, format: Format, field: &str) -> ApiResult<()> {
        if format != Format::Text && self.generation.format != Format::Text {
            let message = format!("Set either '{field}' or 'structured_outputs', not both.");
            return Err(ApiError::param(Code::ConflictingParameters, field, message));
        }
        if format != Format::Text {
            self.generation.format = format;
        }
        Ok(())
    }

    /// Sets the output limit; refuses a `min_tokens` that cannot be reached with it.
    pub fn limit_output(&mut self, max_tokens: Option<u32>) -> ApiResult<()> {
        let min_tokens = self.generation.sampling.min_tokens;
        if let Some(max) = max_tokens.filter(|max| min_tokens > *max) {
            let reason = format!("it is {min_tokens} but at most {max} tokens are allowed");
            return Err(invalid("min_tokens", &reason));
        }
        self.generation.max_tokens = max_tokens;
        Ok(())
    }
}

/// Takes everything that says how to choose tokens.
pub fn sampling(fields: &mut Fields, limits: &Limits) -> ApiResult<Sampling> {
    Ok(Sampling {
        seed: fields.integer("seed", i64::MIN, i64::MAX)?,
        temperature: fields.decimal("temperature", 0.0, 2.0)?,
        top_p: fields.decimal("top_p", 0.0, 1.0)?,
        top_k: top_k(fields)?,
        min_p: fields.decimal("min_p", 0.0, 1.0)?,
        presence_penalty: fields.decimal("presence_penalty", -2.0, 2.0)?,
        frequency_penalty: fields.decimal("frequency_penalty", -2.0, 2.0)?,
        repetition_penalty: fields.decimal("repetition_penalty", 0.01, 100.0)?,
        logit_bias: logit_bias(fields, limits.max_logit_bias)?,
        min_tokens: fields.count("min_tokens", 0, i32::MAX as u32)?.unwrap_or(0),
        ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
    })
}

fn stream_options(fields: &mut Fields, stream: bool) -> ApiResult<ChunkOptions> {
    let Some(options) = fields.take("stream_options") else { return Ok(ChunkOptions::default()) };
    if !stream {
        return Err(invalid("stream_options", "it is only allowed when 'stream' is true"));
    }
    let mut options = Fields::nested(options, "stream_options")?;
    let include_usage = options.boolean("include_usage")?.unwrap_or(false);
    let obfuscate = options.boolean("include_obfuscation")?.unwrap_or(false);
    options.finish(&[])?;
    Ok(ChunkOptions { include_usage, obfuscate })
}

/// Takes `service_tier`, in the words of the public platforms; absent: the project's default.
pub fn service_tier(fields: &mut Fields) -> ApiResult<Option<Tier>> {
    let Some(word) = fields.string("service_tier", 64)? else { return Ok(None) };
    match word.as_str() {
        "auto" => Ok(None),
        "standard" | "on_demand" => Ok(Some(Tier::Default)),
        "fast" => Ok(Some(Tier::Priority)),
        "scale" => Ok(Some(Tier::Reserved)),
        name => Tier::named(name).map(Some).ok_or_else(|| {
            let message = format!(
                "The service tier '{word}' does not exist. Use 'auto', 'default', 'flex', 'priority' or 'scale'."
            );
            ApiError::param(Code::UnsupportedValue, "service_tier", message)
        }),
    }
}

/// Takes `deadline`, in seconds from the request's arrival, and `max_price`, in USD for the whole request.
pub fn demand(fields: &mut Fields) -> ApiResult<Demand> {
    let deadline = fields.decimal("deadline", MIN_DEADLINE_S, MAX_DEADLINE_S)?;
    let max_price = fields.string("max_price", MAX_PRICE_BYTES)?.map(|text| {
        let price = Picos::parse_usd(&text).ok().filter(|price| *price > Picos::ZERO);
        price.ok_or_else(|| {
            invalid("max_price", "expected USD as a decimal string above zero, such as \"0.002\"")
        })
    });
    Ok(Demand { deadline: deadline.map(Duration::from_secs_f32), max_price: max_price.transpose()? })
}

fn store(fields: &mut Fields) -> ApiResult<()> {
    if fields.boolean("store")? == Some(true) {
        let message = "Answers are never stored here. Leave out 'store' or set it to false.";
        return Err(ApiError::param(Code::UnsupportedParameter, "store", message));
    }
    Ok(())
}

fn top_k(fields: &mut Fields) -> ApiResult<Option<u32>> {
    // Both 0 and -1 are in use for "no limit".
    Ok(fields.integer("top_k", -1, i64::from(i32::MAX))?.map(|k| u32::try_from(k).unwrap_or(0)))
}

/// Takes `stop` and `stop_token_ids`.
pub fn stop(fields: &mut Fields, limits: &Limits) -> ApiResult<Stop> {
    let strings = match fields.take("stop") {
        None => Vec::new(),
        Some(Json::Array(items)) => array_of("stop", Json::Array(items), limits.max_stop)?,
        Some(text @ Json::String(_)) => vec![text],
        Some(other) => return Err(wrong_type("stop", "a string or an array of strings", &other)),
    };
    let strings: Vec<String> = strings
        .into_iter()
        .map(|item| string_of("stop", item, limits.max_stop_bytes))
        .collect::<ApiResult<_>>()?;
    if strings.iter().any(String::is_empty) {
        return Err(ApiError::param(
            Code::EmptyString,
            "stop",
            "Invalid 'stop': a stop string must not be empty.",
        ));
    }
    let path = "stop_token_ids";
    let ids = fields.array(path, MAX_STOP_TOKENS)?.unwrap_or_default();
    let token_ids = ids.iter().map(|id| token_of(path, id)).collect::<ApiResult<_>>()?;
    Ok(Stop { max_tokens: 0, strings, token_ids, include_stop: false })
}

/// A token id.
pub fn token_of(path: &str, value: &Json) -> ApiResult<u32> {
    let id = integer_of(path, value, 0, i64::from(u32::MAX))?;
    Ok(u32::try_from(id).expect("within the u32 bounds above"))
}

fn logit_bias(fields: &mut Fields, max_entries: usize) -> ApiResult<Vec<(u32, f32)>> {
    let object = match fields.take("logit_bias") {
        None => return Ok(Vec::new()),
        Some(Json::Object(object)) => object,
        Some(other) => return Err(wrong_type("logit_bias", "an object of token ids and numbers", &other)),
    };
    if object.len() > max_entries {
        let message = format!(
            "Invalid 'logit_bias': {} entries are more than the maximum {max_entries}.",
            object.len()
        );
        return Err(ApiError::param(Code::ObjectTooLarge, "logit_bias", message));
    }
    let entry = |(key, value): (&String, &Json)| {
        let digits = !key.is_empty() && key.bytes().all(|b| b.is_ascii_digit());
        let id = key.parse().ok().filter(|_| digits);
        let id = id.ok_or_else(|| invalid("logit_bias", "its keys must be token ids"))?;
        Ok((id, decimal_of("logit_bias", value, -100.0, 100.0)? as f32))
    };
    let entries: Vec<(u32, f32)> = object.iter().map(entry).collect::<ApiResult<_>>()?;
    // "7" and "07" are one token.
    let mut ids: Vec<u32> = entries.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(invalid("logit_bias", "a token id occurs twice"));
    }
    Ok(entries)
}

/// Takes `metadata`.
pub fn metadata(fields: &mut Fields, max_pairs: usize) -> ApiResult<Option<Value>> {
    let path = "metadata";
    let object = match fields.take(path) {
        None => return Ok(None),
        Some(Json::Object(object)) => object,
        Some(other) => return Err(wrong_type(path, "an object of strings", &other)),
    };
    if object.len() > max_pairs {
        let message = format!("Invalid 'metadata': more than the maximum {max_pairs} pairs.");
        return Err(ApiError::param(Code::ObjectTooLarge, path, message));
    }
    let mut tags = Map::new();
    for (key, value) in *object {
        if key.len() > MAX_METADATA_KEY_BYTES {
            let message = format!(
                "Invalid 'metadata': a key is longer than the maximum {MAX_METADATA_KEY_BYTES} bytes."
            );
            return Err(ApiError::param(Code::StringTooLong, path, message));
        }
        let value = string_of(&format!("metadata.{key}"), value, MAX_METADATA_VALUE_BYTES)?;
        tags.insert(key, Value::String(value));
    }
    Ok(Some(Value::Object(tags)))
}

/// `max_tokens`-like fields: at least 1; values beyond the context are clamped later.
pub fn max_tokens(fields: &mut Fields, key: &str) -> ApiResult<Option<u32>> {
    fields.count(key, 1, i32::MAX as u32)
}
