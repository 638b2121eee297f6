//! Finding control strings in the operator's part of a prompt.

use std::ops::Range;

use super::TokenizeError;

/// Control strings by first byte, longest first.
pub(super) struct ControlTokens {
    by_first_byte: Vec<Vec<(String, u32)>>,
}

impl ControlTokens {
    /// Strings that are empty or blank are left out: they are text even to a template.
    pub(super) fn new(tokens: impl IntoIterator<Item = (String, u32)>) -> Self {
        let mut by_first_byte = vec![Vec::new(); 256];
        for (text, id) in tokens {
            if !text.trim().is_empty() {
                by_first_byte[usize::from(text.as_bytes()[0])].push((text, id));
            }
        }
        for list in &mut by_first_byte {
            list.sort_by(|a: &(String, u32), b| b.0.len().cmp(&a.0.len()).then(a.1.cmp(&b.1)));
        }
        Self { by_first_byte }
    }

    /// All control strings in `text` that have no byte in `user_ranges`, in order, the longest match first.
    pub(super) fn find(
        &self,
        text: &str,
        user_ranges: &[Range<usize>],
    ) -> Result<Vec<(Range<usize>, u32)>, TokenizeError> {
        if let Some(r) = user_ranges.iter().find(|r| r.start > r.end || r.end > text.len()) {
            return Err(TokenizeError::Range { start: r.start, end: r.end, len: text.len() });
        }
        let mut ranges = user_ranges.to_vec();
        ranges.sort_by_key(|r| r.start);
        let mut found = Vec::new();
        let mut at = 0;
        for user in ranges {
            self.find_in(text, at..user.start, &mut found);
            at = at.max(user.end);
        }
        self.find_in(text, at..text.len(), &mut found);
        Ok(found)
    }

    fn find_in(&self, text: &str, gap: Range<usize>, found: &mut Vec<(Range<usize>, u32)>) {
        let bytes = text.as_bytes();
        let mut at = gap.start;
        while at < gap.end {
            let list = &self.by_first_byte[usize::from(bytes[at])];
            match list.iter().find(|(token, _)| bytes[at..gap.end].starts_with(token.as_bytes())) {
                Some((token, id)) => {
                    found.push((at..at + token.len(), *id));
                    at += token.len();
                }
                None => at += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init)]
    use super::*;

    fn tokens() -> ControlTokens {
        let list = [("<a>", 1), ("<a><b>", 2), ("<b>", 3), (" ", 4), ("", 5)];
        ControlTokens::new(list.map(|(text, id)| (text.to_owned(), id)))
    }

    #[test]
    fn longest_match_outside_user_ranges() {
        let t = tokens();
        assert_eq!(t.find("x<a><b> <a>y", &[]).unwrap(), [(1..7, 2), (8..11, 1)]);
        // One foreign byte is enough to make it text.
        assert_eq!(t.find("x<a><b> <a>y", &[6..7, 9..9]).unwrap(), [(1..4, 1)]);
        assert_eq!(t.find("<a><b>", &[3..6]).unwrap(), [(0..3, 1)]);
        assert_eq!(t.find("<a>", &[0..3]).unwrap(), []);
    }

    #[test]
    fn disorderly_ranges_are_no_hole() {
        let t = tokens();
        assert_eq!(t.find("<a><a><a>", &[6..9, 0..5, 1..2]).unwrap(), []);
        assert!(t.find("<a>", &[1..9]).is_err());
        assert!(t.find("<a>", std::slice::from_ref(&Range { start: 2, end: 1 })).is_err());
    }
}
