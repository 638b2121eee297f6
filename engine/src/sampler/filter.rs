//! Temperature, `min_p`, `top_k`, `top_p` and the draw, without sorting the vocabulary.

use crate::event::TokenLogprob;
use crate::request::SamplingParams;

/// A token that may be drawn, with its logit.
type Candidate = (u32, f32);

/// Draws a token; `u` in [0, 1) decides. `max` is the largest of `logits`, finite.
pub(super) fn draw(logits: &[f32], max: f32, params: &SamplingParams, u: f64) -> u32 {
    let weight = |logit: f32| f64::from(((logit - max) / params.temperature).exp());
    let top_k = params.top_k.map(|k| k as usize).filter(|k| *k < logits.len());
    if top_k.is_none() && params.top_p >= 1.0 {
        let floor = min_p_floor(max, params);
        let all = || (0..).zip(logits.iter().copied()).filter(|(_, logit)| *logit >= floor);
        let total: f64 = all().map(|(_, logit)| weight(logit)).sum();
        return pick(all().map(|(token, logit)| (token, weight(logit))), total * u);
    }
    let candidates = match top_k {
        Some(k) => likeliest(logits, k),
        None => nucleus(logits, max, params, &weight),
    };
    let kept = cut(candidates, max, params, top_k.is_some(), &weight);
    let total: f64 = kept.iter().map(|(_, logit)| weight(*logit)).sum();
    pick(kept.into_iter().map(|(token, logit)| (token, weight(logit))), total * u)
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
    weight: &impl Fn(f32) -> f64,
) -> Vec<Candidate> {
    let total: f64 = logits.iter().map(|logit| weight(*logit)).sum();
    let mut depth = 4.0 * params.temperature;
    loop {
        let floor = max - depth;
        let above = |logit: &f32| *logit >= floor;
        let mass: f64 = logits.iter().filter(|logit| above(logit)).map(|logit| weight(*logit)).sum();
        // exp(-104) is the smallest f32 above zero: beyond it nothing has any mass.
        if mass >= total * f64::from(params.top_p) || depth > 104.0 * params.temperature {
            let mut head: Vec<Candidate> =
                (0..).zip(logits.iter().copied()).filter(|(_, x)| above(x)).collect();
            sort(&mut head);
            return cut_mass(head, total * f64::from(params.top_p), weight);
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
    weight: &impl Fn(f32) -> f64,
) -> Vec<Candidate> {
    let floor = min_p_floor(max, params);
    let above = candidates.iter().take_while(|(_, logit)| *logit >= floor).count();
    candidates.truncate(above.max(1));
    if top_p && params.top_p < 1.0 {
        let total: f64 = candidates.iter().map(|(_, logit)| weight(*logit)).sum();
        return cut_mass(candidates, total * f64::from(params.top_p), weight);
    }
    candidates
}

/// The shortest head of sorted candidates with at least `mass`.
fn cut_mass(mut candidates: Vec<Candidate>, mass: f64, weight: &impl Fn(f32) -> f64) -> Vec<Candidate> {
    let mut sum = 0.0;
    let reached = candidates.iter().position(|(_, logit)| {
        sum += weight(*logit);
        sum >= mass
    });
    candidates.truncate(reached.map_or(candidates.len(), |i| i + 1));
    candidates
}

/// The first token at which the running sum of weights exceeds `target`; the last possible one if rounding lets none.
fn pick(weighted: impl Iterator<Item = (u32, f64)>, target: f64) -> u32 {
    let (mut sum, mut last) = (0.0, 0);
    for (token, weight) in weighted {
        if weight > 0.0 {
            sum += weight;
            last = token;
            if sum > target {
                break;
            }
        }
    }
    last
}

/// What a log probability report needs of the raw logits.
pub(super) struct Ranking {
    log_total: f32,
    top: Vec<Candidate>,
}

impl Ranking {
    /// Of raw `logits` with their maximum; keeps the `n` likeliest.
    pub(super) fn new(logits: &[f32], max: f32, n: usize) -> Self {
        let total: f64 = logits.iter().map(|logit| f64::from((logit - max).exp())).sum();
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
