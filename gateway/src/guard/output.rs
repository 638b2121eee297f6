//! One choice's answer, searched as it comes.

use std::ops::Range;
use std::sync::Arc;

use super::{OutputAction, Rule};

/// Told text that is kept for rules that look at what comes before a match, such as word borders.
const CONTEXT_BYTES: usize = 16;

/// What may be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Screened {
    /// Text without anything forbidden.
    pub text: String,
    /// The choice ends here.
    pub stop: bool,
}

/// Holds back a little text and searches it.
#[derive(Clone, Debug)]
pub struct OutputGuard {
    rules: Arc<[Rule]>,
    hold_bytes: usize,
    /// The end of what was told, then what is held back.
    buffer: String,
    told: usize,
}

impl OutputGuard {
    pub(super) fn new(rules: Arc<[Rule]>, hold_bytes: usize) -> Self {
        Self { rules, hold_bytes, buffer: String::new(), told: 0 }
    }

    /// Takes in more text.
    pub fn push(&mut self, text: &str) -> Screened {
        self.buffer.push_str(text);
        self.screen(false)
    }

    /// The choice is complete.
    pub fn finish(&mut self) -> Screened {
        self.screen(true)
    }

    fn screen(&mut self, is_last: bool) -> Screened {
        let mut screened = Screened::default();
        let mut releasable =
            if is_last { self.buffer.len() } else { self.buffer.len().saturating_sub(self.hold_bytes) };
        while let Some((range, rule)) = self.earliest() {
            // At the very end a match may still grow, or turn out to be part of a longer word: it waits, held back.
            if range.end == self.buffer.len() && !is_last {
                releasable = releasable.min(range.start);
                break;
            }
            if rule.output == OutputAction::Stop {
                self.release(range.start, &mut screened.text);
                (self.told, screened.stop) = (self.buffer.len(), true);
                return screened;
            }
            let mask = format!("[{}]", rule.name);
            self.release(range.start, &mut screened.text);
            screened.text.push_str(&mask);
            self.told = range.end;
            releasable = releasable.max(range.end);
        }
        self.release(releasable, &mut screened.text);
        self.forget();
        screened
    }

    /// The first match in what is held back. One that begins in what was told is too late to hide.
    fn earliest(&self) -> Option<(Range<usize>, &Rule)> {
        let matches = self.rules.iter().filter_map(|rule| {
            let found = rule.regex.find_at(&self.buffer, self.told)?;
            Some((found.range(), rule))
        });
        matches.min_by_key(|(range, rule)| (range.start, rule.output == OutputAction::Mask))
    }

    fn release(&mut self, to: usize, text: &mut String) {
        let to =
            (0..=to.min(self.buffer.len())).rev().find(|&i| self.buffer.is_char_boundary(i)).unwrap_or(0);
        if to > self.told {
            text.push_str(&self.buffer[self.told..to]);
            self.told = to;
        }
    }

    fn forget(&mut self) {
        let keep = self.told.saturating_sub(CONTEXT_BYTES);
        let keep = (0..=keep).rev().find(|&i| self.buffer.is_char_boundary(i)).unwrap_or(0);
        self.buffer.drain(..keep);
        self.told -= keep;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{GuardRule, GuardSection, InputAction};
    use crate::guard::Guard;

    fn rule(name: &str, pattern: &str, output: OutputAction) -> GuardRule {
        let pattern = Some(pattern.to_owned());
        GuardRule { name: name.to_owned(), pattern, words: Vec::new(), input: InputAction::Off, output }
    }

    fn run(rules: Vec<GuardRule>, hold_bytes: usize, pieces: &[&str]) -> (Vec<String>, bool) {
        let guard = Guard::new(&GuardSection { hold_bytes, rule: rules, ..GuardSection::default() }).unwrap();
        let mut output = guard.output().unwrap();
        let mut told = Vec::new();
        for piece in pieces {
            let screened = output.push(piece);
            told.push(screened.text);
            if screened.stop {
                return (told, true);
            }
        }
        let last = output.finish();
        told.push(last.text);
        (told, last.stop)
    }

    #[test]
    fn a_match_over_pieces_is_never_begun() {
        let secret = || vec![rule("secret", "top secret", OutputAction::Stop)];
        let (told, stopped) = run(secret(), 16, &["This is to", "p sec", "ret, really"]);
        assert_eq!((told.concat().as_str(), stopped), ("This is ", true));
        let (told, stopped) = run(secret(), 16, &["This is to", "p of the world"]);
        assert_eq!((told.concat().as_str(), stopped), ("This is top of the world", false));
    }

    #[test]
    fn masks_wait_for_the_end_of_the_match() {
        let card = || vec![rule("card", r"\b\d{4,}\b", OutputAction::Mask)];
        let (told, stopped) = run(card(), 8, &["No 1234", "5678", " and 99 and 4444"]);
        assert_eq!((told.concat().as_str(), stopped), ("No [card] and 99 and [card]", false));
    }

    #[test]
    fn word_borders_look_at_what_was_told() {
        let (told, stopped) =
            run(vec![rule("w", r"\bass\b", OutputAction::Stop)], 4, &["cl", "ass", "ic pass", " ass", "ume"]);
        assert_eq!((told.concat().as_str(), stopped), ("classic pass assume", false));
    }

    #[test]
    fn words_match_whole_and_in_any_case() {
        let words = GuardRule {
            pattern: None,
            words: vec!["foo".to_owned(), "c++".to_owned()],
            ..rule("w", "", OutputAction::Stop)
        };
        let guard = Guard::new(&GuardSection { hold_bytes: 8, rule: vec![words], ..GuardSection::default() })
            .unwrap();
        let matches = |text| guard.categories(text).next().unwrap().1;
        assert!(matches("a FOO!") && matches("learn C++ now"));
        assert!(!matches("food") && !matches("c+"));
    }

    proptest! {
        /// However the text is cut into pieces, the same is told as of the whole text, and no forbidden word.
        #[test]
        fn pieces_do_not_matter(text in "[ab \u{e4}]{0,40}", cuts in prop::collection::vec(1..6usize, 0..20)) {
            let rules = || vec![rule("x", "aba", OutputAction::Mask), rule("y", "bbb", OutputAction::Stop)];
            let chars: Vec<char> = text.chars().collect();
            let mut pieces = Vec::new();
            let mut at = 0;
            for cut in cuts {
                let to = (at + cut).min(chars.len());
                pieces.push(chars[at..to].iter().collect::<String>());
                at = to;
            }
            pieces.push(chars[at..].iter().collect());
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let whole = run(rules(), 8, &[&text]);
            let parts = run(rules(), 8, &pieces);
            prop_assert_eq!(whole.0.concat(), parts.0.concat());
            prop_assert_eq!(whole.1, parts.1);
            prop_assert!(!parts.0.concat().contains("bbb") && !parts.0.concat().contains("aba"));
        }
    }
}
