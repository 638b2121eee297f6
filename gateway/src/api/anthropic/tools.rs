//! `tools` and `tool_choice`.

use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::{Fields, invalid};
use crate::api::functions;
use crate::api::generation::{ToolChoice, ToolUse};
use crate::api::json::Json;

use super::content::cache_control;

/// Fields of a tool that change nothing for a tool that the client runs, or that need servers that are not here.
const REFUSED: &[&str] = &["allowed_callers", "defer_loading", "input_examples"];

/// Takes both.
pub(super) fn read(fields: &mut Fields, max: usize) -> ApiResult<ToolUse> {
    let items = fields.array("tools", max)?.unwrap_or_default();
    let tools = items.into_iter().enumerate().map(|(i, item)| tool(item, &format!("tools[{i}]")));
    let mut wanted = ToolUse { tools: tools.collect::<ApiResult<_>>()?, ..ToolUse::default() };
    if let Some(choice) = fields.take("tool_choice") {
        (wanted.choice, wanted.parallel) = self::choice(choice)?;
    }
    functions::check(&wanted, "tool_choice")?;
    Ok(wanted)
}

fn tool(item: Json, path: &str) -> ApiResult<models::Tool> {
    let mut fields = Fields::nested(item, path)?;
    match fields.string("type", 64)?.as_deref() {
        None | Some("custom") => {}
        Some(kind) => {
            let message = format!(
                "Tools of type '{kind}' run on the server and are not offered. Use tools of type 'custom'."
            );
            return Err(ApiError::param(Code::UnsupportedValue, fields.path("type"), message));
        }
    }
    let tool = functions::function(&mut fields, "input_schema")?;
    cache_control(&mut fields)?;
    // Arguments always keep to the schema, and are always streamed as they come.
    fields.boolean("strict")?;
    fields.boolean("eager_input_streaming")?;
    fields.finish(REFUSED)?;
    Ok(tool)
}

fn choice(value: Json) -> ApiResult<(ToolChoice, bool)> {
    let mut fields = Fields::nested(value, "tool_choice")?;
    let kind = fields.string("type", 64)?;
    let choice = match fields.required("type", kind)?.as_str() {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Named(functions::name(&mut fields)?),
        _ => return Err(invalid("tool_choice.type", "expected 'auto', 'any', 'tool' or 'none'")),
    };
    let one_only = fields.boolean("disable_parallel_tool_use")?.unwrap_or(false);
    fields.finish(&[])?;
    Ok((choice, !one_only))
}
