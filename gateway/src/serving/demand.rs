//! What a caller demands of a request beside its answer, and what can be promised.

use std::time::{Duration, Instant};

use engine::{Engine, Tier};

use super::admission::{AdmitError, Job, Plan};
use super::{Cause, Serving};
use crate::capacity::headroom;
use crate::money::{MoneyError, Picos, PriceVersion};

/// What a caller demands beside the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// From its arrival until the whole answer is there. What is missed costs nothing.
    pub deadline: Option<Duration>,
    /// Most that the request may cost.
    pub max_price: Option<Picos>,
}

/// What admission must know of a request that demands something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) tier: Tier,
    pub(super) demand: Demand,
    /// Its output has a limit of its own.
    pub(super) is_limited: bool,
    /// Since its arrival.
    pub(super) waited: Duration,
}

/// The size of a request that is asked for beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Tokens of its prompt.
    pub prompt: u32,
    /// Choices.
    pub n: u32,
    /// Limit of each choice; `None`: the rest of the context.
    pub max_tokens: Option<u32>,
}

/// What a request would cost and how long it would take, if it came now.
#[derive(Debug)]
pub struct Quote {
    /// Its prices.
    pub price: PriceVersion,
    /// Output limit of each choice.
    pub max_tokens: u32,
    /// What it costs at most.
    pub at_most: Picos,
    /// What it costs with answers as long as most were lately.
    pub likely: Picos,
    /// How long it takes.
    pub expected: Expected,
    /// Why it would be refused.
    pub refusal: Option<AdmitError>,
}

/// What a request can expect that comes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Until it begins, milliseconds.
    pub wait_ms: u64,
    /// From there to its last token; `None`: what the machine can do was not measured.
    pub run_ms: Option<u64>,
}

impl Expected {
    /// Until the whole answer is there, as far as known.
    pub fn total(self) -> Duration {
        Duration::from_millis(self.wait_ms.saturating_add(self.run_ms.unwrap_or(0)))
    }
}

/// A price that pays for too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request may cost {needed} USD, {offered} are offered, which pay for {tokens} tokens a choice")]
pub struct PriceError {
    /// What the caller offers.
    pub offered: Picos,
    /// What it may cost at most.
    pub needed: Picos,
    /// Output tokens of each choice that the offer pays for.
    pub tokens: u32,
}

impl Serving {
    /// What a request of these tokens (`output` of each choice) in `tier` can expect: the wait that `/v1/capacity` tells,
    /// and the measured speed with as many sequences as run now and it.
    pub fn expected(&self, engine: &Engine, tier: Tier, prompt: u32, output: u32) -> Expected {
        let (card, stats) = (engine.card(), engine.stats());
        let wait_ms = headroom(tier, &stats, engine.config().max_num_seqs, self.typical_ms()).wait_ms;
        let measured = self.capacity.as_ref().and_then(|capacity| capacity.of(&card.id, &card.sha256));
        let point = measured.and_then(|measured| {
            let points = &measured.points;
            points.iter().find(|point| point.sequences > stats.running).or(points.last())
        });
        let run_ms = point.map(|point| {
            let prompt_ms = f64::from(prompt) * 1_000.0 / point.input_tokens_per_second.max(1e-3);
            // The cast saturates.
            (prompt_ms + f64::from(output) * point.inter_token_p50_ms) as u64
        });
        Expected { wait_ms, run_ms }
    }

    /// Refuses what cannot be had at the price or within the time that the caller demands.
    pub(super) fn check_demand(
        &self,
        engine: &Engine,
        ask: Ask,
        plan: &mut Plan,
        price: &PriceVersion,
    ) -> Result<(), AdmitError> {
        if let Some(offered) = ask.demand.max_price {
            plan.limit_price(price, offered, ask.is_limited).map_err(|error| match error {
                AffordError::Price(error) => AdmitError::Price(error),
                AffordError::Money(error) => AdmitError::Money(error),
            })?;
        }
        if let Some(wanted) = ask.demand.deadline {
            let expected = self.expected(engine, ask.tier, plan.prompt_total(), plan.usual_output());
            if ask.waited + expected.total() > wanted {
                return Err(AdmitError::Deadline { wanted, expected });
            }
        }
        Ok(())
    }

    /// What a request of this size in `tier` could expect, and whether its `demand` would be met. It takes no place and
    /// holds no money.
    ///
    /// # Errors
    /// The prompt leaves no room for an answer, the model has no price in the tier, or the sums do not fit.
    pub fn quote(
        &self,
        engine: &Engine,
        key_id: &str,
        tier: Tier,
        size: Size,
        demand: Demand,
    ) -> Result<Quote, AdmitError> {
        let (model, context) = (&engine.card().id, engine.context_len());
        let prompt = size.prompt as usize;
        if prompt >= context {
            return Err(AdmitError::ContextLength { prompt, context, exact: true, field: "input_tokens" });
        }
        let room = u32::try_from(context - prompt).unwrap_or(u32::MAX);
        let max_tokens = size.max_tokens.unwrap_or(u32::MAX).min(room);
        let covered = max_tokens.min(self.allowances.of(key_id, model)).saturating_mul(size.n);
        let (prompt_tokens, n) = (vec![size.prompt], size.n);
        let mut plan = Plan { prompt_tokens, max_tokens: vec![max_tokens], n, covered };
        let price = self.price(engine, tier.name())?;
        let ask = Ask { tier, demand, is_limited: size.max_tokens.is_some(), waited: Duration::ZERO };
        let refusal = self.check_demand(engine, ask, &mut plan, &price).err();
        let input = price.uncached_input.max(price.cached_input).times(size.prompt)?;
        let cost = |output| input.checked_add(price.output.times(output)?).ok_or(MoneyError::OutOfRange);
        Ok(Quote {
            at_most: cost(plan.output_limit())?,
            likely: cost(plan.covered)?,
            expected: self.expected(engine, tier, size.prompt, plan.usual_output()),
            max_tokens: plan.max_tokens[0],
            price,
            refusal,
        })
    }
}

impl Job {
    /// What admission must know of it.
    pub(super) fn ask(&self) -> Ask {
        let (is_limited, waited) = (self.max_tokens.is_some(), self.arrived.elapsed());
        Ask { tier: self.tier, demand: self.demand, is_limited, waited }
    }

    /// When it has to end, and why. A reader that took so much time for itself has as much more of what was promised.
    pub(super) fn deadline(&self, request_deadline: Duration, idle: Duration) -> (Instant, Cause) {
        let own = self.batch.map_or(self.arrived + request_deadline, |batch| batch.until);
        let promised = self.demand.deadline.map(|deadline| self.arrived + deadline + idle);
        match promised.filter(|promised| *promised < own) {
            Some(promised) => (promised, Cause::Late),
            None => (own, Cause::Deadline),
        }
    }
}

impl Plan {
    /// Output tokens of a choice that most answers stay within. Choices run side by side.
    fn usual_output(&self) -> u32 {
        let choices = self.n.saturating_mul(u32::try_from(self.max_tokens.len()).unwrap_or(u32::MAX));
        self.covered.div_ceil(choices.max(1))
    }

    /// Makes sure that the request costs at most `offered`. Where its output was not limited, it is limited to what that
    /// pays for.
    ///
    /// # Errors
    /// The output that was asked for may cost more, or not even one token is paid for.
    pub(super) fn limit_price(
        &mut self,
        price: &PriceVersion,
        offered: Picos,
        is_limited: bool,
    ) -> Result<(), AffordError> {
        let prompt = price.uncached_input.max(price.cached_input).times(self.prompt_total())?;
        let output = price.output.times(self.output_limit())?;
        let needed = prompt.checked_add(output).ok_or(MoneyError::OutOfRange)?;
        if needed <= offered {
            return Ok(());
        }
        let choices = i64::from(self.n).saturating_mul(self.max_tokens.len() as i64).max(1);
        let left = offered.0.saturating_sub(prompt.0).max(0);
        let tokens = left.checked_div(price.output.0.saturating_mul(choices)).unwrap_or(0);
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        if is_limited || tokens == 0 {
            return Err(PriceError { offered, needed, tokens }.into());
        }
        for max_tokens in &mut self.max_tokens {
            *max_tokens = tokens.min(*max_tokens);
        }
        self.covered = self.covered.min(self.output_limit());
        Ok(())
    }
}

/// Why a price does not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AffordError {
    #[error(transparent)]
    Price(#[from] PriceError),
    #[error(transparent)]
    Money(#[from] MoneyError),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::money::Tokens;

    fn plan(prompt: u32, max_tokens: &[u32], n: u32) -> Plan {
        Plan {
            prompt_tokens: vec![prompt; max_tokens.len()],
            max_tokens: max_tokens.to_vec(),
            n,
            covered: 64,
        }
    }

    fn price() -> PriceVersion {
        PriceVersion::new("m", "default", 0, Picos(10), Picos(5), Picos(40))
    }

    #[test]
    fn a_wanted_output_is_paid_in_full_or_refused_with_what_would_do() {
        let mut whole = plan(100, &[20], 2);
        assert_eq!(whole.limit_price(&price(), Picos(1_000 + 1_600), true), Ok(()));
        assert_eq!(whole.max_tokens, [20]);
        let refused = whole.limit_price(&price(), Picos(2_599), true);
        let error = PriceError { offered: Picos(2_599), needed: Picos(2_600), tokens: 19 };
        assert_eq!(refused, Err(AffordError::Price(error)));
    }

    #[test]
    fn an_output_without_a_limit_is_as_long_as_the_price_pays_for() {
        let mut open = plan(100, &[4_000], 1);
        assert!(open.limit_price(&price(), Picos(1_000 + 39), false).is_err());
        assert_eq!(open.limit_price(&price(), Picos(1_000 + 40 * 7 + 39), false), Ok(()));
        assert_eq!((open.max_tokens.as_slice(), open.covered), (&[7][..], 7));
    }

    proptest! {
        #[test]
        fn nothing_costs_more_than_was_offered(
            prompt in 1_u32..5_000, max in 1_u32..5_000, n in 1_u32..4, prompts in 1_usize..4,
            offered in 0_i64..2_000_000, input in 0_i64..50, cached in 0_i64..50, output in 0_i64..90, is_limited: bool,
        ) {
            let price = PriceVersion::new("m", "t", 0, Picos(input), Picos(cached), Picos(output));
            let mut plan = plan(prompt, &vec![max; prompts], n);
            if plan.limit_price(&price, Picos(offered), is_limited).is_ok() {
                let (total, output) = (plan.prompt_total(), plan.output_limit());
                for tokens in [
                    Tokens { uncached_input: total, cached_input: 0, output },
                    Tokens { uncached_input: 0, cached_input: total, output },
                ] {
                    prop_assert!(price.cost(tokens).unwrap().total <= Picos(offered));
                }
                prop_assert!(output > 0 && plan.covered <= output.max(64));
            }
        }
    }
}
