//! Packed matmul on every path.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use half::f16;
use kernels::{PackedMatrix, WeightType, cpu, reference};

use crate::support::{Rng, TYPES, assert_close, bits, dequantized, single_thread, weights};

fn is_quantized(ty: WeightType) -> bool {
    ty.block_len() > 1
}

/// Compares every path with the reference. The bound is 4e-6 of the sum of magnitudes: float rounding only, because the
/// reference gets the same rounded activations.
fn check(ty: WeightType, data: &[u8], x: &[f32], rows: usize, cols: usize) {
    let (m, plain) = (x.len() / cols, dequantized(ty, data));
    let seen = if is_quantized(ty) { reference::round_activations(x) } else { x.to_vec() };
    let expected = reference::matmul(&seen, &plain, cols);
    // The minimum's part and the scale's part of a 4-bit weight cancel, so both count as magnitude.
    let magnitudes = |v: &[f32]| v.iter().map(|v| v.abs()).collect::<Vec<f32>>();
    let largest = plain.iter().fold(0f32, |a, v| a.max(v.abs()));
    let wide: Vec<f32> = magnitudes(&plain).iter().map(|v| v + largest).collect();
    let scale = reference::matmul(&magnitudes(&seen), &wide, cols);
    let packed = PackedMatrix::pack(ty, rows, cols, data).expect("packed");
    for path in cpu::paths() {
        let mut out = vec![f32::NAN; m * rows];
        path.matmul(x, &packed, &mut out);
        let what = format!("{} {ty:?} {m} x {rows} x {cols}", path.name());
        assert_close(&out, &expected, |i| 4e-6 * scale[i] + 1e-30, &what);
    }
}

#[test]
fn agrees_with_the_reference() {
    let mut rng = Rng(21);
    for ty in TYPES {
        for _ in 0..12 {
            let rows = 1 + rng.below(70);
            let cols = ty.block_len() * (1 + rng.below(if is_quantized(ty) { 5 } else { 150 }));
            let m = 1 + rng.below(9);
            let data = weights(ty, rows, cols, &mut rng);
            let x = rng.values(m * cols);
            check(ty, &data, &x, rows, cols);
        }
    }
}

#[test]
fn the_largest_quants_do_not_overflow() {
    let (rows, cols) = (17, 256);
    for ty in [WeightType::Q4_0, WeightType::Q4_1, WeightType::Q8_0, WeightType::Q4K, WeightType::Q6K] {
        for fill in [0x00, 0x7f, 0x80, 0xff] {
            let mut data = vec![fill; rows * ty.row_bytes(cols).expect("whole blocks")];
            for block in data.chunks_exact_mut(ty.block_bytes()) {
                let at = if ty == WeightType::Q6K { 208 } else { 0 };
                block[at..at + 2].copy_from_slice(&f16::from_f32(0.01).to_le_bytes());
                if matches!(ty, WeightType::Q4_1 | WeightType::Q4K) {
                    block[2..4].copy_from_slice(&f16::from_f32(0.02).to_le_bytes());
                }
            }
            for sign in [1.0, -1.0] {
                check(ty, &data, &vec![sign; 5 * cols], rows, cols);
                let alternating: Vec<f32> =
                    (0..5 * cols).map(|i| if i % 2 == 0 { sign } else { -sign }).collect();
                check(ty, &data, &alternating, rows, cols);
            }
        }
    }
}

#[test]
fn extreme_activations_stay_in_range() {
    let mut rng = Rng(22);
    let data = weights(WeightType::Q4_1, 16, 64, &mut rng);
    let packed = PackedMatrix::pack(WeightType::Q4_1, 16, 64, &data).expect("packed");
    for value in [0.0, 1e-38, 1e-40, 1e-31] {
        for path in cpu::paths() {
            let mut out = vec![f32::NAN; 16];
            path.matmul(&[value; 64], &packed, &mut out);
            assert!(out.iter().all(|v| v.abs() < 1e-28), "{} at {value}: {out:?}", path.name());
        }
    }
}

#[test]
fn quantising_activations_costs_less_than_one_percent() {
    let mut rng = Rng(23);
    let (rows, cols) = (64, 512);
    let data = weights(WeightType::Q4_1, rows, cols, &mut rng);
    let x = rng.values(4 * cols);
    let exact = reference::matmul(&x, &dequantized(WeightType::Q4_1, &data), cols);
    let packed = PackedMatrix::pack(WeightType::Q4_1, rows, cols, &data).expect("packed");
    let mut out = vec![0f32; 4 * rows];
    cpu::path().matmul(&x, &packed, &mut out);
    let error: f64 = out.iter().zip(&exact).map(|(a, e)| (f64::from(*a) - e).powi(2)).sum();
    let size: f64 = exact.iter().map(|e| e.powi(2)).sum();
    assert!((error / size).sqrt() < 0.01, "relative error {}", (error / size).sqrt());
}

#[test]
fn a_row_does_not_depend_on_the_batch_or_the_threads() {
    let mut rng = Rng(24);
    for ty in TYPES {
        let (rows, cols, m) = (333, 512, 150);
        let data = weights(ty, rows, cols, &mut rng);
        let packed = PackedMatrix::pack(ty, rows, cols, &data).expect("packed");
        let x = rng.values(m * cols);
        for path in cpu::paths() {
            let mut together = vec![0f32; m * rows];
            path.matmul(&x, &packed, &mut together);
            let mut alone = vec![0f32; m * rows];
            single_thread(|| path.matmul(&x, &packed, &mut alone));
            assert_eq!(bits(&together), bits(&alone), "{} {ty:?}: one thread", path.name());
            for (from, count) in [(0, 1), (1, 2), (3, 3), (7, 4), (11, 13), (149, 1)] {
                let mut part = vec![0f32; count * rows];
                path.matmul(&x[from * cols..][..count * cols], &packed, &mut part);
                let expected = &together[from * rows..][..count * rows];
                assert_eq!(bits(&part), bits(expected), "{} {ty:?}: rows {from}+{count}", path.name());
            }
        }
    }
}

#[test]
fn the_candle_op_checks_and_multiplies() {
    let mut rng = Rng(25);
    let data = weights(WeightType::Q8_0, 20, 64, &mut rng);
    let packed = Arc::new(PackedMatrix::pack(WeightType::Q8_0, 20, 64, &data).expect("packed"));
    let values = rng.values(3 * 64);
    let x = Tensor::from_slice(&values, (3, 64), &Device::Cpu).expect("tensor");
    let out = kernels::matmul(&x, &packed).expect("product");
    assert_eq!(out.dims(), [3, 20]);
    let mut direct = vec![0f32; 60];
    cpu::path().matmul(&values, &packed, &mut direct);
    assert_eq!(out.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("values"), direct);
    // A transposed view is made contiguous first.
    let view = x.t().and_then(|t| t.contiguous()).and_then(|t| t.t()).expect("view");
    let again = kernels::matmul(&view, &packed).expect("product");
    assert_eq!(again.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("values"), direct);
    let wrong = Tensor::zeros((3, 32), candle_core::DType::F32, &Device::Cpu).expect("tensor");
    let error = kernels::matmul(&wrong, &packed).expect_err("32 columns").to_string();
    assert!(error.contains("rows of 32 with a matrix of 64 columns"), "{error}");
    let wrong = Tensor::zeros((3, 64), candle_core::DType::F16, &Device::Cpu).expect("tensor");
    assert!(kernels::matmul(&wrong, &packed).is_err());
    let empty = Tensor::zeros((0, 64), candle_core::DType::F32, &Device::Cpu).expect("tensor");
    assert_eq!(kernels::matmul(&empty, &packed).expect("nothing").dims(), [0, 20]);
}

/// Stacked parts with norm, gate and residual, step by step with the separate ops.
fn separately(path: &cpu::Path, x: &[f32], parts: &[&PackedMatrix], fused: &cpu::Fused<'_>) -> Vec<f32> {
    let k = parts[0].cols();
    let mut normed = x.to_vec();
    if let Some((weight, eps)) = fused.norm {
        path.rms_norm(x, weight, eps, &mut normed);
    }
    let outputs: Vec<(usize, Vec<f32>)> = parts
        .iter()
        .map(|w| {
            let mut out = vec![f32::NAN; x.len() / k * w.rows()];
            path.matmul(&normed, w, &mut out);
            (w.rows(), out)
        })
        .collect();
    let mut stacked = Vec::new();
    for row in 0..x.len() / k {
        outputs.iter().for_each(|(rows, out)| stacked.extend_from_slice(&out[row * rows..][..*rows]));
    }
    let width: usize = parts.iter().map(|w| w.rows()).sum();
    if fused.gated {
        let mut out = vec![f32::NAN; stacked.len() / 2];
        path.silu_mul(&stacked, width / 2, &mut out);
        stacked = out;
    }
    if let Some(residual) = fused.residual {
        stacked.iter_mut().zip(residual).for_each(|(out, residual)| *out += residual);
    }
    stacked
}

#[test]
fn fused_ops_give_the_bits_of_the_separate_ones() {
    let mut rng = Rng(26);
    let quantised = [WeightType::Q4_1, WeightType::Q8_0, WeightType::Q6K];
    let sets: [(&[WeightType], &[usize]); 6] = [
        (&quantised, &[48, 16, 33]),
        (&[WeightType::Q4_1, WeightType::F16], &[24, 24]),
        (&[WeightType::Q4_1], &[64]),
        (&[WeightType::BF16], &[96]),
        (&[WeightType::Q4_0], &[48]),
        (&[WeightType::Q8_0], &[23]),
    ];
    for (types, rows) in sets {
        let k = 256;
        let pack = |(ty, rows): (&WeightType, &usize), rng: &mut Rng| {
            PackedMatrix::pack(*ty, *rows, k, &weights(*ty, *rows, k, rng)).expect("packed")
        };
        let parts: Vec<_> = types.iter().zip(rows).map(|part| pack(part, &mut rng)).collect();
        let parts: Vec<&PackedMatrix> = parts.iter().collect();
        let width: usize = rows.iter().sum();
        for m in [1, 3, 40, 133] {
            let (x, weight, residual) = (rng.values(m * k), rng.values(k), rng.values(m * width));
            for normed in [false, true] {
                let norm = normed.then_some((weight.as_slice(), 1e-5));
                let cases =
                    [(false, None), (false, Some(residual.as_slice())), (width.is_multiple_of(2), None)];
                for (gated, residual) in cases {
                    let fused = cpu::Fused { norm, gated, residual };
                    for path in cpu::paths() {
                        let expected = separately(path, &x, &parts, &fused);
                        let mut out = vec![f32::NAN; expected.len()];
                        path.matmul_fused(&x, &parts, &fused, &mut out);
                        let what = format!("{} {types:?} m {m} norm {normed} gated {gated}", path.name());
                        assert_eq!(bits(&out), bits(&expected), "{what}");
                    }
                }
            }
        }
    }
}
