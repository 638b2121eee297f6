//! Finding stop strings in text that arrives in pieces.

/// What is certain after another piece of text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// Text that no stop string can begin in.
    Text(String),
    /// The text before the match, and which string matched.
    Match { text: String, stop: String },
}

/// Holds back the longest end of the text that may become a stop string.
///
/// The result does not depend on how the text is cut: the match that is complete first wins, and of those that end
/// together the longest.
#[derive(Debug)]
pub(super) struct StopMatcher {
    strings: Vec<String>,
    include: bool,
    held: String,
}

impl StopMatcher {
    /// With `include` the matched string is part of the text.
    pub(super) fn new(strings: Vec<String>, include: bool) -> Self {
        Self { strings, include, held: String::new() }
    }

    pub(super) fn push(&mut self, piece: &str) -> Scan {
        if self.strings.is_empty() {
            return Scan::Text(piece.to_owned());
        }
        self.held.push_str(piece);
        let found = |stop: &String| self.held.find(stop.as_str()).map(|start| (start + stop.len(), start));
        let matches = self.strings.iter().filter_map(|stop| found(stop).map(|at| (at, stop)));
        if let Some(((end, start), stop)) = matches.min() {
            let stop = stop.clone();
            self.held.truncate(if self.include { end } else { start });
            return Scan::Match { text: self.finish(), stop };
        }
        let keep = self.strings.iter().map(|stop| partial_len(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Scan::Text(std::mem::replace(&mut self.held, rest))
    }

    /// What was held back, now that no more text comes.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes at the end of `text` that are a beginning of `stop`, but not all of it.
fn partial_len(text: &str, stop: &str) -> usize {
    let starts = stop.char_indices().map(|(at, _)| at).rev();
    starts.into_iter().find(|len| text.as_bytes().ends_with(&stop.as_bytes()[..*len])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(strings: &[&str], pieces: &[&str], include: bool) -> (String, Option<String>, String) {
        let mut matcher = StopMatcher::new(strings.iter().map(|s| (*s).to_owned()).collect(), include);
        let mut all = String::new();
        for piece in pieces {
            match matcher.push(piece) {
                Scan::Text(text) => all.push_str(&text),
                Scan::Match { text, stop } => return (all + &text, Some(stop), String::new()),
            }
        }
        (all, None, matcher.finish())
    }

    #[test]
    fn table() {
        type Case = (
            &'static [&'static str],
            &'static [&'static str],
            &'static str,
            Option<&'static str>,
            &'static str,
        );
        let cases: [Case; 9] = [
            (&[], &["ab", "c"], "abc", None, ""),
            (&["stop"], &["a st", "op b"], "a ", Some("stop"), ""),
            (&["stop"], &["a sto", "ne"], "a stone", None, ""),
            (&["stop"], &["a sto"], "a ", None, "sto"),
            (&["aab"], &["aa", "a", "b"], "a", Some("aab"), ""),
            (&["bcd", "c"], &["abcd"], "ab", Some("c"), ""),
            (&["c", "bc"], &["abc"], "a", Some("bc"), ""),
            (&["né"], &["n", "é!"], "", Some("né"), ""),
            (&["\n\n"], &["x\n", "y\n\nz"], "x\ny", Some("\n\n"), ""),
        ];
        for (strings, pieces, text, stop, rest) in cases {
            let expected = (text.to_owned(), stop.map(str::to_owned), rest.to_owned());
            assert_eq!(run(strings, pieces, false), expected, "{strings:?} in {pieces:?}");
        }
        assert_eq!(run(&["op"], &["st", "o", "p!"], true).0, "stop");
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(11), ..Default::default() })]
        #[test]
        fn cuts_do_not_matter(text in "[abé]{0,24}", stops in prop::collection::vec("[abé]{1,4}", 0..4), cut in 1_usize..5) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let chars: Vec<char> = text.chars().collect();
            let pieces: Vec<String> = chars.chunks(cut).map(|piece| piece.iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (whole, one, rest) = run(&stops, &[&text], false);
            let (cut_text, other, cut_rest) = run(&stops, &pieces, false);
            prop_assert_eq!(&one, &other);
            prop_assert_eq!(whole.clone() + &rest, cut_text + &cut_rest);
            prop_assert!(stops.iter().all(|stop| !whole.contains(stop)));
        }
    }
}
