//! Items: what a conversation consists of, in and out, and how it is kept.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = ResponseItem)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(in crate::api) enum Item {
    /// Something said.
    Message {
        id: String,
        status: Status,
        /// `user`, `assistant`, `system` or `developer`.
        role: String,
        content: Vec<Content>,
        /// What a caller says about an assistant's message; kept with it, and not shown to the model.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        phase: Option<Phase>,
    },
    /// The model calls a function.
    FunctionCall {
        id: String,
        status: Status,
        /// Names the call in its answer.
        call_id: String,
        name: String,
        /// A JSON text.
        arguments: String,
    },
    /// What the function answered.
    FunctionCallOutput { id: String, status: Status, call_id: String, output: Output },
    /// What the model thought.
    Reasoning {
        id: String,
        status: Status,
        /// What a caller brought; this server makes none.
        summary: Vec<Content>,
        content: Vec<Content>,
    },
    /// Stands for a part of the conversation: a summary of it, sealed for the organisation.
    Compaction {
        id: String,
        encrypted_content: String,
        /// Once it is unsealed.
        #[serde(skip)]
        summary: String,
    },
}

/// What an assistant's message is in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = MessagePhase)]
#[serde(rename_all = "snake_case")]
pub(in crate::api) enum Phase {
    Commentary,
    FinalAnswer,
}

/// How far an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = ItemStatus)]
#[serde(rename_all = "snake_case")]
pub(in crate::api) enum Status {
    InProgress,
    Completed,
    Incomplete,
}

/// A part of an item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = ItemContent)]
#[serde(tag = "type")]
pub(in crate::api) enum Content {
    #[serde(rename = "input_text")]
    Input { text: String },
    #[serde(rename = "output_text")]
    Output {
        text: String,
        /// Always empty.
        annotations: Vec<Value>,
        /// One entry a token where asked for.
        logprobs: Vec<Value>,
    },
    #[serde(rename = "reasoning_text")]
    Reasoning { text: String },
    #[serde(rename = "summary_text")]
    Summary { text: String },
}

/// A function's answer, as it was given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = FunctionOutput)]
#[serde(untagged)]
pub(in crate::api) enum Output {
    Text(String),
    Parts(Vec<Content>),
}

impl Phase {
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "commentary" => Some(Phase::Commentary),
            "final_answer" => Some(Phase::FinalAnswer),
            _ => None,
        }
    }
}

impl Content {
    pub(super) fn text(&self) -> &str {
        match self {
            Content::Input { text }
            | Content::Output { text, .. }
            | Content::Reasoning { text }
            | Content::Summary { text } => text,
        }
    }

    /// Text of an answer, without log probabilities.
    pub(super) fn output(text: String) -> Self {
        Content::Output { text, annotations: Vec::new(), logprobs: Vec::new() }
    }
}

/// The text of all parts, without anything between them.
pub(super) fn joined(parts: &[Content]) -> String {
    parts.iter().map(Content::text).collect()
}

impl Item {
    pub(super) fn id(&self) -> &str {
        match self {
            Item::Message { id, .. }
            | Item::FunctionCall { id, .. }
            | Item::FunctionCallOutput { id, .. }
            | Item::Reasoning { id, .. }
            | Item::Compaction { id, .. } => id,
        }
    }

    pub(super) fn set_id(&mut self, new: String) {
        match self {
            Item::Message { id, .. }
            | Item::FunctionCall { id, .. }
            | Item::FunctionCallOutput { id, .. }
            | Item::Reasoning { id, .. }
            | Item::Compaction { id, .. } => *id = new,
        }
    }

    pub(super) fn set_status(&mut self, new: Status) {
        match self {
            Item::Message { status, .. }
            | Item::FunctionCall { status, .. }
            | Item::FunctionCallOutput { status, .. }
            | Item::Reasoning { status, .. } => *status = new,
            Item::Compaction { .. } => {}
        }
    }

    /// How the id of such an item begins.
    pub(super) fn prefix(&self) -> &'static str {
        match self {
            Item::Message { .. } => "msg",
            Item::FunctionCall { .. } => "fc",
            Item::FunctionCallOutput { .. } => "fco",
            Item::Reasoning { .. } => "rs",
            Item::Compaction { .. } => "cmp",
        }
    }
}

/// The id of item `number` of the answer with this suffix. The answer's id can be read from it.
pub(super) fn item_id(prefix: &str, suffix: &str, number: usize) -> String {
    format!("{prefix}_{suffix}{number:04x}")
}

/// The answer that an item belongs to.
pub(super) fn response_of(item_id: &str) -> Option<String> {
    let (_, rest) = item_id.split_once('_')?;
    let suffix = rest.get(..rest.len().checked_sub(4)?)?;
    Some(format!("resp_{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_keep_their_shape() {
        let text = r#"{"type":"reasoning","id":"rs_1","status":"completed","summary":[],"content":[{"type":"reasoning_text","text":"t"}]}"#;
        let item: Item = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&item).unwrap(), text);
        let text = r#"{"type":"function_call_output","id":"a","status":"completed","call_id":"c","output":[{"type":"input_text","text":"x"}]}"#;
        let item: Item = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&item).unwrap(), text);
    }

    #[test]
    fn ids_name_their_answer() {
        let id = item_id("msg", "c74f7ccb", 10);
        assert_eq!((id.as_str(), response_of(&id).as_deref()), ("msg_c74f7ccb000a", Some("resp_c74f7ccb")));
        for id in ["", "msg", "msg_", "msg_abc", "ü_ü", "msg_\u{fc}\u{fc}\u{fc}"] {
            assert_ne!(response_of(id).as_deref(), Some("resp_c74f7ccb"));
        }
    }
}
