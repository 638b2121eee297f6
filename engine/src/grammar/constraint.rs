//! One sequence's way through a grammar.

use std::sync::Arc;

use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;

use super::digits::Digits;

/// The tokens of a mask's word.
const WORD_BITS: usize = 32;

/// Where a sequence is in its grammar. It follows the tokens as they are chosen, so losing cache blocks does not touch it.
pub struct Constraint {
    matcher: Matcher,
    eos: Arc<[u32]>,
    /// Tokens that end the sequence.
    ending: Vec<u32>,
    /// Tokens that may come next, once worked out.
    mask: Option<SimpleVob>,
    complete: bool,
    /// Where numbers are to end.
    digits: Option<Digits>,
}

impl Constraint {
    pub(super) fn new(matcher: Matcher, eos: Arc<[u32]>, ending: Vec<u32>, digits: Option<Digits>) -> Self {
        Self { matcher, eos, ending, mask: None, complete: false, digits }
    }

    /// Works out which tokens may come next. May take a millisecond; does nothing when it is known.
    pub fn prepare(&mut self) {
        if self.mask.is_some() || self.complete {
            return;
        }
        match self.allowed() {
            Ok(mask) => self.mask = Some(mask),
            Err(error) => tracing::warn!(%error, "grammar failed"),
        }
    }

    fn allowed(&mut self) -> Result<SimpleVob, String> {
        let mut mask = self.matcher.compute_mask().map_err(|error| error.to_string())?;
        let may_end = self.matcher.is_accepting().map_err(|error| error.to_string())?;
        let asked: Vec<u32> = self.ending.iter().copied().filter(|token| mask.is_allowed(*token)).collect();
        for token in self.eos.iter().filter(|token| !self.ending.contains(token)) {
            mask.disallow_token(*token);
        }
        for token in &self.ending {
            mask.set(*token as usize, may_end);
        }
        // The grammar wants a token that the caller made an ending one: then the sequence ends there.
        if mask.is_zero() {
            asked.iter().for_each(|token| mask.allow_token(*token));
        }
        if let Some(digits) = &self.digits {
            digits.limit(&mut mask);
        }
        Ok(mask)
    }

    /// Whether `token` may come next, by a look at it alone where that tells; else the whole mask is worked out. `None`
    /// when the grammar cannot say.
    pub fn allows(&mut self, token: u32) -> Option<bool> {
        let looks = self.mask.is_none() && !self.complete && !self.needs_mask(token);
        if looks {
            return match self.matcher.validate_tokens(&[token]) {
                Ok(accepted) => Some(accepted == 1),
                Err(error) => {
                    tracing::warn!(%error, token, "grammar failed");
                    None
                }
            };
        }
        self.prepare();
        self.mask.as_ref().map(|mask| mask.is_allowed(token))
    }

    /// Whether more than the grammar's own rules decides about `token`: what may end a sequence, or a number.
    pub(super) fn needs_mask(&self, token: u32) -> bool {
        self.eos.contains(&token)
            || self.ending.contains(&token)
            || self.digits.as_ref().is_some_and(Digits::is_limited)
            || self.matcher.tok_env().map_or(true, |vocabulary| vocabulary.tok_trie().token(token).is_empty())
    }

    /// Makes every token impossible that may not come next. False when that is not known: [`Self::prepare`] was not
    /// called or failed.
    #[must_use]
    pub fn apply(&self, logits: &mut [f32]) -> bool {
        let Some(mask) = &self.mask else { return false };
        for (word, logits) in mask.as_slice().iter().zip(logits.chunks_mut(WORD_BITS)) {
            match *word {
                0 => logits.fill(f32::NEG_INFINITY),
                u32::MAX => {}
                word => {
                    for (bit, logit) in logits.iter_mut().enumerate() {
                        *logit = if word >> bit & 1 == 1 { *logit } else { f32::NEG_INFINITY };
                    }
                }
            }
        }
        true
    }

    /// Goes on by a chosen token.
    pub fn advance(&mut self, token: u32) {
        self.mask = None;
        if self.complete || self.ending.contains(&token) {
            return;
        }
        if let Some(digits) = &mut self.digits {
            digits.push(token);
        }
        match self.matcher.consume_token(token) {
            Ok(()) => self.complete = self.matcher.is_stopped(),
            // The next mask cannot be worked out, which ends the sequence as failed.
            Err(error) => tracing::warn!(%error, token, "grammar refuses a token"),
        }
    }

    /// Whether the answer is whole and nothing may follow.
    pub fn is_complete(&self) -> bool {
        self.complete
    }
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").field("complete", &self.complete).finish_non_exhaustive()
    }
}
