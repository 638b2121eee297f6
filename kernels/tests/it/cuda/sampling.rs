//! The token of each row, against the definition with f64 sums.

use kernels::cuda::sampling::{Adjustment, NoToken, RowWish, SampleRow, Sampled, sample};

use super::{device, rng};

const PLAIN: SampleRow = SampleRow::DEFAULT;

/// The CPU sampler's number for a draw.
fn uniform(seed: u64, n: u64) -> f64 {
    let mix = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let golden = 0x9e37_79b9_7f4a_7c15_u64;
    let start = mix(seed.wrapping_add(golden));
    (mix(start.wrapping_add((n + 1).wrapping_mul(golden))) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Tokens that rounding may make of a row: the one at which the running weight passes `u` of the whole, and a neighbour
/// where it passes within a hair.
fn expected(logits: &[f32], row: &SampleRow) -> Vec<u32> {
    let t = f64::from(row.temperature);
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |token: usize| (f64::from(logits[token] - max) / t).exp();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    let filtered = (row.top_k > 0 && (row.top_k as usize) < logits.len()) || row.top_p < 1.0;
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    let floor = if row.min_p > 0.0 { max + row.min_p.ln() * row.temperature } else { f32::NEG_INFINITY };
    let cut = |order: &mut Vec<usize>| {
        let mass = order.iter().map(|i| weight(*i)).sum::<f64>() * f64::from(row.top_p);
        let mut sum = 0.0;
        let reached = order.iter().position(|i| {
            sum += weight(*i);
            sum >= mass - 1e-9
        });
        order.truncate(reached.map_or(order.len(), |at| at + 1));
    };
    if row.top_k > 0 {
        order.truncate(row.top_k as usize);
    } else if row.top_p < 1.0 {
        cut(&mut order);
    }
    order.retain(|i| logits[*i] >= floor);
    if row.top_k > 0 && row.top_p < 1.0 {
        cut(&mut order);
    }
    if !filtered {
        order.sort_unstable();
    }
    let total: f64 = order.iter().map(|i| weight(*i)).sum();
    let target = uniform(row.seed, u64::from(row.draw)) * total;
    let (mut sum, mut found) = (0.0, Vec::new());
    for token in order {
        let before = sum;
        sum += weight(token);
        if before <= target + total * 1e-5 && sum > target - total * 1e-5 {
            found.push(token as u32);
        }
    }
    found
}

fn run(logits: &[f32], vocab: usize, wishes: &[RowWish]) -> Vec<Result<Sampled, NoToken>> {
    let on_device = device().upload(logits).expect("logits");
    sample(&on_device, vocab, wishes).expect("sizes fit")
}

#[test]
fn draws_follow_every_filter() {
    let mut rng = rng(231);
    let row = |seed| SampleRow { seed, temperature: 0.8, ..PLAIN };
    for vocab in [5, 33, 1000, 3001] {
        for seed in 0..4 {
            let wishes: Vec<RowWish> = [
                row(seed),
                SampleRow { temperature: 1.7, draw: 9, ..row(seed) },
                SampleRow { min_p: 0.1, ..row(seed) },
                SampleRow { top_k: 4, ..row(seed) },
                SampleRow { top_p: 0.7, draw: 3, ..row(seed) },
                SampleRow { top_k: 40, top_p: 0.5, min_p: 0.02, ..row(seed) },
                SampleRow { top_p: 0.95, min_p: 0.3, ..row(seed) },
                SampleRow { top_k: 5000, top_p: 0.9, temperature: 3.0, ..row(seed) },
            ]
            .map(|row| RowWish { row, ..RowWish::default() })
            .into();
            // Coarse logits make ties; some are impossible.
            let logits: Vec<f32> = (0..wishes.len() * vocab)
                .map(|i| if i % 17 == 3 { f32::NEG_INFINITY } else { (rng.signed() * 40.0).round() / 4.0 })
                .collect();
            for (i, got) in run(&logits, vocab, &wishes).into_iter().enumerate() {
                let token = got.expect("finite").token;
                let may = expected(&logits[i * vocab..][..vocab], &wishes[i].row);
                assert!(
                    may.contains(&token),
                    "vocabulary {vocab}, {:?}: {token}, not {may:?}",
                    wishes[i].row
                );
            }
        }
    }
}

#[test]
fn greedy_bias_penalties_and_masks() {
    let greedy = SampleRow { greedy: 1, ..PLAIN };
    let seen = |token, generated, bias| Adjustment::new(token, generated, bias, true, false);
    let with = |row, adjustments| RowWish { row, adjustments, ..RowWish::default() };
    let logits = [4.0f32, 3.5, -1.0, 3.5];
    let mask = |bits| RowWish { row: greedy, mask: Some(vec![bits]), ..RowWish::default() };
    let cases = [
        (with(greedy, vec![]), Ok(0)),
        (with(SampleRow { repetition: 2.0, ..greedy }, vec![seen(0, 0, 0.0)]), Ok(1)),
        (with(SampleRow { presence: 2.0, ..greedy }, vec![seen(0, 0, 0.0)]), Ok(0)),
        (with(SampleRow { presence: 0.6, ..greedy }, vec![seen(0, 2, 0.0)]), Ok(1)),
        (with(SampleRow { frequency: 0.3, ..greedy }, vec![seen(0, 2, 0.0)]), Ok(1)),
        (with(greedy, vec![Adjustment::new(2, 0, 9.0, false, false)]), Ok(2)),
        (with(greedy, vec![Adjustment::new(0, 0, 9.0, false, true)]), Ok(1)),
        (mask(0b1010), Ok(1)),
        (mask(0b0100), Ok(2)),
        (mask(0), Err(NoToken::Nothing)),
    ];
    let all: Vec<f32> = cases.iter().flat_map(|_| logits).collect();
    let wishes: Vec<RowWish> = cases.iter().map(|(wish, _)| wish.clone()).collect();
    for (got, (wish, token)) in run(&all, 4, &wishes).into_iter().zip(&cases) {
        assert_eq!(got.map(|sampled| sampled.token), *token, "{wish:?}");
    }
}

#[test]
fn reports_are_of_the_raw_logits() {
    let logits: Vec<f32> = [0.5_f32, 0.25, 0.125, 0.125].iter().map(|p| p.ln()).collect();
    let wish = RowWish {
        row: SampleRow { greedy: 1, ..PLAIN },
        adjustments: vec![Adjustment::new(2, 0, 50.0, false, false)],
        logprobs: Some(3),
        ..RowWish::default()
    };
    let got = run(&logits, 4, &[wish]).remove(0).expect("finite");
    let (own, top) = got.logprobs.expect("asked for");
    assert_eq!((got.token, top.iter().map(|t| t.0).collect::<Vec<_>>()), (2, vec![0, 1, 2]));
    assert!((own - 0.125_f32.ln()).abs() < 1e-5 && (top[0].1 - 0.5_f32.ln()).abs() < 1e-5);
}

#[test]
fn bad_logits_give_no_token() {
    let wish = || RowWish { row: SampleRow { temperature: 1.0, ..PLAIN }, ..RowWish::default() };
    let (inf, none) = (f32::INFINITY, f32::NEG_INFINITY);
    let rows = [[0.0, f32::NAN], [0.0, inf], [none, none], [none, 0.0]];
    let got = run(&rows.concat(), 2, &[wish(), wish(), wish(), wish()]);
    let got: Vec<_> = got.into_iter().map(|got| got.map(|sampled| sampled.token)).collect();
    let bad = Err(NoToken::NotFinite);
    assert_eq!(got, [bad, bad, Err(NoToken::Nothing), Ok(1)]);
}
