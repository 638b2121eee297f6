//! Flex prices that follow what is free.
//!
//! Between cap (nothing is free) and floor (all is) lie `steps + 1` prices. The step is a function of what is free and of
//! the step before alone: it follows once what is free is a part of a step past the border. So for equal steps before,
//! more that is free never costs more, and small swings change nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use engine::{Engine, Tier};

use super::{AdmitError, Serving, unix_ms};
use crate::capacity::headroom;
use crate::config::{SpotRule, SpotSection};
use crate::money::{MoneyError, PriceVersion};

/// The models whose price follows, and at which step each is.
#[derive(Debug)]
pub(super) struct Spot {
    steps: u32,
    hysteresis_percent: u32,
    models: HashMap<String, (SpotRule, Mutex<u32>)>,
}

impl Spot {
    /// Begins at the caps.
    pub(super) fn new(section: &SpotSection) -> Self {
        let models = section.model.iter().map(|rule| (rule.id.clone(), (rule.clone(), Mutex::new(0))));
        let (steps, hysteresis_percent) = (section.steps, section.hysteresis_percent);
        Self { steps, hysteresis_percent, models: models.collect() }
    }

    /// The flex price of the model whose default price is `base`, with `free` of `places` free; `None`: it is fixed.
    pub(super) fn price(
        &self,
        base: &PriceVersion,
        free: usize,
        places: usize,
    ) -> Option<Result<PriceVersion, MoneyError>> {
        let (rule, step) = self.models.get(&base.model)?;
        let mut step = step.lock().unwrap_or_else(PoisonError::into_inner);
        *step = next(*step, free, places, self.steps, self.hysteresis_percent);
        Some(at(rule, base, *step, self.steps))
    }
}

/// The step after `before`. A step begins where its part of all places is free; borders are moved by the hysteresis away
/// from where the price is.
fn next(before: u32, free: usize, places: usize, steps: u32, hysteresis_percent: u32) -> u32 {
    // In hundredths of a step; one step more than there are borders, so that the last can be passed by its hysteresis.
    let whole = (u128::from(steps) + 1) * 100;
    let free = free.min(places) as u128 * whole / places.max(1) as u128;
    let beyond = |shift: i128| {
        let passed = (free.cast_signed() - shift).max(0).cast_unsigned() / 100;
        u32::try_from(passed).unwrap_or(u32::MAX).min(steps)
    };
    let shift = i128::from(hysteresis_percent);
    before.clamp(beyond(shift), beyond(-shift))
}

/// The price at a step: at 0 the cap, at the last the floor.
fn at(rule: &SpotRule, base: &PriceVersion, step: u32, steps: u32) -> Result<PriceVersion, MoneyError> {
    let (floor, cap) = (rule.floor_percent, rule.cap_percent.max(rule.floor_percent));
    // Both at most a thousand, and a hundred steps.
    base.part(Tier::Flex.name(), cap * steps - (cap - floor) * step, 100 * steps)
}

impl Serving {
    /// The price in force now in the tier of this name.
    pub(super) fn price(&self, engine: &Engine, tier: &str) -> Result<PriceVersion, AdmitError> {
        let (model, now_ms) = (&engine.card().id, unix_ms());
        if tier == Tier::Flex.name()
            && let Some(base) = self.rates.at(model, Tier::Default.name(), now_ms)
        {
            let (stats, places) = (engine.stats(), engine.config().max_num_seqs);
            let free = headroom(Tier::Flex, &stats, places, 0).free;
            if let Some(price) = self.spot.price(&base, free, places) {
                return Ok(price?);
            }
        }
        self.rates.at(model, tier, now_ms).ok_or_else(|| AdmitError::NoPrice(model.clone()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::money::Picos;

    fn spot(floor_percent: u32, cap_percent: u32, steps: u32, hysteresis_percent: u32) -> Spot {
        let model = vec![SpotRule { id: "m".to_owned(), floor_percent, cap_percent }];
        Spot::new(&SpotSection { steps, hysteresis_percent, model })
    }

    fn base(output: i64) -> PriceVersion {
        PriceVersion::new("m", "default", 7, Picos(100_000), Picos(3), Picos(output))
    }

    fn output(spot: &Spot, free: usize) -> i64 {
        spot.price(&base(400_000), free, 100).unwrap().unwrap().output.0
    }

    #[test]
    fn the_price_falls_step_by_step_and_does_not_swing() {
        let spot = spot(20, 80, 4, 40);
        let half = |percent: i64| 4_000 * percent;
        assert_eq!(output(&spot, 0), half(80));
        // Five parts of 20 places; the first border is at 20, and is passed at 28.
        for (free, percent) in
            [(27, 80), (28, 65), (13, 65), (12, 65), (11, 80), (27, 80), (100, 20), (73, 20), (71, 35)]
        {
            assert_eq!(output(&spot, free), half(percent), "{free} free");
        }
        let other = PriceVersion::new("n", "default", 7, Picos(1), Picos(1), Picos(1));
        assert!(spot.price(&other, 1, 2).is_none(), "its price is fixed");
    }

    proptest! {
        #[test]
        fn prices_lie_between_floor_and_cap_and_more_that_is_free_never_costs_more(
            (floor, cap) in (0_u32..=1_000, 0_u32..=1_000).prop_map(|(a, b)| (a.min(b), a.max(b))),
            steps in 1_u32..=100, hysteresis in 0_u32..=49, places in 1_usize..2_000, price in 0_i64..1_000_000_000,
            loads in proptest::collection::vec((0_usize..2_000, 0_usize..2_000), 1..40),
        ) {
            let spot = spot(floor, cap, steps, hysteresis);
            let twin = self::spot(floor, cap, steps, hysteresis);
            let base = base(price);
            let bounds = [floor, cap].map(|percent| base.part("flex", percent, 100).unwrap());
            for (free, more) in loads {
                let before = *spot.models["m"].1.lock().unwrap();
                let served = spot.price(&base, free, places).unwrap().unwrap();
                // The same loads give the same prices, and the same load again changes nothing.
                prop_assert_eq!(&served, &twin.price(&base, free, places).unwrap().unwrap());
                prop_assert_eq!(&served, &spot.price(&base, free, places).unwrap().unwrap());
                prop_assert!(bounds[0].output <= served.output && served.output <= bounds[1].output);
                prop_assert!(bounds[0].uncached_input <= served.uncached_input);
                prop_assert!(served.cached_input <= bounds[1].cached_input);
                let step = |free| next(before, free, places, steps, hysteresis);
                prop_assert!(step(free.max(more)) >= step(free.min(more)));
                prop_assert!(step(places) == steps && step(0) == 0);
            }
        }

        /// A swing of less than twice the hysteresis changes the price at most once.
        #[test]
        fn small_swings_change_nothing(free in 0_usize..10_000, steps in 1_u32..=50, start in 0_u32..=50) {
            let (places, hysteresis) = (10_000, 40);
            // Hundredths of a step, less one for rounding.
            let swing = (2 * hysteresis as usize - 2) * places / ((steps as usize + 1) * 100);
            let other = (free + swing).min(places);
            let mut step = next(start.min(steps), free, places, steps, hysteresis);
            let mut changes = 0;
            for turn in 0..10 {
                let now = next(step, if turn % 2 == 0 { other } else { free }, places, steps, hysteresis);
                changes += u32::from(now != step);
                step = now;
            }
            prop_assert!(changes <= 1);
        }
    }
}
