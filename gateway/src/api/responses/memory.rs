//! What a connection remembers: its last answer, also where nothing is kept, until the connection ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::items::Item;

/// The last answer of one connection.
pub(super) struct Memory {
    last: Mutex<Option<Last>>,
    max_bytes: usize,
}

struct Last {
    id: String,
    /// The conversation up to its end.
    items: Vec<Item>,
}

impl Memory {
    /// Remembers a conversation of up to `max_bytes` as JSON.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { last: Mutex::new(None), max_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Last>> {
        // Replaced as a whole: every state is valid.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The conversation up to the end of this answer.
    pub(super) fn recall(&self, id: &str) -> Option<Vec<Item>> {
        self.lock().as_ref().filter(|last| last.id == id).map(|last| last.items.clone())
    }

    /// Forgets this answer: whoever failed to go on from it must not take it for what the next one goes on from.
    pub(super) fn forget(&self, id: &str) {
        let mut last = self.lock();
        if last.as_ref().is_some_and(|last| last.id == id) {
            *last = None;
        }
    }

    fn set(&self, id: &str, items: Vec<Item>) {
        let bytes = serde_json::to_vec(&items).map_or(usize::MAX, |json| json.len());
        let fits = bytes <= self.max_bytes;
        *self.lock() = fits.then(|| Last { id: id.to_owned(), items });
    }
}

/// An answer on its way that will be remembered.
pub(super) struct Remember {
    pub(super) memory: Arc<Memory>,
    /// The answer that it goes on from.
    pub(super) previous: Option<String>,
    /// The conversation before it says something.
    pub(super) items: Vec<Item>,
}

impl Remember {
    /// Takes in the end of the answer `id`.
    pub(super) fn end(mut self, id: &str, output: &[Item], is_whole: bool) {
        if is_whole {
            self.items.extend_from_slice(output);
            self.memory.set(id, self.items);
        } else if let Some(previous) = &self.previous {
            self.memory.forget(previous);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::items::{Content, Status};
    use super::*;

    fn said(text: &str) -> Item {
        let content = vec![Content::Input { text: text.to_owned() }];
        Item::Message {
            id: "msg_1".to_owned(),
            status: Status::Completed,
            role: "user".to_owned(),
            content,
            phase: None,
        }
    }

    fn remember(memory: &Arc<Memory>, previous: Option<&str>) -> Remember {
        let items = vec![said("question")];
        Remember { memory: Arc::clone(memory), previous: previous.map(str::to_owned), items }
    }

    #[test]
    fn the_last_answer_is_remembered_until_the_next_one_or_a_failure() {
        let memory = Arc::new(Memory::new(1 << 10));
        remember(&memory, None).end("resp_1", &[said("answer")], true);
        assert_eq!(memory.recall("resp_1"), Some(vec![said("question"), said("answer")]));
        assert_eq!(memory.recall("resp_2"), None);
        remember(&memory, Some("resp_1")).end("resp_2", &[], true);
        assert_eq!((memory.recall("resp_1"), memory.recall("resp_2")), (None, Some(vec![said("question")])));
        remember(&memory, Some("resp_1")).end("resp_3", &[], false);
        assert!(memory.recall("resp_2").is_some(), "another answer failed");
        remember(&memory, Some("resp_2")).end("resp_3", &[], false);
        assert_eq!(memory.recall("resp_2"), None);
    }

    #[test]
    fn a_conversation_that_is_too_large_is_not_remembered() {
        let memory = Arc::new(Memory::new(1 << 10));
        remember(&memory, None).end("resp_1", &[said(&"x".repeat(1 << 10))], true);
        assert_eq!(memory.recall("resp_1"), None);
    }
}
