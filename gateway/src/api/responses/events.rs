//! Output as items, and every step of it as an event.

use bytes::Bytes;
use serde_json::{Value, json};

use super::items::{Content, Item, Status, item_id};
use crate::api::generation::Part;
use crate::api::sse;

/// What the model has said so far; the last item may still be open.
pub(super) struct Output {
    suffix: String,
    /// Numbers of item ids go on after those of the input.
    first: usize,
    items: Vec<Item>,
    is_open: bool,
    events: Vec<Bytes>,
    /// Number of the next event.
    sequence: usize,
    obfuscate: bool,
}

impl Output {
    pub(super) fn new(suffix: &str, first: usize, obfuscate: bool) -> Self {
        let (items, events) = (Vec::new(), Vec::new());
        Self { suffix: suffix.to_owned(), first, items, is_open: false, events, sequence: 0, obfuscate }
    }

    pub(super) fn items(&self) -> &[Item] {
        &self.items
    }

    /// The events since the last call, each by itself.
    pub(super) fn take_events(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.events)
    }

    /// Adds an event; its data are `fields` with type and number.
    pub(super) fn tell(&mut self, name: &str, fields: Value) {
        let mut data = json!({"type": name, "sequence_number": self.sequence});
        if let (Some(data), Value::Object(fields)) = (data.as_object_mut(), fields) {
            data.extend(fields);
        }
        self.sequence += 1;
        self.events.push(sse::event(name, &data));
    }

    /// Takes in a stretch of output; `logprobs` are those of its text.
    pub(super) fn part(&mut self, part: &Part, logprobs: &mut Vec<Value>) {
        match part {
            Part::Text(text) => {
                if !self.is_in(|item| matches!(item, Item::Message { .. })) {
                    self.open_message();
                }
                self.text(text, std::mem::take(logprobs));
            }
            Part::Reasoning(text) => {
                if !self.is_in(|item| matches!(item, Item::Reasoning { .. })) {
                    self.open_reasoning();
                }
                self.append(text);
                let place = self.place(true);
                self.delta("response.reasoning_text.delta", place, text);
            }
            Part::CallStart { id, name, .. } => {
                self.open(Item::FunctionCall {
                    id: String::new(),
                    status: Status::InProgress,
                    call_id: id.clone(),
                    name: name.clone(),
                    arguments: String::new(),
                });
            }
            Part::CallArguments { text, .. } => {
                self.append(text);
                let place = self.place(false);
                self.delta("response.function_call_arguments.delta", place, text);
            }
        }
    }

    fn is_in(&self, kind: impl Fn(&Item) -> bool) -> bool {
        self.is_open && self.items.last().is_some_and(kind)
    }

    fn open_message(&mut self) {
        let role = "assistant".to_owned();
        let content = Vec::new();
        self.open(Item::Message {
            id: String::new(),
            status: Status::InProgress,
            role,
            content,
            phase: None,
        });
        let part = Content::output(String::new());
        self.add_part(&part);
        if let Some(Item::Message { content, .. }) = self.items.last_mut() {
            content.push(part);
        }
    }

    fn open_reasoning(&mut self) {
        let (summary, content) = (Vec::new(), Vec::new());
        self.open(Item::Reasoning { id: String::new(), status: Status::InProgress, summary, content });
        let part = Content::Reasoning { text: String::new() };
        self.add_part(&part);
        if let Some(Item::Reasoning { content, .. }) = self.items.last_mut() {
            content.push(part);
        }
    }

    fn open(&mut self, mut item: Item) {
        self.close(Status::Completed);
        item.set_id(item_id(item.prefix(), &self.suffix, self.first + self.items.len()));
        let added = json!({"output_index": self.items.len(), "item": item});
        self.items.push(item);
        self.is_open = true;
        self.tell("response.output_item.added", added);
    }

    fn add_part(&mut self, part: &Content) {
        let mut added = self.place(true);
        added["part"] = json!(part);
        self.tell("response.content_part.added", added);
    }

    /// Where the open item is, with the index of its only part where it has parts.
    fn place(&self, has_parts: bool) -> Value {
        let index = self.items.len().saturating_sub(1);
        let id = self.items.last().map_or("", Item::id);
        let mut place = json!({"item_id": id, "output_index": index});
        if has_parts {
            place["content_index"] = 0.into();
        }
        place
    }

    fn append(&mut self, more: &str) {
        match self.items.last_mut() {
            Some(Item::Message { content, .. } | Item::Reasoning { content, .. }) => {
                if let Some(Content::Output { text, .. } | Content::Reasoning { text }) = content.last_mut() {
                    text.push_str(more);
                }
            }
            Some(Item::FunctionCall { arguments, .. }) => arguments.push_str(more),
            Some(Item::FunctionCallOutput { .. } | Item::Compaction { .. }) | None => {}
        }
    }

    fn text(&mut self, text: &str, mut new: Vec<Value>) {
        self.append(text);
        let mut place = self.place(true);
        place["logprobs"] = json!(new);
        if let Some(Item::Message { content, .. }) = self.items.last_mut()
            && let Some(Content::Output { logprobs, .. }) = content.last_mut()
        {
            logprobs.append(&mut new);
        }
        self.delta("response.output_text.delta", place, text);
    }

    fn delta(&mut self, name: &str, mut place: Value, text: &str) {
        place["delta"] = text.into();
        if self.obfuscate {
            place["obfuscation"] = crate::api::openai::surface::padding(text.len()).into();
        }
        self.tell(name, place);
    }

    /// Ends the open item.
    pub(super) fn close(&mut self, status: Status) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        let Some(item) = self.items.last_mut() else { return };
        item.set_status(status);
        let item = item.clone();
        match &item {
            Item::Message { content, .. } => self.close_part(content, "response.output_text.done"),
            Item::Reasoning { content, .. } => self.close_part(content, "response.reasoning_text.done"),
            Item::FunctionCall { arguments, name, .. } => {
                let mut done = self.place(false);
                (done["name"], done["arguments"]) = (name.as_str().into(), arguments.as_str().into());
                self.tell("response.function_call_arguments.done", done);
            }
            Item::FunctionCallOutput { .. } | Item::Compaction { .. } => {}
        }
        let done = json!({"output_index": self.items.len() - 1, "item": item});
        self.tell("response.output_item.done", done);
    }

    fn close_part(&mut self, content: &[Content], name: &str) {
        let Some(part) = content.last() else { return };
        let mut done = self.place(true);
        done["text"] = part.text().into();
        if let Content::Output { logprobs, .. } = part {
            done["logprobs"] = json!(logprobs);
        }
        self.tell(name, done);
        let mut done = self.place(true);
        done["part"] = json!(part);
        self.tell("response.content_part.done", done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(event: &Bytes) -> Value {
        let text = std::str::from_utf8(event).unwrap();
        let (name, data) = text.trim_end().split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(name, format!("event: {}", data["type"].as_str().unwrap()));
        data
    }

    #[test]
    fn every_item_and_part_is_opened_and_closed_in_order() {
        let mut output = Output::new("00ff", 2, false);
        let call = |index, text: &str| Part::CallArguments { index, text: text.to_owned() };
        let parts = [
            Part::Reasoning("t".into()),
            Part::Text("a".into()),
            Part::Text("b".into()),
            Part::CallStart { index: 0, id: "c0".into(), name: "f".into() },
            call(0, "{}"),
            Part::CallStart { index: 1, id: "c1".into(), name: "g".into() },
            call(1, "{\"x\""),
        ];
        for part in &parts {
            output.part(part, &mut vec![json!("p")]);
        }
        output.close(Status::Incomplete);
        let events: Vec<Value> = output.take_events().iter().map(data).collect();
        let names: Vec<&str> = events
            .iter()
            .map(|event| event["type"].as_str().unwrap().trim_start_matches("response."))
            .collect();
        let expected = [
            "output_item.added",
            "content_part.added",
            "reasoning_text.delta",
            "reasoning_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
        ];
        assert_eq!(names, expected);
        for (i, event) in events.iter().enumerate() {
            assert_eq!(event["sequence_number"], i);
        }
        let statuses: Vec<_> = events.iter().filter(|e| e["type"] == "response.output_item.done").collect();
        assert_eq!(statuses[0]["item"]["status"], "completed");
        assert_eq!(
            (&statuses[3]["item"]["status"], &statuses[3]["output_index"]),
            (&json!("incomplete"), &json!(3))
        );
        assert_eq!(statuses[1]["item"]["content"][0]["text"], "ab");
        assert_eq!(statuses[1]["item"]["content"][0]["logprobs"], json!(["p", "p"]));
        let ids: Vec<&str> = output.items().iter().map(Item::id).collect();
        assert_eq!(ids, ["rs_00ff0002", "msg_00ff0003", "fc_00ff0004", "fc_00ff0005"]);
        output.close(Status::Completed);
        assert!(output.take_events().is_empty());
    }
}
