//! An end for numbers. In JSON digits may go on for ever, and a model that only repeats itself would write them until its
//! last token, so that the answer never parses. After [`MAX_DIGITS`] in a row a number goes on without digits, unless the
//! grammar has nothing else for it (a bound or a `multipleOf` that needs more).

use std::sync::Arc;

use llguidance::toktrie::{SimpleVob, TokTrie};
use models::Tokenizer;

/// Digits before the point, and again behind it: all that 64 bits hold, and more than a double tells apart.
const MAX_DIGITS: usize = 20;
/// Digits of an exponent: every reader takes `1e99`.
const MAX_EXPONENT_DIGITS: usize = 2;
/// Room for digits that is told apart; a token seldom has more of them.
const ROOMS: usize = 3;

/// The tokens of a vocabulary by what they mean to a number.
pub(super) struct NumberTokens {
    tokenizer: Arc<Tokenizer>,
    /// Those that begin with what cannot follow inside a number of JSON or behind it.
    foreign: SimpleVob,
    /// `longer[room]` are those that begin with more than `room` digits.
    longer: [SimpleVob; ROOMS],
}

impl NumberTokens {
    pub(super) fn new(tokenizer: &Arc<Tokenizer>, trie: &TokTrie) -> Self {
        let mut foreign = trie.alloc_token_set();
        let mut longer = std::array::from_fn(|_| trie.alloc_token_set());
        for token in 0..trie.vocab_size() as u32 {
            let bytes = trie.token(token);
            match bytes.first() {
                Some(b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-' | b',' | b']' | b'}') => {}
                Some(b' ' | b'\t' | b'\r' | b'\n') | None => {}
                Some(_) => foreign.allow_token(token),
            }
            let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
            longer[..digits.min(ROOMS)].iter_mut().for_each(|set: &mut SimpleVob| set.allow_token(token));
        }
        Self { tokenizer: Arc::clone(tokenizer), foreign, longer }
    }
}

/// How many digits a text ends with.
#[derive(Clone)]
pub(super) struct Digits {
    tokens: Arc<NumberTokens>,
    run: usize,
    /// They are behind an `e`.
    exponent: bool,
}

impl Digits {
    pub(super) fn new(tokens: Arc<NumberTokens>) -> Self {
        Self { tokens, run: 0, exponent: false }
    }

    /// Goes on by a token.
    pub(super) fn push(&mut self, token: u32) {
        for byte in self.tokens.tokenizer.token_bytes(token) {
            match byte {
                b'0'..=b'9' => self.run += 1,
                b'e' | b'E' => (self.exponent, self.run) = (self.run > 0, 0),
                b'+' | b'-' if self.exponent && self.run == 0 => {}
                _ => (self.exponent, self.run) = (false, 0),
            }
        }
    }

    /// The tokens that would make the number too long, once one is that long that there are any.
    fn too_long(&self) -> Option<&SimpleVob> {
        let most = if self.exponent { MAX_EXPONENT_DIGITS } else { MAX_DIGITS };
        self.tokens.longer.get(most.saturating_sub(self.run))
    }

    /// Whether [`Self::limit`] may change a mask.
    pub(super) fn is_limited(&self) -> bool {
        self.too_long().is_some()
    }

    /// Takes digits out of `mask` where a number has enough of them and may go on without.
    pub(super) fn limit(&self, mask: &mut SimpleVob) {
        let Some(longer) = self.too_long() else { return };
        // In a string there is always a quote to come, in free text a letter.
        if mask.and_is_zero(longer) || !mask.and_is_zero(&self.tokens.foreign) {
            return;
        }
        let mut shorter = mask.clone();
        shorter.sub(longer);
        if !shorter.is_zero() {
            *mask = shorter;
        }
    }
}
