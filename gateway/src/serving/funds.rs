//! The money held for one request, ahead of what it generates.

use super::admission::Plan;
use super::unix_ms;
use crate::ledger::{HoldError, HoldRequest, Ledger};
use crate::money::{MoneyError, Picos, PriceVersion, Tokens};

/// How many output tokens the hold pays for, and at which price. Nothing beyond them may be delivered.
pub(super) struct Funds {
    price: PriceVersion,
    prompt_cost: Picos,
    covered: u32,
    /// Output tokens of all choices that are worth beginning for.
    least: u32,
    /// Most output tokens of all choices.
    limit: u32,
}

impl Funds {
    /// Nothing held yet; the first hold is to cover `plan`'s allowance, or at least `minimum` tokens of each choice.
    pub(super) fn new(price: PriceVersion, plan: &Plan, minimum: u32) -> Result<Self, MoneyError> {
        // Whether the prompt is cached is not known yet, so the dearer price is held.
        let prompt_cost = price.uncached_input.max(price.cached_input).times(plan.prompt_total())?;
        let least = plan.output_within(minimum);
        Ok(Self { price, prompt_cost, covered: plan.covered, least, limit: plan.output_limit() })
    }

    /// The prices that it is paid at.
    pub(super) fn price(&self) -> &PriceVersion {
        &self.price
    }

    /// The model that is paid for.
    pub(super) fn model(&self) -> &str {
        &self.price.model
    }

    /// What the first hold takes.
    pub(super) fn amount(&self) -> Result<Picos, MoneyError> {
        self.prompt_cost.checked_add(self.price.output.times(self.covered)?).ok_or(MoneyError::OutOfRange)
    }

    /// What `tokens` cost.
    pub(super) fn cost(&self, tokens: Tokens) -> Result<Picos, MoneyError> {
        Ok(self.price.cost(tokens)?.total)
    }

    /// Holds the money for prompts and allowance. Where budget or balance has less left, what it still pays for will do:
    /// then the answer ends with the money.
    pub(super) async fn hold(&mut self, ledger: &Ledger, mut hold: HoldRequest) -> Result<(), HoldError> {
        loop {
            let Err(error) = ledger.hold(hold.clone()).await else { return Ok(()) };
            match self.affordable(&error, self.prompt_cost) {
                Some(tokens) if (self.least..self.covered).contains(&tokens) => {
                    self.covered = tokens;
                    hold.amount = self.amount().map_err(invalid)?;
                }
                _ => return Err(error),
            }
        }
    }

    /// Makes sure that the hold pays for `needed` output tokens in all; extends it by up to `allowance` more.
    pub(super) async fn cover(
        &mut self,
        ledger: &Ledger,
        request_id: &str,
        needed: u32,
        allowance: u32,
    ) -> Result<(), HoldError> {
        if needed <= self.covered {
            return Ok(());
        }
        let mut target = needed.saturating_add(allowance).min(self.limit).max(needed);
        loop {
            let amount = self.price.output.times(target - self.covered).map_err(invalid)?;
            let Err(error) = ledger.extend(request_id, amount, unix_ms()).await else {
                self.covered = target;
                return Ok(());
            };
            // With little money left, take what there is.
            let most = self.affordable(&error, Picos::ZERO).map(|tokens| self.covered.saturating_add(tokens));
            match most {
                Some(most) if (needed..target).contains(&most) => target = most,
                _ => return Err(error),
            }
        }
    }

    /// Output tokens that the budget behind a refusal still pays for after `reserved`.
    fn affordable(&self, error: &HoldError, reserved: Picos) -> Option<u32> {
        let left = error.left()?.checked_sub(reserved)?;
        let tokens = left.0.checked_div(self.price.output.0)?;
        (tokens > 0).then(|| u32::try_from(tokens).unwrap_or(u32::MAX))
    }
}

fn invalid(error: MoneyError) -> HoldError {
    HoldError::Invalid(error.to_string())
}

#[cfg(test)]
mod tests;
