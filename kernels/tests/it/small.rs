//! Norm, activation, rotation, look-ups.

use candle_core::{DType, Device, Tensor};
use kernels::{PackedMatrix, RopeTable, WeightType, cpu, reference};

use crate::support::{Rng, assert_close, bits, dequantized, weights};

#[test]
fn a_path_is_chosen() {
    assert_eq!(kernels::isa(), cpu::path().name());
    assert_eq!(cpu::paths()[0].name(), "portable");
}

#[test]
fn rms_norm_agrees_with_the_reference() {
    let mut rng = Rng(31);
    for (rows, k) in [(1, 1), (1, 8), (3, 13), (2, 576), (70, 1030)] {
        let (x, w) = (rng.values(rows * k), rng.values(k));
        let expected = reference::rms_norm(&x, &w, 1e-5);
        for path in cpu::paths() {
            let mut out = vec![f32::NAN; x.len()];
            path.rms_norm(&x, &w, 1e-5, &mut out);
            assert_close(&out, &expected, |i| 2e-6 * expected[i].abs() + 1e-9, path.name());
            let mut last = vec![f32::NAN; k];
            path.rms_norm(&x[(rows - 1) * k..], &w, 1e-5, &mut last);
            assert_eq!(bits(&last), bits(&out[(rows - 1) * k..]), "{}: a row alone", path.name());
        }
    }
}

#[test]
fn silu_mul_agrees_with_the_reference() {
    let mut rng = Rng(32);
    for (rows, f) in [(1, 1), (2, 8), (3, 21), (1, 1536), (60, 1537)] {
        let mut x = rng.values(rows * 2 * f);
        for (i, value) in x.iter_mut().enumerate() {
            *value *= [1.0, 10.0, 100.0, 1e-3][i % 4];
        }
        let expected = reference::silu_mul(&x, f);
        for path in cpu::paths() {
            let mut out = vec![f32::NAN; rows * f];
            path.silu_mul(&x, f, &mut out);
            assert_close(&out, &expected, |i| 2e-6 * expected[i].abs() + 1e-30, path.name());
        }
    }
}

#[test]
fn the_candle_ops_match_the_paths() {
    let mut rng = Rng(33);
    let (x, w) = (rng.values(6 * 48), rng.values(48));
    let tensor = Tensor::from_slice(&x, (6, 48), &Device::Cpu).expect("tensor");
    let weight = Tensor::from_slice(&w, 48, &Device::Cpu).expect("tensor");
    let mut expected = vec![0f32; x.len()];
    cpu::path().rms_norm(&x, &w, 1e-6, &mut expected);
    let out = kernels::rms_norm(&tensor, &weight, 1e-6).and_then(|t| t.flatten_all()?.to_vec1::<f32>());
    assert_eq!(out.expect("values"), expected);
    let mut expected = vec![0f32; x.len() / 2];
    cpu::path().silu_mul(&x, 24, &mut expected);
    let out = kernels::silu_mul(&tensor).expect("values");
    assert_eq!(out.dims(), [6, 24]);
    assert_eq!(out.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("values"), expected);
    // A view that starts inside the storage.
    let tail = tensor.narrow(0, 4, 2).and_then(|t| kernels::silu_mul(&t)).expect("values");
    assert_eq!(tail.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("values"), expected[4 * 24..]);
    assert!(kernels::rms_norm(&tensor, &weight.narrow(0, 0, 40).expect("view"), 1e-6).is_err());
    assert!(kernels::silu_mul(&tensor.narrow(1, 0, 47).expect("view")).is_err());
    assert!(kernels::silu_mul(&tensor.to_dtype(DType::F64).expect("f64")).is_err());
}

#[test]
fn rotation_follows_the_definition() {
    let mut rng = Rng(34);
    for interleaved in [true, false] {
        for (rotary, width) in [(64, 64), (32, 64), (8, 8)] {
            let rope = RopeTable::new(rotary, 3000, 10000.0, None, interleaved);
            for position in [0, 1, 17, 2999] {
                let mut head = rng.values(width);
                let mut expected: Vec<f64> = head.iter().map(|v| f64::from(*v)).collect();
                reference::rotate(&mut expected, position, 10000.0, rotary, interleaved);
                rope.rotate(position, &mut head);
                assert_close(&head, &expected, |_| 1e-6, "rotation");
            }
        }
    }
}

#[test]
fn frequency_factors_stretch_positions() {
    let factors = [1.0, 4.0];
    let stretched = RopeTable::new(4, 100, 100.0, Some(&factors), false);
    let plain = RopeTable::new(4, 100, 100.0, None, false);
    let (mut a, mut b) = ([1.0f32, 2.0, 3.0, 4.0], [1.0f32, 2.0, 3.0, 4.0]);
    stretched.rotate(80, &mut a);
    plain.rotate(80, &mut b);
    assert_eq!((a[0], a[2]), (b[0], b[2]));
    let mut slow = [1.0f32, 2.0, 3.0, 4.0];
    plain.rotate(20, &mut slow);
    assert!((a[1] - slow[1]).abs() < 1e-6 && (a[3] - slow[3]).abs() < 1e-6);
}

#[test]
fn rows_are_looked_up() {
    let mut rng = Rng(35);
    let data = weights(WeightType::Q8_0, 40, 64, &mut rng);
    let table = PackedMatrix::pack(WeightType::Q8_0, 40, 64, &data).expect("packed");
    let plain = dequantized(WeightType::Q8_0, &data);
    let out =
        kernels::embed(&[39, 0, 39], &table, &Device::Cpu).and_then(|t| t.to_vec2::<f32>()).expect("rows");
    assert_eq!(out[0], plain[39 * 64..]);
    assert_eq!(out[1], plain[..64]);
    assert_eq!(out[2], out[0]);
    let error = kernels::embed(&[40], &table, &Device::Cpu).expect_err("40 rows").to_string();
    assert!(error.contains("id 40 is beyond the table's 40 rows"), "{error}");
}

#[test]
fn rows_are_selected() {
    let x = Tensor::arange(0f32, 12.0, &Device::Cpu).and_then(|t| t.reshape((4, 3))).expect("tensor");
    let rows = kernels::select_rows(&x, &[3, 1]).and_then(|t| t.to_vec2::<f32>()).expect("rows");
    assert_eq!(rows, [[9.0, 10.0, 11.0], [3.0, 4.0, 5.0]]);
    let all = kernels::select_rows(&x, &[0, 1, 2, 3]).and_then(|t| t.to_vec2::<f32>()).expect("rows");
    assert_eq!(all[2], [6.0, 7.0, 8.0]);
    assert!(kernels::select_rows(&x, &[4]).is_err());
}
