//! Markers around callers' text that survive a template, and what they say afterwards.
//!
//! A marker is `U+F8FF digits U+F8FF`: no letters that a filter could change, and a number (the nonce) that makes it
//! occur in no caller's text. Markers sit inside the white space at the ends of a text, so that `trim` still works;
//! that white space is given back to the caller when the ranges are read.
//!
//! A template that cuts a text apart tears a pair of markers. Nothing can then be said about the pieces, so every
//! stretch of output that could be a piece (three bytes that the text has too) counts as the caller's: a control
//! string copied from the text is never taken for the template's own.

use std::collections::HashSet;
use std::ops::Range;

use super::Prompt;

const FENCE: char = '\u{F8FF}';
/// Shortest stretch that is compared: no known control string is shorter.
const PIECE: usize = 3;

pub(super) struct Marks<'a> {
    fields: &'a [&'a str],
    nonce: usize,
}

/// One marker found in the output.
struct Found {
    /// Where the marker lies in the marked output.
    range: Range<usize>,
    field: usize,
    opens: bool,
}

impl<'a> Marks<'a> {
    /// Longest a marker can be: two fences of three bytes, a digit, and two numbers with a separator.
    pub(super) const MAX_BYTES: usize = 2 * 3 + 2 + 2 * 20;

    pub(super) fn new(fields: &'a [&'a str]) -> Self {
        // The smallest number that follows no fence in any text. At most one number is lost per fence.
        let taken: HashSet<&str> = fields
            .iter()
            .flat_map(|f| f.match_indices(FENCE).map(|(i, _)| &f[i + FENCE.len_utf8()..]))
            .map(|rest| &rest[..rest.bytes().take_while(u8::is_ascii_digit).count()])
            .collect();
        let nonce = (0..).find(|n: &usize| !taken.contains(n.to_string().as_str()));
        Self { fields, nonce: nonce.expect("finitely many numbers are taken") }
    }

    /// Nonce, then field and side in one number.
    fn marker(&self, field: usize, opens: bool) -> String {
        format!("{FENCE}{}.{}{FENCE}", self.nonce, 2 * field + usize::from(opens))
    }

    /// The field with its markers. Blank text stays as it is: it is no text to a template that asks.
    pub(super) fn wrap(&self, field: usize) -> String {
        let text = self.fields[field];
        let core = text.trim();
        if core.is_empty() {
            return text.to_owned();
        }
        let (head, tail) = self.blank_ends(field);
        format!("{head}{}{core}{}{tail}", self.marker(field, true), self.marker(field, false))
    }

    fn blank_ends(&self, field: usize) -> (&'a str, &'a str) {
        let text = self.fields[field];
        let head = text.len() - text.trim_start().len();
        let tail = text.trim_end().len();
        (&text[..head], &text[tail.max(head)..])
    }

    /// Takes the markers out of the output and turns them into ranges.
    pub(super) fn unwrap(&self, marked: &str) -> Prompt {
        let found = self.find(marked);
        let mut text = String::with_capacity(marked.len());
        let mut ranges: Vec<Range<usize>> = Vec::new();
        let mut whole = vec![false; self.fields.len()];
        let mut torn = vec![false; self.fields.len()];
        let mut open: Option<(usize, usize)> = None;
        let mut at = 0;
        for mark in &found {
            text.push_str(&marked[at..mark.range.start]);
            at = mark.range.end;
            match (open, mark.opens) {
                (None, true) => open = Some((mark.field, text.len())),
                (Some((field, start)), false) if field == mark.field => {
                    let (head, tail) = self.blank_ends(field);
                    let before = if text[..start].ends_with(head) { head.len() } else { 0 };
                    let after = if marked[at..].starts_with(tail) { tail.len() } else { 0 };
                    ranges.push(start - before..text.len() + after);
                    whole[field] = true;
                    open = None;
                }
                (other, opens) => {
                    torn[mark.field] = true;
                    if let Some((field, _)) = other {
                        torn[field] = true;
                    }
                    open = opens.then_some((mark.field, text.len()));
                }
            }
        }
        text.push_str(&marked[at..]);
        if let Some((field, _)) = open {
            torn[field] = true;
        }
        let suspects = (0..self.fields.len()).filter(|&i| torn[i] || !whole[i]);
        self.add_pieces(&text, suspects, &mut ranges);
        Prompt { text, user_ranges: merge(ranges) }
    }

    fn find(&self, marked: &str) -> Vec<Found> {
        let prefix = format!("{FENCE}{}.", self.nonce);
        let mut found: Vec<Found> = Vec::new();
        for (start, _) in marked.match_indices(&prefix) {
            let rest = &marked[start + prefix.len()..];
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number = rest[..digits].parse::<usize>().ok().filter(|n| n / 2 < self.fields.len());
            if let (Some(number), true) = (number, rest[digits..].starts_with(FENCE)) {
                let end = start + prefix.len() + digits + FENCE.len_utf8();
                found.push(Found { range: start..end, field: number / 2, opens: number % 2 == 1 });
            }
        }
        found
    }

    /// Ranges of everything in `text` that could be a piece of one of the `suspects`.
    fn add_pieces(&self, text: &str, suspects: impl Iterator<Item = usize>, ranges: &mut Vec<Range<usize>>) {
        let pieces: HashSet<&[u8]> =
            suspects.flat_map(|i| self.fields[i].as_bytes().windows(PIECE)).collect();
        if pieces.is_empty() {
            return;
        }
        for (at, window) in text.as_bytes().windows(PIECE).enumerate() {
            if pieces.contains(window) {
                match ranges.last_mut() {
                    Some(last) if last.end >= at && last.start <= at => last.end = last.end.max(at + PIECE),
                    _ => ranges.push(at..at + PIECE),
                }
            }
        }
    }
}

/// Sorts ranges and joins those that touch.
fn merge(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_by_key(|r| r.start);
    let mut merged: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}
