//! The byte-level alphabet: every byte has one printable character that stands for it in the vocabulary.

use std::collections::HashMap;

/// Maps alphabet characters back to bytes.
pub(super) struct ByteAlphabet(HashMap<char, u8>);

impl ByteAlphabet {
    pub(super) fn new() -> Self {
        // Printable Latin-1 stands for itself; the rest follows from U+0100 in order.
        let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let rest = (0..=u8::MAX).filter(|&b| !printable(b)).zip('\u{100}'..);
        Self(
            (0..=u8::MAX)
                .filter(|&b| printable(b))
                .map(|b| (char::from(b), b))
                .chain(rest.map(|(b, c)| (c, b)))
                .collect(),
        )
    }

    /// Appends the bytes of `token`; `false` if it has a character outside the alphabet.
    pub(super) fn append(&self, token: &str, out: &mut Vec<u8>) -> bool {
        token.chars().all(|c| self.0.get(&c).map(|&b| out.push(b)).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_have_a_character() {
        let alphabet = ByteAlphabet::new();
        assert_eq!(alphabet.0.len(), 256);
        let mut out = Vec::new();
        assert!(alphabet.append("ĠhiĊé", &mut out));
        assert_eq!(out, b" hi\n\xE9");
        assert!(!alphabet.append(" ", &mut Vec::new()));
    }
}
