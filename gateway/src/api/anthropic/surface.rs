//! What goes out: Anthropic's event stream, or one message.

use bytes::Bytes;
use engine::Tier;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::error;
use crate::api::error::ApiError;
use crate::api::generation::{Choice, Ending, Part, Piece, Surface};
use crate::api::sse;
use crate::money::Tokens;
use crate::receipts::Receipt as Signed;
use crate::serving::Receipt;

/// Shapes one message.
pub struct Message {
    /// `req_...`, for errors inside a stream.
    request_id: String,
    /// `msg_...`.
    id: String,
    model: String,
    /// Wanted limit of output tokens.
    max_tokens: u32,
    /// Most tokens of prompt and answer together.
    context: usize,
    /// The block that is open in the stream, and how many came before it.
    open: Option<Block>,
    blocks: usize,
    ending: Ending,
    /// Extension: the signed receipt, once there is one.
    receipt: Option<Box<Signed>>,
}

/// Kinds of content blocks; the text of thinking is kept for its signature.
enum Block {
    Text,
    Thinking(String),
    ToolUse,
}

impl Message {
    /// Nothing said yet.
    pub(super) fn new(request_id: &str, model: &str, max_tokens: u32, context: usize) -> Self {
        Self {
            request_id: request_id.to_owned(),
            id: format!("msg_{}", request_id.trim_start_matches("req_")),
            model: model.to_owned(),
            max_tokens,
            context,
            open: None,
            blocks: 0,
            ending: Ending::Length,
            receipt: None,
        }
    }

    fn message(&self, content: &[Value], stop: &Stopped<'_>, usage: &Value) -> Value {
        self.with_receipt(json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": content,
            "stop_reason": stop.reason, "stop_sequence": stop.sequence, "stop_details": null, "usage": usage,
        }))
    }

    fn with_receipt(&self, mut object: Value) -> Value {
        if let Some(receipt) = &self.receipt {
            object["receipt"] = json!(receipt);
        }
        object
    }

    fn stopped<'a>(&self, ending: &'a Ending, tokens: Tokens) -> Stopped<'a> {
        let (reason, sequence) = match ending {
            Ending::Stop(None) => ("end_turn", None),
            Ending::Stop(Some(text)) => ("stop_sequence", Some(text.as_str())),
            Ending::ToolCalls => ("tool_use", None),
            Ending::ContentFilter => ("refusal", None),
            Ending::Length if tokens.output < self.max_tokens && tokens.total() >= self.context as u64 => {
                ("model_context_window_exceeded", None)
            }
            Ending::Length => ("max_tokens", None),
        };
        Stopped { reason: Some(reason), sequence }
    }

    /// Ends the open block.
    fn shut(&mut self, events: &mut Vec<u8>) {
        let Some(block) = self.open.take() else { return };
        let index = self.blocks;
        if let Block::Thinking(text) = block {
            let delta = json!({"type": "signature_delta", "signature": signature(&text)});
            push(events, "content_block_delta", &json!({"index": index, "delta": delta}));
        }
        push(events, "content_block_stop", &json!({"index": index}));
        self.blocks += 1;
    }

    fn begin(&mut self, block: Block, head: &Value, events: &mut Vec<u8>) {
        self.shut(events);
        push(events, "content_block_start", &json!({"index": self.blocks, "content_block": head}));
        self.open = Some(block);
    }

    fn part(&mut self, part: &Part, events: &mut Vec<u8>) {
        let delta = match part {
            Part::Text(text) => {
                if !matches!(self.open, Some(Block::Text)) {
                    self.begin(Block::Text, &json!({"type": "text", "text": ""}), events);
                }
                json!({"type": "text_delta", "text": text})
            }
            Part::Reasoning(text) => {
                if !matches!(self.open, Some(Block::Thinking(_))) {
                    let head = json!({"type": "thinking", "thinking": "", "signature": ""});
                    self.begin(Block::Thinking(String::new()), &head, events);
                }
                if let Some(Block::Thinking(thought)) = &mut self.open {
                    thought.push_str(text);
                }
                json!({"type": "thinking_delta", "thinking": text})
            }
            Part::CallStart { id, name, .. } => {
                let head = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                return self.begin(Block::ToolUse, &head, events);
            }
            Part::CallArguments { text, .. } => json!({"type": "input_json_delta", "partial_json": text}),
        };
        push(events, "content_block_delta", &json!({"index": self.blocks, "delta": delta}));
    }
}

/// Why a message ended; both absent while it goes on.
#[derive(Default)]
struct Stopped<'a> {
    reason: Option<&'static str>,
    sequence: Option<&'a str>,
}

/// Appends an event whose data is `fields` and its own name.
fn push(events: &mut Vec<u8>, name: &str, fields: &Value) {
    let mut data = json!({"type": name});
    if let (Some(data), Some(fields)) = (data.as_object_mut(), fields.as_object()) {
        data.extend(fields.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    events.extend_from_slice(&sse::event(name, &data));
}

/// Lets a client see that a thinking block is unchanged. Not a proof of origin.
fn signature(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Here the input tokens are those that were not cached.
fn usage(tokens: Tokens) -> Value {
    json!({
        "input_tokens": tokens.uncached_input,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": tokens.cached_input,
        "output_tokens": tokens.output,
    })
}

fn settled(receipt: &Receipt) -> Value {
    let mut usage = usage(receipt.tokens);
    // Extension: the settled amount in USD, a decimal string.
    usage["cost_usd"] = receipt.cost.to_usd().into();
    usage
}

fn blocks(parts: &[Part]) -> Vec<Value> {
    let mut blocks: Vec<Value> = Vec::new();
    for part in parts {
        match part {
            Part::Text(text) => blocks.push(json!({"type": "text", "text": text, "citations": null})),
            Part::Reasoning(text) => {
                blocks.push(json!({"type": "thinking", "thinking": text, "signature": signature(text)}));
            }
            Part::CallStart { id, name, .. } => {
                blocks.push(json!({"type": "tool_use", "id": id, "name": name, "input": {}}));
            }
            // Arguments of a call that was cut short are no JSON; then the input stays empty.
            Part::CallArguments { text, .. } => {
                if let (Some(block), Ok(input)) = (blocks.last_mut(), serde_json::from_str::<Value>(text)) {
                    block["input"] = input;
                }
            }
        }
    }
    blocks
}

impl Surface for Message {
    /// That API has no word for it.
    fn served(&mut self, _tier: Tier) {}

    fn open(&mut self, _choices: usize, input: Tokens) -> Bytes {
        let mut events = Vec::new();
        let message = self.message(&[], &Stopped::default(), &usage(input));
        push(&mut events, "message_start", &json!({"message": message}));
        push(&mut events, "ping", &json!({}));
        events.into()
    }

    fn piece(&mut self, _choice: usize, piece: &Piece) -> Bytes {
        let mut events = Vec::new();
        piece.parts.iter().for_each(|part| self.part(part, &mut events));
        events.into()
    }

    fn end(&mut self, choice: usize, rest: &Piece, ending: &Ending) -> Bytes {
        let mut events = self.piece(choice, rest).to_vec();
        self.shut(&mut events);
        self.ending = ending.clone();
        events.into()
    }

    fn signed(&mut self, receipt: Box<Signed>) {
        self.receipt = Some(receipt);
    }

    fn close(&mut self, receipt: &Receipt) -> Bytes {
        let stop = self.stopped(&self.ending, receipt.tokens);
        let delta = json!({"stop_reason": stop.reason, "stop_sequence": stop.sequence, "stop_details": null});
        let mut events = Vec::new();
        let delta = self.with_receipt(json!({"delta": delta, "usage": settled(receipt)}));
        push(&mut events, "message_delta", &delta);
        push(&mut events, "message_stop", &json!({}));
        events.into()
    }

    fn fail(&mut self, error: &ApiError) -> Bytes {
        sse::event("error", &self.with_receipt(error::body(error, &self.request_id)))
    }

    fn ping(&mut self) -> Bytes {
        sse::event("ping", &json!({"type": "ping"}))
    }

    fn answer(&mut self, choices: Vec<Choice>, receipt: &Receipt) -> Vec<u8> {
        let choice = choices.into_iter().next().expect("a message has one choice");
        let stop = self.stopped(&choice.ending, receipt.tokens);
        self.message(&blocks(&choice.parts), &stop, &settled(receipt)).to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests;
