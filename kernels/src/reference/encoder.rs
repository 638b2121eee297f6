//! The ops of encoders in plain loops over f64.

/// Attention of each token to all tokens of its sequence; see [`crate::attend_all`].
pub fn attend_all(qkv: &[f32], bias: &[f32], starts: &[u32], heads: usize) -> Vec<f64> {
    let width = bias.len() / 3;
    let head_dim = width / heads;
    let value =
        |row: usize, column: usize| f64::from(qkv[row * 3 * width + column]) + f64::from(bias[column]);
    let mut out = Vec::new();
    for ends in starts.windows(2) {
        let rows = ends[0] as usize..ends[1] as usize;
        for row in rows.clone() {
            for head in 0..heads {
                let at = head * head_dim;
                let score = |other: usize| -> f64 {
                    let dot = |i| value(row, at + i) * value(other, width + at + i);
                    (0..head_dim).map(dot).sum::<f64>() / (head_dim as f64).sqrt()
                };
                let scores: Vec<f64> = rows.clone().map(score).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
                let total: f64 = weights.iter().sum();
                out.extend((0..head_dim).map(|i| {
                    let part = |(w, other): (&f64, usize)| w * value(other, 2 * width + at + i);
                    weights.iter().zip(rows.clone()).map(part).sum::<f64>() / total
                }));
            }
        }
    }
    out
}

/// Layer normalisation of `x + residual + bias`, then scale and shift.
pub fn add_norm(x: &[f32], residual: &[f32], norm: crate::cpu::AddNorm<'_>) -> Vec<f64> {
    let k = norm.bias.len();
    let mut out = Vec::with_capacity(x.len());
    for (x, r) in x.chunks_exact(k).zip(residual.chunks_exact(k)) {
        let sums: Vec<f64> =
            (0..k).map(|i| f64::from(x[i]) + f64::from(r[i]) + f64::from(norm.bias[i])).collect();
        let mean = sums.iter().sum::<f64>() / k as f64;
        let variance = sums.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / k as f64;
        let scale = 1.0 / (variance + f64::from(norm.eps)).sqrt();
        let value =
            |i: usize| (sums[i] - mean) * scale * f64::from(norm.weight[i]) + f64::from(norm.shift[i]);
        out.extend((0..k).map(value));
    }
    out
}

/// `v / 2 * (1 + erf(v / sqrt 2))` of `v = x + bias`.
pub fn bias_gelu(x: &[f32], bias: &[f32]) -> Vec<f64> {
    let values = x.iter().zip(bias.iter().cycle()).map(|(x, b)| f64::from(*x) + f64::from(*b));
    values.map(|v| v / 2.0 * (1.0 + erf(v / std::f64::consts::SQRT_2))).collect()
}

/// The error function by its series with positive terms: `2 x exp(-x^2) / sqrt(pi) * sum (2 x^2)^n / (1 3 5 ... 2n + 1)`.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut total, mut odd) = (1.0, 1.0, 1.0);
    while term > total * 1e-17 {
        odd += 2.0;
        term *= 2.0 * x * x / odd;
        total += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * x * (-x * x).exp() * total
}
