//! From tokens back to text, a token at a time.

use std::sync::Arc;

use crate::tokenizer::Tokenizer;

/// Turns tokens into text as soon as whole characters are there.
///
/// Bytes that can never become UTF-8 turn into U+FFFD, exactly as a lossy conversion of all bytes at once would do.
#[derive(Clone)]
pub struct Decoder {
    tokenizer: Arc<Tokenizer>,
    pending: Vec<u8>,
}

impl Decoder {
    /// A decoder at the beginning of a text.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, pending: Vec::new() }
    }

    /// The text that became complete with this token; an incomplete character is held back. Control tokens and
    /// unknown ids give nothing.
    pub fn push(&mut self, id: u32) -> String {
        if self.tokenizer.is_control(id) {
            return String::new();
        }
        self.pending.extend_from_slice(self.tokenizer.token_bytes(id));
        drain_complete(&mut self.pending)
    }

    /// What was held back, as U+FFFD.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}

/// Takes everything but a trailing incomplete character out of `pending`.
fn drain_complete(pending: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut at = 0;
    while at < pending.len() {
        match std::str::from_utf8(&pending[at..]) {
            Ok(rest) => {
                text.push_str(rest);
                at = pending.len();
            }
            Err(error) => {
                let valid = at + error.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&pending[at..valid]));
                at = valid;
                match error.error_len() {
                    Some(bad) => {
                        text.push(char::REPLACEMENT_CHARACTER);
                        at += bad;
                    }
                    None => break,
                }
            }
        }
    }
    pending.drain(..at);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_add_up_to_the_lossy_whole(pieces in prop::collection::vec(
            prop_oneof![prop::collection::vec(any::<u8>(), 0..4), "\\PC{0,2}".prop_map(String::into_bytes)], 0..20))
        {
            let mut pending = Vec::new();
            let mut text = String::new();
            for piece in &pieces {
                pending.extend_from_slice(piece);
                text.push_str(&drain_complete(&mut pending));
                prop_assert!(pending.len() < 4);
            }
            text.push_str(&String::from_utf8_lossy(&pending));
            let all = pieces.concat();
            prop_assert_eq!(text, String::from_utf8_lossy(&all));
        }
    }
}
