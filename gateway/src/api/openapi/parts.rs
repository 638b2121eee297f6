//! What requests consist of: messages, tools, forms.

use serde_json::Value;
use utoipa::ToSchema;

/// One string or several.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// A text, token ids, or a list of either.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Prompt {
    /// A text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Token ids.
    Tokens(Vec<u32>),
    /// Lists of token ids.
    ManyTokens(Vec<Vec<u32>>),
}

/// How to stream.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// Send a last chunk with the counts.
    pub include_usage: Option<bool>,
    /// Pad chunks to hide their length.
    pub include_obfuscation: Option<bool>,
}

/// Who speaks.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The operator of the application.
    System,
    /// The same.
    Developer,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// A tool's answer.
    Tool,
}

/// Something said.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What.
    pub content: Option<MessageContent>,
    /// A label that some templates write.
    #[schema(max_length = 64)]
    pub name: Option<String>,
    /// Calls that the assistant made.
    pub tool_calls: Option<Vec<CallParam>>,
    /// The call that a tool answers.
    pub tool_call_id: Option<String>,
    /// What the assistant thought.
    pub reasoning_content: Option<String>,
    /// Empty; clients send it back.
    #[schema(max_items = 0)]
    pub annotations: Option<Vec<String>>,
    /// A client's own copy; not read.
    pub parsed: Option<Value>,
}

/// A text, or parts of it.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum MessageContent {
    /// A text.
    Text(String),
    /// Parts, joined as they are.
    Parts(Vec<TextPart>),
}

/// A part of a message.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TextPart {
    /// `text`.
    pub r#type: TextPartType,
    /// What it says.
    pub text: String,
}

/// Kind of a part.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TextPartType {
    /// Text.
    Text,
}

/// A call that the assistant made.
#[derive(ToSchema)]
pub struct CallParam {
    /// Names it in the tool's answer.
    pub id: String,
    /// `function`.
    pub r#type: Option<FunctionType>,
    /// What was called.
    pub function: CalledFunction,
}

/// What was called.
#[derive(ToSchema)]
pub struct CalledFunction {
    /// Name.
    #[schema(pattern = "^[A-Za-z0-9_-]+$", max_length = 128)]
    pub name: String,
    /// JSON text.
    pub arguments: String,
}

/// Kind of a tool.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FunctionType {
    /// A function that the client runs.
    Function,
}

/// A function that the model may call.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// `function`.
    pub r#type: FunctionType,
    /// The function.
    pub function: Function,
}

/// A function.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Function {
    /// Name.
    #[schema(pattern = "^[A-Za-z0-9_-]+$", max_length = 128)]
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// JSON schema of its arguments; calls keep to it.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Refuse keywords that cannot be enforced.
    pub strict: Option<bool>,
}

/// Whether tools may or must be called, and which.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum ToolChoice {
    /// A mode.
    Mode(ToolMode),
    /// `{"type": "function", ...}` or `{"type": "allowed_tools", ...}`.
    #[schema(value_type = Object)]
    Named(Value),
}

/// Whether tools are called.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ToolMode {
    /// Never.
    None,
    /// As the model likes.
    Auto,
    /// At least one.
    Required,
}

/// Form of the answer.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseFormat {
    /// Which.
    pub r#type: FormatType,
    /// With `json_schema`: the schema.
    pub json_schema: Option<NamedSchema>,
}

/// Forms of an answer.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FormatType {
    /// Free.
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON of a schema.
    JsonSchema,
}

/// A schema with a name.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedSchema {
    /// A label.
    #[schema(pattern = "^[A-Za-z0-9_-]+$", max_length = 64)]
    pub name: String,
    /// A label.
    pub description: Option<String>,
    /// Refuse keywords that cannot be enforced.
    pub strict: Option<bool>,
    /// The schema.
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
}

/// Exactly one of these.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StructuredOutputs {
    /// A JSON schema, or its text.
    pub json: Option<Value>,
    /// Any JSON object.
    pub json_object: Option<bool>,
    /// A regular expression for the whole answer.
    pub regex: Option<String>,
    /// One of these texts.
    pub choice: Option<Vec<String>>,
    /// A grammar in Lark syntax with rule `start`.
    pub grammar: Option<String>,
}
