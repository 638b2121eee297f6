//! Server-sent events, read one at a time and checked for shape as they come.

use std::collections::BTreeMap;
use std::io;

use serde_json::Value;

use super::http::{Head, Wire};

/// One event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    Comment(String),
    Chunk(Value),
    /// An event with a name.
    Named(String, Value),
    Done,
}

/// The token counts of a usage object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) prompt: u64,
    pub(crate) cached: u64,
    pub(crate) completion: u64,
}

impl Usage {
    /// Reads a usage object; `total_tokens` must be the sum of its parts.
    pub(crate) fn of(value: &Value) -> Self {
        let count = |v: &Value, name: &str| {
            v.as_u64().unwrap_or_else(|| panic!("{name} is not a count in usage {value}"))
        };
        let usage = Self {
            prompt: count(&value["prompt_tokens"], "prompt_tokens"),
            cached: value["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0),
            completion: count(&value["completion_tokens"], "completion_tokens"),
        };
        let total = count(&value["total_tokens"], "total_tokens");
        assert_eq!(total, usage.prompt + usage.completion, "total_tokens is not the sum in {value}");
        assert!(usage.cached <= usage.prompt, "more cached than prompt tokens in {value}");
        usage
    }
}

/// The events of one response, read as they arrive.
pub(crate) struct Events {
    pub(crate) head: Head,
    wire: Wire,
    text: Vec<u8>,
}

impl Events {
    /// Takes over a connection whose request was written; fails the test unless a 200 event stream comes back.
    pub(crate) fn open(mut wire: Wire) -> io::Result<Self> {
        let head = wire.head()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if head.status != 200 {
            let mut body = Vec::new();
            while let Some(piece) = wire.body_piece()? {
                body.extend_from_slice(&piece);
            }
            return Err(io::Error::other(format!(
                "status {}: {}",
                head.status,
                String::from_utf8_lossy(&body)
            )));
        }
        let kind = head.header("content-type").unwrap_or_default().to_owned();
        assert!(kind.starts_with("text/event-stream"), "content type of a stream is {kind:?}");
        Ok(Self { head, wire, text: Vec::new() })
    }

    pub(crate) fn request_id(&self) -> String {
        self.head.header("x-request-id").expect("a stream carries x-request-id").to_owned()
    }

    pub(crate) fn half_close(&self) -> io::Result<()> {
        self.wire.half_close()
    }

    /// The next event; `None` at the proper end of the body; an error where the connection was cut.
    pub(crate) fn next(&mut self) -> io::Result<Option<Item>> {
        let end = loop {
            if let Some(at) = self.text.windows(2).position(|w| w == b"\n\n") {
                break at;
            }
            match self.wire.body_piece()? {
                Some(piece) => self.text.extend_from_slice(&piece),
                None => {
                    assert!(
                        self.text.is_empty(),
                        "half an event at the end: {:?}",
                        String::from_utf8_lossy(&self.text)
                    );
                    return Ok(None);
                }
            }
        };
        let block: Vec<u8> = self.text.drain(..end + 2).take(end).collect();
        let block = String::from_utf8(block).expect("events are valid UTF-8");
        Ok(Some(parse_event(&block)))
    }

    /// The named events up to the proper end of the body, each of which repeats its name as its `type`.
    pub(crate) fn named(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.next_named()).collect()
    }

    /// The next named event; `None` at the proper end of the body.
    pub(crate) fn next_named(&mut self) -> Option<Value> {
        loop {
            match self.next().expect("the stream comes to its proper end")? {
                Item::Comment(_) => {}
                Item::Named(name, data) => {
                    assert_eq!(data["type"], name.as_str(), "name and type differ");
                    return Some(data);
                }
                other => panic!("an event without a name: {other:?}"),
            }
        }
    }

    /// Reads up to the end, or to where the connection was cut.
    pub(crate) fn transcript(&mut self) -> Transcript {
        let mut seen = Transcript::new(self.request_id());
        self.read_into(&mut seen);
        seen
    }

    /// Goes on reading into `seen`.
    pub(crate) fn read_into(&mut self, seen: &mut Transcript) {
        loop {
            match self.next() {
                Ok(Some(item)) => seen.push(item),
                Ok(None) => {
                    seen.ended = true;
                    return;
                }
                Err(e) => {
                    seen.cut = Some(e.to_string());
                    return;
                }
            }
        }
    }
}

fn parse_event(block: &str) -> Item {
    if let Some(comment) = block.strip_prefix(':') {
        return Item::Comment(comment.trim().to_owned());
    }
    let (name, block) = match block.strip_prefix("event: ").and_then(|rest| rest.split_once('\n')) {
        Some((name, rest)) => (Some(name), rest),
        None => (None, block),
    };
    let data = block
        .strip_prefix("data: ")
        .unwrap_or_else(|| panic!("an event is neither data nor comment: {block:?}"));
    assert!(!data.contains('\n'), "an event has more than one line: {block:?}");
    if data == "[DONE]" {
        return Item::Done;
    }
    let data = serde_json::from_str(data).unwrap_or_else(|e| panic!("event data is not JSON ({e}): {data}"));
    match name {
        Some(name) => Item::Named(name.to_owned(), data),
        None => Item::Chunk(data),
    }
}

/// Everything one client saw of one stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transcript {
    pub(crate) request_id: String,
    pub(crate) chunks: Vec<Value>,
    /// Text by choice index.
    pub(crate) text: BTreeMap<u64, String>,
    pub(crate) finish: BTreeMap<u64, String>,
    pub(crate) usage: Option<Usage>,
    pub(crate) error: Option<Value>,
    pub(crate) done: bool,
    /// The body came to its proper end.
    pub(crate) ended: bool,
    /// Why reading stopped before the proper end.
    pub(crate) cut: Option<String>,
    /// Chunks that carried text.
    pub(crate) content_chunks: u64,
    /// Tokens listed in `logprobs`; zero unless they were asked for.
    pub(crate) listed_tokens: u64,
}

impl Transcript {
    pub(crate) fn new(request_id: String) -> Self {
        Self { request_id, ..Self::default() }
    }

    pub(crate) fn push(&mut self, item: Item) {
        assert!(!self.done, "{}: something follows [DONE]: {item:?}", self.request_id);
        match item {
            Item::Comment(_) => {}
            Item::Named(..) => panic!("{}: a chat stream has no named events: {item:?}", self.request_id),
            Item::Done => self.done = true,
            Item::Chunk(chunk) => {
                self.note(&chunk);
                self.chunks.push(chunk);
            }
        }
    }

    fn note(&mut self, chunk: &Value) {
        if let Some(error) = chunk.get("error").filter(|e| !e.is_null()) {
            self.error = Some(error.clone());
            return;
        }
        for choice in chunk["choices"].as_array().expect("a chunk has choices") {
            let index = choice["index"].as_u64().expect("a choice has an index");
            // Chat chunks carry `delta.content`, completion chunks carry `text`.
            let text = choice["delta"]["content"].as_str().or(choice["text"].as_str()).unwrap_or_default();
            self.text.entry(index).or_default().push_str(text);
            self.content_chunks += u64::from(!text.is_empty());
            self.listed_tokens += choice["logprobs"]["content"].as_array().map_or(0, |l| l.len() as u64);
            if let Some(reason) = choice["finish_reason"].as_str() {
                let before = self.finish.insert(index, reason.to_owned());
                assert_eq!(before, None, "{}: choice {index} finished twice", self.request_id);
            }
        }
        if let Some(usage) = chunk.get("usage").filter(|u| !u.is_null()) {
            assert_eq!(self.usage, None, "{}: usage came twice", self.request_id);
            self.usage = Some(Usage::of(usage));
        }
    }

    /// Text of the first choice.
    pub(crate) fn first_text(&self) -> &str {
        self.text.get(&0).map_or("", String::as_str)
    }

    /// Fails unless the stream came to its proper end.
    pub(crate) fn finished(self) -> Self {
        assert!(
            self.done && self.ended && self.error.is_none(),
            "{}: the stream did not finish: done {} ended {} cut {:?} error {:?}",
            self.request_id,
            self.done,
            self.ended,
            self.cut,
            self.error
        );
        self
    }
}
