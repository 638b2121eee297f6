//! Items of a conversation, as a request brings them.

use serde_json::Value;
use utoipa::ToSchema;

/// One item.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum InputItem {
    /// Something said.
    Message(InputMessage),
    /// A call that the model made.
    Call(InputCall),
    /// What the function answered.
    CallOutput(InputCallOutput),
    /// What the model thought.
    Reasoning(InputReasoning),
    /// What stands for an earlier part of the conversation.
    Compaction(InputCompaction),
    /// An item of an earlier answer.
    Reference(InputReference),
}

/// Declares the one value that a field has.
macro_rules! only {
    ($($(#[$about:meta])* $name:ident $value:ident)*) => {$(
        $(#[$about])*
        #[derive(ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $(#[$about])*
            $value,
        }
    )*};
}

only! {
    /// Something said.
    MessageItemType Message
    /// A call.
    CallItemType FunctionCall
    /// Its answer.
    CallOutputItemType FunctionCallOutput
    /// Thoughts.
    ReasoningItemType Reasoning
    /// A summary.
    CompactionItemType Compaction
    /// A reference.
    ReferenceItemType ItemReference
    /// Thoughts in short.
    SummaryType SummaryText
    /// Thoughts.
    ThoughtType ReasoningText
}

/// What stands for an earlier part of the conversation, as it was made by `POST /v1/responses/compact`.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputCompaction {
    /// `compaction`.
    pub r#type: CompactionItemType,
    /// The sealed summary.
    pub encrypted_content: String,
    /// Given anew.
    #[schema(max_length = 256)]
    pub id: Option<String>,
}

/// Something said.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputMessage {
    /// May be left out.
    pub r#type: Option<MessageItemType>,
    /// Who says it.
    pub role: InputRole,
    /// What.
    pub content: InputContent,
    /// What an assistant's message is in its turn; kept with it.
    pub phase: Option<InputPhase>,
    /// Of an item that comes back; given anew.
    #[schema(max_length = 256)]
    pub id: Option<String>,
    /// Of an item that comes back.
    #[schema(max_length = 64)]
    pub status: Option<String>,
}

/// Who says something.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InputRole {
    /// The user.
    User,
    /// The model.
    Assistant,
    /// The operator.
    System,
    /// The operator.
    Developer,
}

/// What an assistant's message is in its turn.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InputPhase {
    /// On the way.
    Commentary,
    /// At the end.
    FinalAnswer,
}

/// A text, or parts of it.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum InputContent {
    /// A text.
    Text(String),
    /// Parts, joined as they are; at least one.
    Parts(Vec<InputPart>),
}

/// A part of a message.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputPart {
    /// `input_text`, or `output_text` of an answer that comes back.
    pub r#type: InputPartType,
    /// What it says.
    pub text: String,
    /// Of an answer that comes back; not read.
    pub annotations: Option<Vec<Value>>,
    /// Of an answer that comes back; not read.
    pub logprobs: Option<Vec<Value>>,
}

/// Kind of a part.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InputPartType {
    /// Of a caller.
    InputText,
    /// Of an answer.
    OutputText,
}

/// A call that the model made.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputCall {
    /// `function_call`.
    pub r#type: CallItemType,
    /// Names the call.
    #[schema(max_length = 256)]
    pub call_id: String,
    /// The function.
    #[schema(pattern = "^[A-Za-z0-9_-]+$", max_length = 128)]
    pub name: String,
    /// A JSON text.
    pub arguments: String,
    /// Given anew.
    #[schema(max_length = 256)]
    pub id: Option<String>,
    /// Of an item that comes back.
    #[schema(max_length = 64)]
    pub status: Option<String>,
}

/// What a function answered.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputCallOutput {
    /// `function_call_output`.
    pub r#type: CallOutputItemType,
    /// Which call.
    #[schema(max_length = 256)]
    pub call_id: String,
    /// A text, or parts of type `input_text`.
    pub output: InputContent,
    /// Given anew.
    #[schema(max_length = 256)]
    pub id: Option<String>,
    /// Of an item that comes back.
    #[schema(max_length = 64)]
    pub status: Option<String>,
}

/// What the model thought.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputReasoning {
    /// `reasoning`.
    pub r#type: ReasoningItemType,
    /// In short.
    pub summary: Option<Vec<Summary>>,
    /// In full.
    pub content: Option<Vec<Thought>>,
    /// Given anew.
    #[schema(max_length = 256)]
    pub id: Option<String>,
    /// Of an item that comes back.
    #[schema(max_length = 64)]
    pub status: Option<String>,
}

/// Thoughts in short.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// `summary_text`.
    pub r#type: SummaryType,
    /// What it says.
    pub text: String,
}

/// Thoughts.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Thought {
    /// `reasoning_text`.
    pub r#type: ThoughtType,
    /// What it says.
    pub text: String,
}

/// An item of an earlier answer.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputReference {
    /// `item_reference`.
    pub r#type: ReferenceItemType,
    /// Its id.
    #[schema(max_length = 256)]
    pub id: String,
}
