//! Our own check of FOCUS lines, on their text: what the official validator does not see.

use std::collections::{HashMap, HashSet};

use super::Line;
use super::columns::COLUMNS;
use crate::civil;
use crate::ledger::types::LedgerError;

/// Sums of the lines seen, and what is wrong with them.
#[derive(Debug, Default)]
pub(in crate::ledger) struct Lint {
    /// Sum of `BilledCost`, pico-USD.
    pub(in crate::ledger) cost: i128,
    /// What credits give back, pico-USD.
    pub(in crate::ledger) credited: i128,
    /// Sum of `ConsumedQuantity`.
    pub(in crate::ledger) tokens: i128,
    /// The first problem of each kind.
    pub(in crate::ledger) problems: Vec<String>,
    keys: HashSet<String>,
    hour: String,
}

impl Lint {
    /// Checks the text of a line; what is wrong is noted.
    pub(in crate::ledger) fn line(&mut self, line: &Line<'_>) -> Result<(), LedgerError> {
        let values = COLUMNS.iter().map(|(name, value)| (*name, value(line))).collect();
        if let Err(problem) = self.check(&values)
            && !self.problems.contains(&problem)
        {
            self.problems.push(problem);
        }
        Ok(())
    }

    fn check(&mut self, line: &HashMap<&'static str, String>) -> Result<(), String> {
        let text = |name: &str| line.get(name).map_or("", String::as_str);
        let number = |name: &'static str, places| {
            units(text(name), places).ok_or_else(|| format!("FOCUS: {name} {:?} is no decimal", text(name)))
        };
        let billed = number("BilledCost", 12)?;
        let (quantity, places) = match text("ChargeCategory") {
            "Credit" => {
                self.credited -= billed;
                let all_give = billed < 0 && text("PricingQuantity").is_empty();
                return if all_give { Ok(()) } else { Err("FOCUS: a credit that gives nothing".to_owned()) };
            }
            "Purchase" => (number("PricingQuantity", 0)?, 12),
            _ => {
                let (tokens, quantity) = (number("ConsumedQuantity", 0)?, number("PricingQuantity", 6)?);
                if quantity != tokens {
                    return Err("FOCUS: the priced quantity is not the consumed one".to_owned());
                }
                self.tokens += tokens;
                (quantity, 6)
            }
        };
        self.cost += billed;
        for (price, cost) in [
            ("ListUnitPrice", "ListCost"),
            ("ContractedUnitPrice", "ContractedCost"),
            ("ContractedUnitPrice", "EffectiveCost"),
            ("PricingCurrencyContractedUnitPrice", "PricingCurrencyEffectiveCost"),
            ("PricingCurrencyListUnitPrice", "BilledCost"),
        ] {
            if number(price, places)? * quantity != number(cost, 12)? {
                return Err(format!("FOCUS: {price} x PricingQuantity is not {cost}"));
            }
        }
        if quantity <= 0 || billed < 0 {
            return Err("FOCUS: a quantity or cost is out of range".to_owned());
        }
        let instant = |name: &str| {
            let value = text(name);
            let ms = civil::parse_ms(value).ok().filter(|_| value.len() == 20 && value.ends_with('Z'));
            ms.ok_or_else(|| format!("FOCUS: {name} {value:?} is no UTC instant"))
        };
        let from = instant("ChargePeriodStart")?;
        let month = civil::month_of(from);
        // As text, because the last instant that has one is that of year 9999.
        let bounds = [
            ("ChargePeriodEnd", from + super::HOUR_MS),
            ("BillingPeriodStart", month.0),
            ("BillingPeriodEnd", month.1),
        ];
        let is_bound = |(name, ms): (&str, u64)| text(name) == civil::format_s(ms);
        if from % super::HOUR_MS != 0 || !bounds.into_iter().all(is_bound) {
            return Err("FOCUS: a charge period is not an hour of its billing period".to_owned());
        }
        self.check_unique(line, text("ChargePeriodStart"))
    }

    /// No two lines of an hour are about the same.
    fn check_unique(&mut self, line: &HashMap<&'static str, String>, hour: &str) -> Result<(), String> {
        if self.hour != hour {
            self.keys.clear();
            hour.clone_into(&mut self.hour);
        }
        let own = ["BillingAccountId", "SubAccountId", "x_ApiKeyId", "SkuPriceId", "Tags", "x_TagsOmitted"];
        let names = own.into_iter().chain(["CapacityReservationId"]);
        let key = names.map(|name| line.get(name).map_or("", String::as_str)).collect::<Vec<_>>().join("\n");
        if self.keys.insert(key) { Ok(()) } else { Err("FOCUS: two lines are about the same".to_owned()) }
    }
}

/// A decimal text in units of `places`; `None` for anything else, and for more places.
fn units(text: &str, places: usize) -> Option<i128> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, fraction) = digits.split_once('.')?;
    let fraction = fraction.trim_end_matches('0');
    let all_digits = whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits || fraction.len() > places {
        return None;
    }
    let value: i128 = format!("{whole}{fraction:0<places$}").parse().ok()?;
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::units;

    #[test]
    fn decimals_are_read_as_strictly_as_they_are_written() {
        for (text, places, value) in [
            ("1.5", 6, Some(1_500_000)),
            ("12.0", 0, Some(12)),
            ("-0.000001", 6, Some(-1)),
            ("12", 6, None),
            ("1.5", 0, None),
            ("1e3.0", 6, None),
            ("+1.0", 6, None),
            ("$1.0", 6, None),
            (".5", 6, None),
            ("", 6, None),
        ] {
            assert_eq!(units(text, places), value, "{text}");
        }
    }
}
