//! `x W^T` for few rows and for many.

use half::bf16;
use kernels::WeightType;
use kernels::cuda::linear::{DeviceMatrix, Product, matmul};
use kernels::reference;

use super::{device, rng, values, widen};
use crate::support::{Rng, assert_close, dequantized, weights};

/// Sums of f32 over `k` products, each at most 1: rounding of every addition.
fn bound(k: usize) -> f64 {
    k as f64 * 1e-6
}

fn check(matrix: &DeviceMatrix, plain: &[f32], m: usize, rng: &mut Rng, what: &str) {
    let device = device();
    let (n, k) = (matrix.rows(), matrix.cols());
    let x = values(rng, m * k, 1.0);
    let expected = reference::matmul(&widen(&x), plain, k);
    let x = device.upload(&x).expect("x");
    let y = device.zeros::<f32>(m * n).expect("y");
    matmul(&x, m, matrix, &Product::F32(&y)).expect("matmul");
    // 4-bit products carry a sum of up to 128 |x| that cancels.
    let slack = bound(k) + expected.iter().fold(0.0, |a: f64, b| a.max(b.abs())) * 1e-4;
    assert_close(&y.to_vec().expect("y"), &expected, |_| slack, what);
    let rounded = device.zeros::<bf16>(m * n).expect("y");
    matmul(&x, m, matrix, &Product::Bf16(&rounded)).expect("matmul");
    let rounded = widen(&rounded.to_vec().expect("y"));
    assert_close(&rounded, &expected, |i| slack + expected[i].abs() / 256.0, &format!("{what}, rounded"));
}

#[test]
fn bf16_weights() {
    let (device, mut rng) = (device(), rng(211));
    for (m, n, k) in
        [(1, 16, 32), (1, 50, 576), (3, 34, 288), (8, 130, 96), (9, 130, 64), (70, 256, 160), (130, 22, 32)]
    {
        let weight = values(&mut rng, n * k, 1.0);
        let matrix = DeviceMatrix::bf16(&device, n, k, &weight).expect("matrix");
        check(&matrix, &widen(&weight), m, &mut rng, &format!("{m} x {n} x {k}"));
    }
}

#[test]
fn four_bit_weights() {
    let (device, mut rng) = (device(), rng(212));
    for ty in [WeightType::Q4_0, WeightType::Q4_1] {
        for (m, n, k) in [(1, 16, 128), (2, 50, 640), (8, 24, 256), (11, 10, 1152)] {
            let bytes = weights(ty, n, k, &mut rng);
            let matrix = DeviceMatrix::u4(&device, ty, n, k, &bytes).expect("matrix");
            check(&matrix, &dequantized(ty, &bytes), m, &mut rng, &format!("{ty:?} {m} x {n} x {k}"));
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let (device, mut rng) = (device(), rng(213));
    let (n, k) = (48, 256);
    let weight = values(&mut rng, n * k, 1.0);
    let matrix = DeviceMatrix::bf16(&device, n, k, &weight).expect("matrix");
    let x = values(&mut rng, 8 * k, 1.0);
    let run = |x: &[bf16]| {
        let m = x.len() / k;
        let y = device.zeros::<f32>(m * n).expect("y");
        matmul(&device.upload(x).expect("x"), m, &matrix, &Product::F32(&y)).expect("matmul");
        y.to_vec().expect("y")
    };
    let all = run(&x);
    for row in 0..8 {
        assert_eq!(run(&x[row * k..][..k]), all[row * n..][..n], "row {row}");
    }
}

#[test]
fn shapes_without_a_kernel_are_refused() {
    let device = device();
    let zeros = |len| vec![bf16::ZERO; len];
    assert!(DeviceMatrix::bf16(&device, 3, 32, &zeros(96)).is_err());
    assert!(DeviceMatrix::bf16(&device, 4, 40, &zeros(160)).is_err());
    assert!(DeviceMatrix::bf16(&device, 4, 32, &zeros(127)).is_err());
    assert!(DeviceMatrix::u4(&device, WeightType::Q4_1, 2, 32, &[0; 40]).is_err());
    assert!(DeviceMatrix::u4(&device, WeightType::Q8_0, 2, 128, &[0; 272]).is_err());
}
