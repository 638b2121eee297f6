//! Ops of bidirectional encoders.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use kernels::cpu::{self, AddNorm};
use kernels::reference::encoder as reference;

use crate::support::{Rng, assert_close, bits};

#[test]
fn attention_agrees_with_the_reference() {
    let mut rng = Rng(71);
    let lengths: &[&[u32]] = &[&[1], &[3, 0, 17], &[64], &[65, 1, 130], &[257]];
    for lengths in lengths {
        for (heads, head_dim) in [(1, 8), (3, 32), (2, 64)] {
            let mut starts = vec![0];
            lengths.iter().for_each(|length| starts.push(starts[starts.len() - 1] + length));
            let (t, width) = (starts[lengths.len()] as usize, heads * head_dim);
            let mut qkv = rng.values(t * 3 * width);
            // Sharp and flat distributions.
            qkv.iter_mut().enumerate().for_each(|(i, value)| *value *= [1.0, 4.0][i / 7 % 2]);
            let bias = rng.values(3 * width);
            let expected = reference::attend_all(&qkv, &bias, &starts, heads);
            for path in cpu::paths() {
                let mut out = vec![f32::NAN; t * width];
                path.attend_all(&qkv, &bias, &starts, heads, &mut out);
                assert_close(&out, &expected, |_| 2e-5, path.name());
                let last = starts[lengths.len() - 1] as usize;
                let mut alone = vec![f32::NAN; (t - last) * width];
                let own = [0, (t - last) as u32];
                path.attend_all(&qkv[last * 3 * width..], &bias, &own, heads, &mut alone);
                assert_eq!(bits(&alone), bits(&out[last * width..]), "{}: a sequence alone", path.name());
            }
        }
    }
}

#[test]
fn layer_norm_agrees_with_the_reference() {
    let mut rng = Rng(72);
    for (rows, k) in [(1, 1), (2, 8), (3, 13), (90, 384)] {
        let (x, residual) = (rng.values(rows * k), rng.values(rows * k));
        let (bias, weight, shift) = (rng.values(k), rng.values(k), rng.values(k));
        let norm = AddNorm { bias: &bias, weight: &weight, shift: &shift, eps: 1e-12 };
        let expected = reference::add_norm(&x, &residual, norm);
        for path in cpu::paths() {
            let mut out = vec![f32::NAN; x.len()];
            path.add_norm(&x, &residual, norm, &mut out);
            assert_close(&out, &expected, |_| 5e-6, path.name());
        }
    }
}

#[test]
fn gelu_agrees_with_the_reference() {
    let mut rng = Rng(73);
    for (rows, k) in [(1, 1), (3, 21), (40, 1536)] {
        let mut x = rng.values(rows * k);
        x.iter_mut().enumerate().for_each(|(i, value)| *value *= [1.0, 6.0, 40.0, 1e-3, 1e9][i % 5]);
        let bias = rng.values(k);
        let expected = reference::bias_gelu(&x, &bias);
        for path in cpu::paths() {
            let mut out = x.clone();
            path.bias_gelu(&mut out, &bias);
            let bound = |i: usize| 2e-7 * f64::from(x[i]).abs().max(expected[i].abs()) + 3e-7;
            assert_close(&out, &expected, bound, path.name());
        }
    }
}

#[test]
fn the_candle_ops_match_the_paths_and_refuse_other_shapes() {
    let mut rng = Rng(74);
    let (t, width, heads) = (7, 16, 2);
    let tensor = |values: &[f32], rows: usize| {
        Tensor::from_slice(values, (rows, values.len() / rows), &Device::Cpu).expect("tensor")
    };
    let flat = |tensor: Tensor| tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("values");
    let (qkv, bias) = (rng.values(t * 3 * width), rng.values(3 * width));
    let (rows, shift) =
        (tensor(&qkv, t), Tensor::from_slice(&bias, 3 * width, &Device::Cpu).expect("tensor"));
    let starts: Arc<[u32]> = Arc::from([0, 3, 7]);
    let mut expected = vec![0f32; t * width];
    cpu::path().attend_all(&qkv, &bias, &starts, heads, &mut expected);
    assert_eq!(flat(kernels::attend_all(&rows, &shift, &starts, heads).expect("op")), expected);
    for wrong in [[0, 3, 8], [1, 3, 7], [0, 8, 7]] {
        assert!(kernels::attend_all(&rows, &shift, &Arc::from(wrong), heads).is_err(), "{wrong:?}");
    }
    assert!(kernels::attend_all(&rows, &shift, &starts, 3).is_err());
    let mut expected = qkv.clone();
    cpu::path().bias_gelu(&mut expected, &bias);
    assert_eq!(flat(kernels::bias_gelu(&rows, &shift).expect("op")), expected);
    let parameters = tensor(&rng.values(9 * width), 3);
    let mut expected = vec![0f32; qkv.len()];
    let values = flat(parameters.clone());
    let (bias, weight) = (&values[..3 * width], &values[3 * width..6 * width]);
    let norm = AddNorm { bias, weight, shift: &values[6 * width..], eps: 1e-5 };
    cpu::path().add_norm(&qkv, &qkv, norm, &mut expected);
    assert_eq!(flat(kernels::add_norm(&rows, &rows, &parameters, 1e-5).expect("op")), expected);
    assert!(kernels::add_norm(&rows, &rows, &rows, 1e-5).is_err());
    assert!(
        kernels::bias_gelu(&rows, &parameters.get(0).and_then(|p| p.narrow(0, 0, 8)).expect("view")).is_err()
    );
}
