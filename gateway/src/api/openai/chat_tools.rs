//! `tools`, `tool_choice` and `parallel_tool_calls`.

use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::{Fields, array_of, invalid, wrong_type};
use crate::api::functions;
use crate::api::generation::{ToolChoice, ToolUse};
use crate::api::json::Json;
use crate::api::strict_schema;

/// Takes all three.
pub(super) fn read(fields: &mut Fields, max: usize) -> ApiResult<ToolUse> {
    for (old, new) in [("functions", "tools"), ("function_call", "tool_choice")] {
        if fields.take(old).is_some() {
            let message =
                format!("Unsupported parameter: '{old}' is no longer offered. Use '{new}' instead.");
            return Err(ApiError::param(Code::UnsupportedParameter, old, message));
        }
    }
    let items = fields.array("tools", max)?.unwrap_or_default();
    let tools = items.into_iter().enumerate().map(|(i, item)| tool(item, &format!("tools[{i}]")));
    let mut wanted = ToolUse { tools: tools.collect::<ApiResult<_>>()?, ..ToolUse::default() };
    if let Some(parallel) = fields.boolean("parallel_tool_calls")? {
        wanted.parallel = parallel;
    }
    if let Some(choice) = fields.take("tool_choice") {
        self::choice(choice, &mut wanted)?;
    }
    functions::check(&wanted, "tool_choice")?;
    Ok(wanted)
}

fn tool(item: Json, path: &str) -> ApiResult<models::Tool> {
    let mut fields = Fields::nested(item, path)?;
    only_functions(&mut fields)?;
    let function = fields.take("function");
    let mut function = Fields::nested(fields.required("function", function)?, &fields.path("function"))?;
    fields.finish(&[])?;
    let tool = functions::function(&mut function, "parameters")?;
    if function.boolean("strict")? == Some(true) {
        strict_schema::check(&tool.parameters, &function.path("parameters"))?;
    }
    function.finish(&[])?;
    Ok(tool)
}

fn only_functions(fields: &mut Fields) -> ApiResult<()> {
    let kind = fields.string("type", 64)?;
    match fields.required("type", kind)?.as_str() {
        "function" => Ok(()),
        "custom" => {
            let message = "Tools of type 'custom' are not offered. Use a tool of type 'function' with a string parameter.";
            Err(ApiError::param(Code::UnsupportedValue, fields.path("type"), message))
        }
        _ => Err(invalid(&fields.path("type"), "expected 'function'")),
    }
}

fn choice(value: Json, wanted: &mut ToolUse) -> ApiResult<()> {
    let fields = match value {
        Json::String(word) => {
            wanted.choice = mode(&word, "tool_choice", &["none", "auto", "required"])?;
            return Ok(());
        }
        object @ Json::Object(_) => object,
        other => return Err(wrong_type("tool_choice", "a string or an object", &other)),
    };
    let mut fields = Fields::nested(fields, "tool_choice")?;
    let kind = fields.string("type", 64)?;
    match fields.required("type", kind)?.as_str() {
        "function" => {
            let function = fields.take("function");
            let mut function =
                Fields::nested(fields.required("function", function)?, "tool_choice.function")?;
            wanted.choice = ToolChoice::Named(functions::name(&mut function)?);
            function.finish(&[])?;
        }
        "allowed_tools" => {
            let allowed = fields.take("allowed_tools");
            allow(fields.required("allowed_tools", allowed)?, wanted)?;
        }
        _ => return Err(invalid("tool_choice.type", "expected 'function' or 'allowed_tools'")),
    }
    fields.finish(&[])
}

/// Leaves only the tools that are allowed.
fn allow(value: Json, wanted: &mut ToolUse) -> ApiResult<()> {
    let path = "tool_choice.allowed_tools";
    let mut fields = Fields::nested(value, path)?;
    let word = fields.string("mode", 64)?;
    wanted.choice = mode(&fields.required("mode", word)?, &fields.path("mode"), &["auto", "required"])?;
    let (items, list) = (fields.take("tools"), fields.path("tools"));
    let items = array_of(&list, fields.required("tools", items)?, wanted.tools.len())?;
    fields.finish(&[])?;
    let mut names = Vec::new();
    for (i, item) in items.into_iter().enumerate() {
        let mut item = Fields::nested(item, &format!("{list}[{i}]"))?;
        only_functions(&mut item)?;
        let function = item.take("function");
        let mut function = Fields::nested(item.required("function", function)?, &item.path("function"))?;
        item.finish(&[])?;
        let (name, at) = (functions::name(&mut function)?, function.path("name"));
        function.finish(&[])?;
        if !wanted.tools.iter().any(|tool| tool.name == name) {
            return Err(invalid(&at, "there is no such tool in 'tools'"));
        }
        names.push(name);
    }
    wanted.tools.retain(|tool| names.contains(&tool.name));
    Ok(())
}

fn mode(word: &str, path: &str, allowed: &[&str]) -> ApiResult<ToolChoice> {
    match word {
        word if !allowed.contains(&word) => {
            Err(invalid(path, &format!("expected one of {}", allowed.join(", "))))
        }
        "none" => Ok(ToolChoice::None),
        "required" => Ok(ToolChoice::Required),
        _ => Ok(ToolChoice::Auto),
    }
}
