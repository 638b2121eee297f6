//! The form of an answer as a grammar: thinking, then the wanted format or calls of tools.

use engine::{GrammarError, GrammarSource};
use models::dialect::{Calls, Rest, form as written};
use models::{Dialect, Tool};
use serde_json::{Value, json};

use super::{Format, Generation, ToolChoice};
use crate::api::error::{ApiError, Code};

/// Name of the format's part in a grammar.
const CONTENT: &str = "content";
/// Names of the tools' parts begin with this.
const TOOL: &str = "tool_";

impl Format {
    /// The grammar of a text in this format.
    fn source(&self) -> Option<GrammarSource> {
        match self {
            Self::Text => None,
            Self::JsonObject => Some(GrammarSource::json_object()),
            Self::JsonSchema { schema, strict } => {
                Some(GrammarSource::JsonSchema { schema: schema.clone(), strict: *strict })
            }
            Self::Regex(pattern) => Some(GrammarSource::Regex(pattern.clone())),
            Self::Choice(texts) => Some(GrammarSource::Choice(texts.clone())),
            Self::Lark(text) => Some(GrammarSource::Lark(text.clone())),
        }
    }
}

impl Generation {
    /// The tools that the model hears of.
    pub(super) fn offered(&self) -> &[Tool] {
        if self.tools.choice == ToolChoice::None { &[] } else { &self.tools.tools }
    }

    /// The grammar of the whole answer; `None` if it is free. A prompt that is no conversation knows no calls or thinking.
    pub(super) fn grammar(&self, dialect: Dialect) -> Option<GrammarSource> {
        let content = self.format.source();
        let callable: Vec<&Tool> = match &self.tools.choice {
            ToolChoice::Named(name) => self.offered().iter().filter(|tool| tool.name == *name).collect(),
            _ => self.offered().iter().collect(),
        };
        let is_free = callable.is_empty() && content.is_none();
        if is_free || !self.is_conversation() || (callable.is_empty() && !dialect.thinks) {
            return content;
        }
        let names: Vec<&str> = callable.iter().map(|tool| tool.name.as_str()).collect();
        let is_named = matches!(self.tools.choice, ToolChoice::Named(_));
        let calls = Calls { names: &names, parallel: self.tools.parallel && !is_named };
        let rest = match (&self.tools.choice, &content) {
            (ToolChoice::Required | ToolChoice::Named(_), _) => Rest::Nothing,
            (_, Some(_)) => Rest::Content,
            (_, None) => Rest::Text,
        };
        let schema = |tool: &Tool| GrammarSource::JsonSchema { schema: arguments(tool), strict: false };
        let tools = callable.iter().enumerate().map(|(i, tool)| (format!("{TOOL}{i}"), schema(tool)));
        let content = content.filter(|_| rest == Rest::Content).map(|content| (CONTENT.to_owned(), content));
        Some(GrammarSource::Composed {
            text: written(dialect, calls, rest),
            parts: tools.chain(content).collect(),
        })
    }

    /// A refused grammar, said of the field it came in.
    pub(super) fn refuse_grammar(&self, error: GrammarError) -> ApiError {
        let (part, error) = match error {
            GrammarError::Part { name, source } => (Some(name), *source),
            error => (None, error),
        };
        if let GrammarError::Busy { .. } = error {
            let message =
                "The server is compiling as many schemas as it can. Nothing was charged. Try again shortly.";
            return ApiError::new(Code::Overloaded, message).retry_after_ms(1_000);
        }
        let field = match part.as_deref().and_then(|name| name.strip_prefix(TOOL)?.parse::<usize>().ok()) {
            Some(index) => self.tool_field(index),
            None if self.format == Format::Text => "tools".to_owned(),
            None => self.format_field().to_owned(),
        };
        let what = match self.format {
            Format::Regex(_) | Format::Choice(_) | Format::Lark(_) => "grammar",
            _ => "schema",
        };
        ApiError::param(Code::InvalidSchema, field.clone(), format!("Invalid {what} for '{field}': {error}."))
    }

    /// The field with the arguments' schema of callable tool `index`.
    fn tool_field(&self, index: usize) -> String {
        let index = match &self.tools.choice {
            ToolChoice::Named(name) => {
                self.tools.tools.iter().position(|tool| tool.name == *name).unwrap_or(index)
            }
            _ => index,
        };
        let schema = match self.endpoint {
            "/v1/responses" => "parameters",
            "/v1/messages" => "input_schema",
            _ => "function.parameters",
        };
        format!("tools[{index}].{schema}")
    }

    fn format_field(&self) -> &'static str {
        match (&self.format, self.endpoint) {
            (Format::Regex(_) | Format::Choice(_) | Format::Lark(_), _) | (_, "/v1/completions") => {
                "structured_outputs"
            }
            (_, "/v1/responses") => "text.format",
            (_, "/v1/messages") => "output_config.format",
            _ => "response_format",
        }
    }
}

/// The schema of a tool's arguments, which are always an object.
fn arguments(tool: &Tool) -> Value {
    match &tool.parameters {
        Value::Object(map) if map.is_empty() => {
            json!({"type": "object", "properties": {}, "additionalProperties": false})
        }
        Value::Object(map) if !map.contains_key("type") && !map.contains_key("$ref") => {
            let mut map = map.clone();
            map.insert("type".to_owned(), "object".into());
            Value::Object(map)
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::generation::ToolUse;
    use crate::serving::PromptInput;

    fn tool(name: &str, parameters: Value) -> Tool {
        Tool { name: name.to_owned(), description: None, parameters }
    }

    fn generation(choice: ToolChoice, format: Format) -> Generation {
        let tools = vec![tool("a", json!({})), tool("b", json!({"properties": {}}))];
        let prompts = vec![PromptInput::Chat(models::Conversation::default())];
        Generation {
            tools: ToolUse { tools, choice, parallel: true },
            format,
            prompts,
            ..Generation::default()
        }
    }

    fn parts(source: Option<GrammarSource>) -> Vec<String> {
        match source {
            Some(GrammarSource::Composed { parts, .. }) => parts.into_iter().map(|(name, _)| name).collect(),
            other => panic!("not composed: {other:?}"),
        }
    }

    #[test]
    fn a_grammar_has_what_may_be_written_and_no_more() {
        let plain = Dialect::default();
        let named = || ToolChoice::Named("b".to_owned());
        assert_eq!(parts(generation(ToolChoice::Auto, Format::Text).grammar(plain)), ["tool_0", "tool_1"]);
        assert_eq!(parts(generation(named(), Format::JsonObject).grammar(plain)), ["tool_0"]);
        let both = generation(ToolChoice::Auto, Format::JsonObject).grammar(plain);
        assert_eq!(parts(both), ["tool_0", "tool_1", "content"]);
        assert_eq!(generation(ToolChoice::None, Format::Text).grammar(plain), None);
        let thinks = Dialect { thinks: true, ..plain };
        assert_eq!(parts(generation(ToolChoice::None, Format::JsonObject).grammar(thinks)), ["content"]);
        let mut text = generation(ToolChoice::None, Format::JsonObject);
        text.prompts = vec![PromptInput::Text("x".to_owned())];
        assert_eq!(text.grammar(thinks), Some(GrammarSource::json_object()));
    }

    #[test]
    fn refusals_name_the_field() {
        let error = || Box::new(GrammarError::Invalid("bad".to_owned()));
        let part = |name: &str| GrammarError::Part { name: name.to_owned(), source: error() };
        let field =
            |generation: &Generation, error| generation.refuse_grammar(error).param.unwrap_or_default();
        let auto = generation(ToolChoice::Auto, Format::JsonObject);
        assert_eq!(field(&auto, part("tool_1")), "tools[1].function.parameters");
        assert_eq!(field(&auto, part("content")), "response_format");
        let named = generation(ToolChoice::Named("b".to_owned()), Format::Text);
        assert_eq!(field(&named, part("tool_0")), "tools[1].function.parameters");
        assert_eq!(
            field(&generation(ToolChoice::Auto, Format::Regex("(".to_owned())), *error()),
            "structured_outputs"
        );
    }
}
