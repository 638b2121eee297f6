//! Embedding rows, normalisation, activation.

use kernels::cuda::rows::{self, PickedRows, RowsOut};
use kernels::reference;

use super::{device, rng, values, widen};
use crate::support::assert_close;

/// Largest error of an e4m3 value: half a step of 1/8 of its power of two, or of the smallest step.
fn fp8_bound(expected: f64, scale: f64) -> f64 {
    expected.abs() / 15.0 + scale * 0.002
}

fn fp8_value(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let magnitude =
        if exponent == 0 { mantissa / 512.0 } else { (8.0 + mantissa) * 2f32.powi(exponent - 10) };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

#[test]
fn rms_norm_adds_picks_and_quantises() {
    let (device, mut rng) = (device(), rng(201));
    for (rows, width) in [(1, 4), (3, 64), (5, 576), (2, 1000)] {
        let (x, delta) = (rng.values(rows * width), values(&mut rng, rows * width, 1.0));
        let weight = rng.values(width);
        let sum: Vec<f32> = x.iter().zip(widen(&delta)).map(|(x, d)| x + d).collect();
        let expected = reference::rms_norm(&sum, &weight, 1e-5);
        let on_device = device.upload(&weight).expect("weight");
        let residual = device.upload(&x).expect("residual");
        let delta = device.upload(&delta).expect("delta");
        let out = device.zeros(rows * width).expect("out");
        rows::rms_norm(&residual, Some(&delta), &on_device, 1e-5, rows, None, &RowsOut::Bf16(&out))
            .expect("norm");
        let what = format!("{rows} x {width}");
        assert_close(
            &widen(&out.to_vec().expect("out")),
            &expected,
            |i| 0.005 * expected[i].abs() + 1e-6,
            &what,
        );
        assert_eq!(residual.to_vec().expect("residual"), sum, "{what}: the sum stays in the residual");

        // Picked rows, quantised, nothing added.
        let picks: Vec<u32> = (0..rows as u32).rev().step_by(2).collect();
        let mut picked = PickedRows::new(&device, rows).expect("picks");
        picked.fill(&picks).expect("picks");
        let (bytes, scales) = (device.zeros(rows * width).expect("out"), device.zeros(rows).expect("scales"));
        let target = RowsOut::Fp8(&bytes, &scales);
        rows::rms_norm(&residual, None, &on_device, 1e-5, rows, Some(&picked), &target).expect("norm");
        let (bytes, scales) = (bytes.to_vec().expect("out"), scales.to_vec().expect("scales"));
        for (i, row) in picks.iter().enumerate() {
            let own: Vec<f32> =
                bytes[i * width..][..width].iter().map(|b| fp8_value(*b) * scales[i]).collect();
            let expected = &expected[*row as usize * width..][..width];
            let bound = |j: usize| fp8_bound(expected[j], f64::from(scales[i]));
            assert_close(&own, expected, bound, &format!("{what}, row {row} as fp8"));
        }
    }
}

#[test]
fn silu_mul_in_both_forms() {
    let (device, mut rng) = (device(), rng(202));
    for (rows, width) in [(1, 8), (3, 136), (2, 1536)] {
        let x = values(&mut rng, rows * 2 * width, 6.0);
        let expected = reference::silu_mul(&widen(&x), width);
        let x = device.upload(&x).expect("x");
        let out = device.zeros(rows * width).expect("out");
        rows::silu_mul(&x, rows, width, &RowsOut::Bf16(&out)).expect("silu");
        let what = format!("{rows} x {width}");
        assert_close(
            &widen(&out.to_vec().expect("out")),
            &expected,
            |i| 0.005 * expected[i].abs() + 1e-6,
            &what,
        );
        let (bytes, scales) = (device.zeros(rows * width).expect("out"), device.zeros(rows).expect("scales"));
        rows::silu_mul(&x, rows, width, &RowsOut::Fp8(&bytes, &scales)).expect("silu");
        let scales = scales.to_vec().expect("scales");
        let own: Vec<f32> = bytes
            .to_vec()
            .expect("out")
            .iter()
            .enumerate()
            .map(|(i, b)| fp8_value(*b) * scales[i / width])
            .collect();
        let bound = |i: usize| fp8_bound(expected[i], f64::from(scales[i / width]));
        assert_close(&own, &expected, bound, &format!("{what} as fp8"));
    }
}

#[test]
fn embedding_rows_are_exact() {
    let (device, mut rng) = (device(), rng(203));
    let (vocab, width) = (50, 200);
    let table = values(&mut rng, vocab * width, 3.0);
    let ids: Vec<u32> = vec![0, 49, 7, 7, 50, u32::MAX];
    let out = device.zeros(ids.len() * width).expect("out");
    let (on_device, table_on) = (device.upload(&ids).expect("ids"), device.upload(&table).expect("table"));
    rows::embed(&on_device, ids.len(), &table_on, width, &out).expect("embed");
    let expected: Vec<f32> = ids
        .iter()
        .flat_map(|id| match table.chunks(width).nth(*id as usize) {
            Some(row) => widen(row),
            None => vec![0.0; width],
        })
        .collect();
    assert_eq!(out.to_vec().expect("out"), expected);
}

#[test]
fn wrong_sizes_are_refused() {
    let device = device();
    let (short, weight) = (device.zeros(63).expect("x"), device.zeros(64).expect("weight"));
    let out = device.zeros(64).expect("out");
    let target = RowsOut::Bf16(&out);
    assert!(rows::rms_norm(&short, None, &weight, 1e-5, 1, None, &target).is_err());
    let mut picked = PickedRows::new(&device, 2).expect("picks");
    assert!(picked.fill(&[1, 1]).is_err());
    picked.fill(&[1]).expect("picks");
    let residual = device.zeros(64).expect("x");
    assert!(rows::rms_norm(&residual, None, &weight, 1e-5, 1, Some(&picked), &target).is_err());
    assert!(rows::silu_mul(&device.zeros(20).expect("x"), 1, 10, &target).is_err());
}
