//! When which requests arrive.

use std::error::Error;
use std::path::Path;

use engine::Tier;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) at_us: u64,
    pub(crate) tier: Tier,
    pub(crate) org: String,
    pub(crate) prompt_tokens: u32,
    pub(crate) output_tokens: u32,
}

/// Reads a trace; its lines may stand in any order.
pub(crate) fn read(path: &Path) -> Result<Vec<Arrival>, Box<dyn Error>> {
    let text = std::fs::read_to_string(path)?;
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let head = lines.next().map(|(_, line)| line.trim());
    if head != Some("at_ms,tier,org,prompt_tokens,output_tokens") {
        return Err("the first line must be at_ms,tier,org,prompt_tokens,output_tokens".into());
    }
    let mut arrivals = Vec::new();
    for (at, line) in lines {
        arrivals.push(parse(line).ok_or_else(|| format!("line {}: not a request: {line}", at + 1))?);
    }
    arrivals.sort_by_key(|arrival| arrival.at_us);
    Ok(arrivals)
}

fn parse(line: &str) -> Option<Arrival> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [at_ms, tier, org, prompt_tokens, output_tokens] = fields.as_slice() else { return None };
    let count = |text: &str| text.parse().ok().filter(|count| (1..=1_000_000).contains(count));
    Some(Arrival {
        at_us: at_ms.parse::<u64>().ok()?.checked_mul(1_000)?,
        tier: Tier::named(tier)?,
        org: (*org).to_owned(),
        prompt_tokens: count(prompt_tokens)?,
        output_tokens: count(output_tokens)?,
    })
}

/// SplitMix64: the same numbers on every machine.
struct Rng(u64);

impl Rng {
    /// Uniform in 0..1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Microseconds to the next of `per_second` events a second.
    fn gap_us(&mut self, per_second: f64) -> u64 {
        (-(1.0 - self.unit()).ln() / per_second * 1e6) as u64
    }

    fn between(&mut self, low: u32, high: u32) -> u32 {
        low + (self.unit() * f64::from(high - low)) as u32
    }
}

/// A mixture: the operator's own work in bursts of half a minute every two, customers by Poisson in two tiers, and a
/// backlog from the first instant on. Rates are per device.
pub(crate) fn made_up(seed: u64, seconds: u64, devices: usize) -> Vec<Arrival> {
    let mut rng = Rng(seed);
    let (end_us, devices) = (seconds * 1_000_000, devices.max(1) as f64);
    let mut arrivals = Vec::new();
    let mut stream =
        |tier: Tier, orgs: u32, per_second: f64, sizes: [u32; 4], is_on: &dyn Fn(u64) -> bool| {
            let mut at_us = rng.gap_us(per_second * devices);
            while at_us < end_us {
                let org = format!("{}-{}", tier.name(), rng.between(0, orgs));
                let (prompt_tokens, output_tokens) =
                    (rng.between(sizes[0], sizes[1]), rng.between(sizes[2], sizes[3]));
                if is_on(at_us) {
                    arrivals.push(Arrival { at_us, tier, org, prompt_tokens, output_tokens });
                }
                at_us += rng.gap_us(per_second * devices).max(1);
            }
        };
    stream(Tier::Internal, 1, 4.0, [100, 600, 20, 120], &|at_us| at_us / 1_000_000 % 120 < 30);
    stream(Tier::Default, 8, 0.8, [50, 400, 20, 200], &|_| true);
    stream(Tier::Flex, 4, 0.4, [50, 400, 20, 200], &|_| true);
    for number in 0..(seconds as f64 * devices * 0.5) as u32 {
        let (prompt_tokens, output_tokens) = (rng.between(100, 500), rng.between(50, 200));
        let org = format!("batch-{}", number % 3);
        arrivals.push(Arrival { at_us: 0, tier: Tier::Batch, org, prompt_tokens, output_tokens });
    }
    arrivals.sort_by_key(|arrival| arrival.at_us);
    arrivals
}
