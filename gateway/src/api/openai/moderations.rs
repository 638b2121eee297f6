//! `POST /v1/moderations`: the operator's content rules as categories. Free of charge.

use axum::Json as Answer;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::api::Shared;
use crate::api::auth::Caller;
use crate::api::body::Asked;
use crate::api::error::{ApiError, ApiResult};
use crate::api::fields::{Fields, array_of, not_empty, unsupported, wrong_type};
use crate::api::json::Json;
use crate::guard::{Guard, Refusal};
use crate::serving::off_thread;

const MAX_MODEL_BYTES: usize = 256;
/// Most texts of a request, as the public API allows.
const MAX_INPUTS: usize = 2_048;

/// The answer.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Moderation {
    id: String,
    model: &'static str,
    results: Vec<Verdict>,
}

/// What was found in one text.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ModerationResult)]
struct Verdict {
    flagged: bool,
    #[schema(value_type = std::collections::HashMap<String, bool>)]
    categories: Map<String, Value>,
    /// 1 or 0: rules match or they do not.
    #[schema(value_type = std::collections::HashMap<String, f64>)]
    category_scores: Map<String, Value>,
    #[schema(value_type = std::collections::HashMap<String, Vec<String>>)]
    category_applied_input_types: Map<String, Value>,
}

/// Searches each text for every rule, and asks the hook.
#[utoipa::path(
    post,
    path = "/v1/moderations",
    operation_id = "createModeration",
    tag = "moderations",
    request_body = crate::api::openapi::vectors::ModerationRequest,
    responses((status = 200, description = "One result a text.", body = Moderation)),
)]
pub async fn create(
    State(api): State<Shared>,
    caller: Caller,
    Asked(body): Asked,
) -> ApiResult<Answer<Moderation>> {
    let texts = read(body)?;
    let (bytes, guard) = (texts.iter().map(String::len).sum(), api.guard.clone());
    let work = move || {
        let verdicts = texts.iter().map(|text| verdict(&guard, text)).collect::<Vec<_>>();
        (verdicts, texts)
    };
    let (mut results, texts) = off_thread(bytes, work).await?;
    let judged = api.serving.in_time(caller.scope.arrived, api.guard.judge_all(texts)).await?;
    let judged = judged.map_err(|error| ApiError::of_content(Refusal::Unjudged(error), "input"))?;
    for (verdict, judgement) in results.iter_mut().zip(judged) {
        verdict.flagged |= judgement.flagged;
        for (name, found) in judgement.categories {
            verdict.note(&name, found == Some(true));
        }
    }
    let id = format!("modr-{}", caller.scope.suffix());
    Ok(Answer(Moderation { id, model: "content-rules", results }))
}

impl Verdict {
    fn note(&mut self, category: &str, found: bool) {
        self.categories.insert(category.to_owned(), found.into());
        self.category_scores.insert(category.to_owned(), u8::from(found).into());
        self.category_applied_input_types.insert(category.to_owned(), json!(["text"]));
    }
}

fn verdict(guard: &Guard, text: &str) -> Verdict {
    let mut verdict = Verdict {
        flagged: false,
        categories: Map::new(),
        category_scores: Map::new(),
        category_applied_input_types: Map::new(),
    };
    for (name, matches) in guard.categories(text) {
        verdict.flagged |= matches;
        verdict.note(name, matches);
    }
    verdict
}

fn read(body: Json) -> ApiResult<Vec<String>> {
    let mut fields = Fields::root(body)?;
    // There is one set of rules, whatever model a client asks for.
    fields.string("model", MAX_MODEL_BYTES)?;
    let input = fields.take("input");
    let input = fields.required("input", input)?;
    fields.finish(&[])?;
    match input {
        Json::String(text) => Ok(vec![text.into_string()]),
        Json::Array(items) => {
            let items = array_of("input", Json::Array(items), MAX_INPUTS)?;
            not_empty("input", &items)?;
            items.into_iter().enumerate().map(|(i, item)| text(item, &format!("input[{i}]"))).collect()
        }
        other => Err(wrong_type("input", "a string or an array of strings", &other)),
    }
}

fn text(item: Json, path: &str) -> ApiResult<String> {
    match item {
        Json::String(text) => Ok(text.into_string()),
        Json::Object(_) => {
            let mut part = Fields::nested(item, path)?;
            let kind = part.string("type", 64)?;
            if part.required("type", kind)? != "text" {
                return Err(unsupported(&part.path("type")));
            }
            let text = part.string("text", usize::MAX)?;
            let text = part.required("text", text)?;
            part.finish(&[])?;
            Ok(text)
        }
        other => Err(wrong_type(path, "a string or a text part", &other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_what_is_read() {
        let body = crate::api::json::parse(br#"{"input":"a"}"#, 8).unwrap();
        crate::api::openapi::testing::assert_documented("ModerationRequest", || assert!(read(body).is_ok()));
    }
}
