//! Money: whole pico-USD (1e-12 USD), token counts by class, and the rate card. No float comes near it.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::civil;

#[cfg(test)]
mod tests;

/// Decimal places of one pico-USD.
const USD_PLACES: usize = 12;
/// Decimal places a price per 1M tokens may have; a seventh would be less than one pico-USD per token.
const PRICE_PLACES: usize = 6;

/// An amount in pico-USD (1e-12 USD), signed; ±9.2 million USD fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Picos(pub i64);

/// Why an amount, a price or a rate card is refused.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum MoneyError {
    /// Not of the form `12` or `12.34`.
    #[error("{0:?} is not a decimal amount such as \"12.50\"")]
    NotDecimal(String),
    /// More decimal places than one pico-USD can carry.
    #[error("{text:?} has more than {limit} decimal places")]
    TooPrecise {
        /// The refused text.
        text: String,
        /// Places that fit.
        limit: usize,
    },
    /// Outside what an `i64` of pico-USD holds.
    #[error("amount is outside ±9223372 USD")]
    OutOfRange,
    /// Two versions of one model and tier begin at the same instant.
    #[error("two prices for model {model:?}, tier {tier:?} take effect at {at}")]
    DuplicatePrice {
        /// Model id.
        model: String,
        /// Service tier.
        tier: String,
        /// RFC 3339 instant.
        at: String,
    },
}

impl Picos {
    /// No money.
    pub const ZERO: Picos = Picos(0);

    /// Sum, or `None` where it does not fit.
    pub fn checked_add(self, other: Picos) -> Option<Picos> {
        self.0.checked_add(other.0).map(Picos)
    }

    /// Difference, or `None` where it does not fit.
    pub fn checked_sub(self, other: Picos) -> Option<Picos> {
        self.0.checked_sub(other.0).map(Picos)
    }

    /// This price for `tokens` tokens.
    pub fn times(self, tokens: u32) -> Result<Picos, MoneyError> {
        i64::try_from(i128::from(self.0) * i128::from(tokens)).map(Picos).map_err(|_| MoneyError::OutOfRange)
    }

    /// Parses a decimal amount of USD, exact to 12 places; a sign is allowed.
    pub fn parse_usd(text: &str) -> Result<Picos, MoneyError> {
        decimal(text, USD_PLACES)
    }

    /// Parses a decimal price in USD per 1M tokens into pico-USD per token; at most 6 places, not negative.
    pub fn parse_per_million(text: &str) -> Result<Picos, MoneyError> {
        let price = decimal(text, PRICE_PLACES)?;
        if price.0 < 0 || text.trim_start().starts_with('-') {
            return Err(MoneyError::NotDecimal(shorten(text)));
        }
        Ok(price)
    }

    /// The exact decimal amount of USD, without needless zeros: `0.0000005`, `12`, `-1.5`.
    pub fn to_usd(self) -> String {
        format_decimal(self.0, USD_PLACES)
    }

    /// A price per token as its decimal USD per 1M tokens: the inverse of [`Picos::parse_per_million`].
    pub fn to_usd_per_million(self) -> String {
        format_decimal(self.0, PRICE_PLACES)
    }
}

/// The exact amount in USD, as [`Picos::to_usd`].
impl fmt::Display for Picos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_usd())
    }
}

fn decimal(text: &str, places: usize) -> Result<Picos, MoneyError> {
    let refused = || MoneyError::NotDecimal(shorten(text));
    let trimmed = text.trim();
    let (negative, digits) = match trimmed.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, trimmed),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return Err(refused());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > places {
        return Err(MoneyError::TooPrecise { text: shorten(text), limit: places });
    }
    let whole = whole.trim_start_matches('0');
    if whole.len() > 19 {
        return Err(MoneyError::OutOfRange);
    }
    let padding = std::iter::repeat_n(b'0', places - fraction.len());
    let units = whole
        .bytes()
        .chain(fraction.bytes())
        .chain(padding)
        .fold(0_i128, |sum, digit| sum * 10 + i128::from(digit - b'0'));
    let signed = if negative { -units } else { units };
    i64::try_from(signed).map(Picos).map_err(|_| MoneyError::OutOfRange)
}

fn format_decimal(units: i64, places: usize) -> String {
    let digits = format!("{:0width$}", units.unsigned_abs(), width = places + 1);
    let (whole, fraction) = digits.split_at(digits.len() - places);
    let fraction = fraction.trim_end_matches('0');
    let sign = if units < 0 { "-" } else { "" };
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{whole}{point}{fraction}")
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Billable tokens of one request, by disjoint class: prompt = uncached + cached input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tokens {
    /// Prompt tokens computed.
    pub uncached_input: u32,
    /// Prompt tokens found in the prefix cache.
    pub cached_input: u32,
    /// Tokens generated.
    pub output: u32,
}

impl Tokens {
    /// All classes together.
    pub fn total(self) -> u64 {
        u64::from(self.uncached_input) + u64::from(self.cached_input) + u64::from(self.output)
    }

    /// True where no class is below that of `earlier`.
    pub fn covers(self, earlier: Tokens) -> bool {
        self.uncached_input >= earlier.uncached_input
            && self.cached_input >= earlier.cached_input
            && self.output >= earlier.output
    }
}

/// What a request costs, by token class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// For uncached prompt tokens.
    pub uncached_input: Picos,
    /// For cached prompt tokens.
    pub cached_input: Picos,
    /// For generated tokens.
    pub output: Picos,
    /// Sum of the three.
    pub total: Picos,
}

/// One version of the prices of one model at one service tier; prices are pico-USD per token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceVersion {
    /// `pv_` and 12 hex digits of a hash over everything below: same prices, same id, on any machine.
    pub id: String,
    /// Model id.
    pub model: String,
    /// Service tier, in its wire spelling (`default`, `flex`, ...).
    pub tier: String,
    /// First instant at which it applies, Unix milliseconds.
    pub effective_from_ms: u64,
    /// Per uncached prompt token.
    pub uncached_input: Picos,
    /// Per cached prompt token.
    pub cached_input: Picos,
    /// Per generated token.
    pub output: Picos,
}

impl PriceVersion {
    /// Names the version by its content.
    pub fn new(
        model: &str,
        tier: &str,
        effective_from_ms: u64,
        uncached_input: Picos,
        cached_input: Picos,
        output: Picos,
    ) -> Self {
        let content = format!(
            "{model}\n{tier}\n{effective_from_ms}\n{}\n{}\n{}",
            uncached_input.0, cached_input.0, output.0
        );
        let digest = Sha256::digest(content.as_bytes());
        let id = digest.iter().take(6).fold(String::from("pv_"), |id, byte| format!("{id}{byte:02x}"));
        let (model, tier) = (model.to_owned(), tier.to_owned());
        Self { id, model, tier, effective_from_ms, uncached_input, cached_input, output }
    }

    /// The price of `tier` that is `parts` of `whole` of this one. A fraction of a pico-USD is rounded up.
    pub fn part(&self, tier: &str, parts: u32, whole: u32) -> Result<Self, MoneyError> {
        let whole = i128::from(whole.max(1));
        let part = |price: Picos| {
            let scaled = i128::from(price.0) * i128::from(parts);
            i64::try_from((scaled + whole - 1) / whole).map(Picos).map_err(|_| MoneyError::OutOfRange)
        };
        let (uncached, cached) = (part(self.uncached_input)?, part(self.cached_input)?);
        Ok(Self::new(&self.model, tier, self.effective_from_ms, uncached, cached, part(self.output)?))
    }

    /// Exact cost of `tokens`.
    pub fn cost(&self, tokens: Tokens) -> Result<Cost, MoneyError> {
        let uncached_input = self.uncached_input.times(tokens.uncached_input)?;
        let cached_input = self.cached_input.times(tokens.cached_input)?;
        let output = self.output.times(tokens.output)?;
        let total = uncached_input
            .checked_add(cached_input)
            .and_then(|sum| sum.checked_add(output))
            .ok_or(MoneyError::OutOfRange)?;
        Ok(Cost { uncached_input, cached_input, output, total })
    }
}

/// Every price version, by model, tier and first instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateCard {
    versions: Vec<PriceVersion>,
}

impl RateCard {
    /// Orders the versions; refuses two that begin at the same instant.
    pub fn new(mut versions: Vec<PriceVersion>) -> Result<Self, MoneyError> {
        let key = |v: &PriceVersion| (v.model.clone(), v.tier.clone(), v.effective_from_ms);
        versions.sort_by_key(key);
        match versions.windows(2).find(|pair| key(&pair[0]) == key(&pair[1])) {
            None => Ok(Self { versions }),
            Some(pair) => Err(MoneyError::DuplicatePrice {
                model: pair[0].model.clone(),
                tier: pair[0].tier.clone(),
                at: civil::format_ms(pair[0].effective_from_ms),
            }),
        }
    }

    /// The version in force for `model` and `tier` at `now_ms`.
    pub fn at(&self, model: &str, tier: &str, now_ms: u64) -> Option<&PriceVersion> {
        self.versions
            .iter()
            .rev()
            .find(|v| v.model == model && v.tier == tier && v.effective_from_ms <= now_ms)
    }

    /// All versions, by model, tier and first instant.
    pub fn versions(&self) -> &[PriceVersion] {
        &self.versions
    }
}
