//! Which tokens of a request are billed: pure counting.

use crate::money::Tokens;

/// Token counts of one request: prompts, and the choices made from each.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    prompts: Vec<Prompt>,
    choices_per_prompt: usize,
    generated: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Prompt {
    tokens: u32,
    // Of the choice that started first; the others reuse its work and are free.
    cached: Option<u32>,
}

impl Meter {
    /// A request with prompts of these lengths.
    pub(super) fn new(prompt_tokens: &[u32], choices_per_prompt: usize) -> Self {
        let prompts: Vec<_> = prompt_tokens.iter().map(|&tokens| Prompt { tokens, cached: None }).collect();
        let generated = vec![0; prompts.len() * choices_per_prompt];
        Self { prompts, choices_per_prompt, generated }
    }

    /// The engine admitted `choice` and found `cached` tokens of its prompt.
    pub(super) fn started(&mut self, choice: usize, cached: u32) {
        let prompt = &mut self.prompts[choice / self.choices_per_prompt];
        prompt.cached.get_or_insert(cached.min(prompt.tokens));
    }

    /// The engine generated `tokens` more tokens of `choice`.
    pub(super) fn generated(&mut self, choice: usize, tokens: u32) {
        self.generated[choice] += tokens;
    }

    /// Generated tokens of one choice.
    pub(super) fn of(&self, choice: usize) -> u32 {
        self.generated[choice]
    }

    /// Generated tokens over all choices.
    pub(super) fn total(&self) -> u32 {
        self.generated.iter().sum()
    }

    /// All prompts and everything generated.
    pub(super) fn whole(&self) -> Tokens {
        self.sum(&self.generated, |_| true)
    }

    /// `outputs[choice]` tokens, and the prompts of which at least one token went out.
    pub(super) fn part(&self, outputs: &[u32]) -> Tokens {
        let per = self.choices_per_prompt;
        self.sum(outputs, |prompt| outputs[prompt * per..(prompt + 1) * per].iter().any(|&tokens| tokens > 0))
    }

    fn sum(&self, outputs: &[u32], billed: impl Fn(usize) -> bool) -> Tokens {
        let mut tokens = Tokens { output: outputs.iter().sum(), ..Tokens::default() };
        for (_, prompt) in self.prompts.iter().enumerate().filter(|(i, _)| billed(*i)) {
            let cached = prompt.cached.unwrap_or(0);
            tokens.cached_input += cached;
            tokens.uncached_input += prompt.tokens - cached;
        }
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(uncached_input: u32, cached_input: u32, output: u32) -> Tokens {
        Tokens { uncached_input, cached_input, output }
    }

    #[test]
    fn a_prompt_is_billed_once_for_all_its_choices() {
        let mut meter = Meter::new(&[100, 10], 2);
        meter.started(0, 64);
        meter.started(1, 96);
        meter.started(2, 0);
        for choice in 0..4 {
            meter.generated(choice, 5);
        }
        assert_eq!(meter.whole(), tokens(36 + 10, 64, 20));
        assert_eq!((meter.total(), meter.of(1)), (20, 5));
    }

    #[test]
    fn nothing_delivered_of_a_prompt_leaves_it_free() {
        let mut meter = Meter::new(&[100, 10], 2);
        meter.started(0, 64);
        assert_eq!(meter.part(&[0, 3, 0, 0]), tokens(36, 64, 3));
        assert_eq!(meter.part(&[0, 0, 0, 1]), tokens(10, 0, 1));
        assert_eq!(meter.part(&[0; 4]), tokens(0, 0, 0));
    }

    #[test]
    fn a_cache_larger_than_the_prompt_is_not_believed() {
        let mut meter = Meter::new(&[7], 1);
        meter.started(0, 9);
        assert_eq!(meter.whole(), tokens(0, 7, 0));
    }
}
