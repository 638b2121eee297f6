//! Temperature, `min_p`, `top_k`, `top_p` and the draw, without sorting the vocabulary.

use crate::event::TokenLogprob;
use crate::request::SamplingParams;

/// A token that may be drawn, with its logit.
type Candidate = (u32, f32);

/// Weights below e^-87 count as 0: they are smaller than what rounding does to the others.
const DEEPEST: f32 = 87.0;
/// Weights that are summed in single precision before they enter a double.
const RUN: usize = 256;

/// Draws a token; `u` in [0, 1) decides. `max` is the largest of `logits`, finite.
pub(super) fn draw(logits: &[f32], max: f32, params: &SamplingParams, u: f64) -> u32 {
    let scale = 1.0 / params.temperature;
    let weight = |logit: f32| exp((logit - max) * scale);
    let top_k = params.top_k.map(|k| k as usize).filter(|k| *k < logits.len());
    if top_k.is_none() && params.top_p >= 1.0 {
        let floor = min_p_floor(max, params);
        let keep = |logit: f32| if logit >= floor { weight(logit) } else { 0.0 };
        let weights: Vec<f32> = logits.iter().map(|logit| keep(*logit)).collect();
        return pick(&weights, u) as u32;
    }
    let candidates = match top_k {
        Some(k) => likeliest(logits, k),
        None => nucleus(logits, max, params, &weight),
    };
    let kept = cut(candidates, max, params, top_k.is_some(), &weight);
    let weights: Vec<f32> = kept.iter().map(|(_, logit)| weight(*logit)).collect();
    kept[pick(&weights, u)].0
}

/// Smallest logit that `min_p` allows.
fn min_p_floor(max: f32, params: &SamplingParams) -> f32 {
    if params.min_p > 0.0 {
        // The likeliest always stays, whatever rounding does.
        (max + params.min_p.ln() * params.temperature).min(max)
    } else {
        f32::NEG_INFINITY
    }
}

/// Likeliest first; of equal ones the lowest token.
fn sort(candidates: &mut [Candidate]) {
    candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
}

/// The `k` likeliest tokens, sorted.
fn likeliest(logits: &[f32], k: usize) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = (0..).zip(logits.iter().copied()).collect();
    all.select_nth_unstable_by(k - 1, |a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(k);
    sort(&mut all);
    all
}

/// A sorted head of the vocabulary that holds at least `top_p` of the mass: the threshold is lowered until it does.
fn nucleus(
    logits: &[f32],
    max: f32,
    params: &SamplingParams,
    weight: &impl Fn(f32) -> f32,
) -> Vec<Candidate> {
    let weights: Vec<f32> = logits.iter().map(|logit| weight(*logit)).collect();
    let mass = sum(&weights) * f64::from(params.top_p);
    let mut depth = 4.0 * params.temperature;
    loop {
        let floor = max - depth;
        let mut head: Vec<Candidate> =
            (0..).zip(logits.iter().copied()).filter(|(_, logit)| *logit >= floor).collect();
        let held: f64 = head.iter().map(|(token, _)| f64::from(weights[*token as usize])).sum();
        if held >= mass || depth > DEEPEST * params.temperature {
            sort(&mut head);
            return cut_mass(head, mass, weight);
        }
        depth *= 2.0;
    }
}

/// Applies `min_p`, and `top_p` where it has not been applied yet, to sorted candidates.
fn cut(
    mut candidates: Vec<Candidate>,
    max: f32,
    params: &SamplingParams,
    top_p: bool,
    weight: &impl Fn(f32) -> f32,
) -> Vec<Candidate> {
    let floor = min_p_floor(max, params);
    let above = candidates.iter().take_while(|(_, logit)| *logit >= floor).count();
    candidates.truncate(above.max(1));
    if top_p && params.top_p < 1.0 {
        let total: f64 = candidates.iter().map(|(_, logit)| f64::from(weight(*logit))).sum();
        return cut_mass(candidates, total * f64::from(params.top_p), weight);
    }
    candidates
}

/// The shortest head of sorted candidates with at least `mass`.
fn cut_mass(mut candidates: Vec<Candidate>, mass: f64, weight: &impl Fn(f32) -> f32) -> Vec<Candidate> {
    let mut sum = 0.0;
    let reached = candidates.iter().position(|(_, logit)| {
        sum += f64::from(weight(*logit));
        sum >= mass
    });
    candidates.truncate(reached.map_or(candidates.len(), |i| i + 1));
    candidates
}

/// Sum of a run of weights. Eight accumulators in a fixed order, so that vector registers serve and the bits are fixed.
fn run_sum(weights: &[f32]) -> f64 {
    let mut sums = [0.0_f32; 8];
    let mut chunks = weights.chunks_exact(8);
    for chunk in &mut chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, weight)| *sum += weight);
    }
    let rest: f32 = chunks.remainder().iter().sum();
    sums.into_iter().map(f64::from).sum::<f64>() + f64::from(rest)
}

/// Sum of all weights.
fn sum(weights: &[f32]) -> f64 {
    weights.chunks(RUN).map(run_sum).sum()
}

/// Index of the weight at which the running sum exceeds `u` of the whole; the last above 0 if rounding lets none.
fn pick(weights: &[f32], u: f64) -> usize {
    let target = sum(weights) * u;
    let (mut before, mut last) = (0.0, 0);
    for (i, run) in weights.chunks(RUN).enumerate() {
        let whole = run_sum(run);
        if before + whole > target {
            let mut at = before;
            for (j, weight) in run.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
                at += f64::from(*weight);
                last = i * RUN + j;
                if at > target {
                    return last;
                }
            }
        } else if let Some(j) = run.iter().rposition(|weight| *weight > 0.0) {
            last = i * RUN + j;
        }
        before += whole;
    }
    last
}

/// e to the power of `x` <= 0, to a few units of its last place; 0 below [`DEEPEST`]. Free of branches and calls, so that the
/// compiler can use vector registers: 2^n * 2^f, the second factor by a polynomial on [-0.5, 0.5].
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let y = x.max(-DEEPEST) * std::f32::consts::LOG2_E;
    let rounded = y + ROUND;
    let f = y - (rounded - ROUND);
    let p = 0.000_154_035_3 * f + 0.001_333_355_8;
    let p = p * f + 0.009_618_129;
    let p = p * f + 0.055_504_11;
    let p = p * f + 0.240_226_5;
    let p = p * f + std::f32::consts::LN_2;
    let p = p * f + 1.0;
    // The low bits of `rounded` are n, -126 <= n <= 0; moved up, they are an exponent field.
    let power = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x < -DEEPEST { 0.0 } else { p * power }
}

/// What a log probability report needs of the raw logits.
pub(super) struct Ranking {
    log_total: f32,
    top: Vec<Candidate>,
}

impl Ranking {
    /// Of raw `logits` with their maximum; keeps the `n` likeliest.
    pub(super) fn new(logits: &[f32], max: f32, n: usize) -> Self {
        let weights: Vec<f32> = logits.iter().map(|logit| exp(logit - max)).collect();
        let total = sum(&weights);
        let mut top: Vec<Candidate> = Vec::with_capacity(n + 1);
        for (token, logit) in (0..).zip(logits.iter().copied()) {
            if n > 0 && (top.len() < n || logit > top[n - 1].1) {
                let at = top.partition_point(|kept| kept.1 >= logit);
                top.insert(at, (token, logit));
                top.truncate(n);
            }
        }
        Self { log_total: max + total.ln() as f32, top }
    }

    /// The report on `token`, whose raw logit is given.
    pub(super) fn report(self, token: u32, logit: f32) -> TokenLogprob {
        let log_total = self.log_total;
        let top = self.top.into_iter().map(|(token, logit)| (token, logit - log_total)).collect();
        TokenLogprob { token, logprob: logit - log_total, top }
    }
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn exp_is_close_everywhere() {
        for i in 0..87_000 {
            let x = i as f32 * -0.001;
            let true_value = f64::from(x).exp();
            // The argument of 2^y is rounded once: its error grows with |x|.
            let bound = 3e-7 + f64::from(x.abs()) * 1e-7;
            assert!((f64::from(exp(x)) / true_value - 1.0).abs() < bound, "exp({x}) = {}", exp(x));
        }
        assert_eq!((exp(0.0), exp(-88.0), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
    }
}
