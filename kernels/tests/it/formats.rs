//! The file formats: hand-made blocks, candle's reading of the same bytes, and the packed form.

use std::borrow::Cow;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device};
use half::f16;
use kernels::{PackError, PackedMatrix, WeightType};

use crate::support::{Rng, TYPES, bits, dequantized, weights};

fn half_bytes(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

#[test]
fn sizes_of_rows() {
    assert_eq!(WeightType::Q4_1.row_bytes(576), Some(360));
    assert_eq!(WeightType::Q4K.row_bytes(512), Some(288));
    assert_eq!(WeightType::Q4K.row_bytes(576), None);
    assert_eq!(WeightType::F32.row_bytes(usize::MAX), None);
}

#[test]
fn float_formats() {
    assert_eq!(dequantized(WeightType::F32, &1.25f32.to_le_bytes()), [1.25]);
    assert_eq!(dequantized(WeightType::F16, &[0x00, 0xc0]), [-2.0]);
    assert_eq!(dequantized(WeightType::BF16, &[0x40, 0x40]), [3.0]);
}

#[test]
fn q4_0_has_a_fixed_offset() {
    let mut block = half_bytes(0.5).to_vec();
    block.extend((0..16).map(|i| i | ((15 - i) << 4)));
    let out = dequantized(WeightType::Q4_0, &block);
    assert_eq!((out[0], out[15], out[16], out[31]), (-4.0, 3.5, 3.5, -4.0));
}

#[test]
fn q4_1_has_a_minimum() {
    let mut block = [half_bytes(0.5), half_bytes(-3.0)].concat();
    block.extend((0..16).map(|i| i | ((15 - i) << 4)));
    let out = dequantized(WeightType::Q4_1, &block);
    assert_eq!((out[0], out[15], out[16], out[31]), (-3.0, 4.5, 4.5, -3.0));
}

#[test]
fn q8_0_is_signed() {
    let mut block = half_bytes(2.0).to_vec();
    block.extend((0..32).map(|i| (i as i8 - 16) as u8));
    let out = dequantized(WeightType::Q8_0, &block);
    assert_eq!((out[0], out[16], out[31]), (-32.0, 0.0, 30.0));
}

#[test]
fn q4k_scales_have_six_bits() {
    let mut block = [half_bytes(1.0), half_bytes(0.5)].concat();
    let mut scales = [0u8; 12];
    // Sub-block 0: scale 33, minimum 2. Sub-block 5: scale 0b11_0101, minimum 0b10_0011.
    scales[0] = 33;
    scales[4] = 2;
    scales[9] = 0b0011_0101;
    scales[1] |= 0b1100_0000;
    scales[5] |= 0b1000_0000;
    block.extend(scales);
    block.extend([0x21u8; 128]);
    let out = dequantized(WeightType::Q4K, &block);
    assert_eq!(out[0], 33.0 - 1.0);
    assert_eq!(out[5 * 32], 2.0 * 53.0 - 17.5);
}

#[test]
fn q6k_joins_low_and_high_bits() {
    let mut block = vec![0u8; 210];
    block[0] = 0xf0 | 0x05; // weight 0: low 5; weight 64: low 15
    block[128] = 0b11_10_01_10; // high parts: weight 0: 2, 32: 1, 64: 2, 96: 3
    block[192..208].fill(1);
    block[192 + 4] = -2i8 as u8; // weights 64..80
    block[208..].copy_from_slice(&half_bytes(0.5));
    let out = dequantized(WeightType::Q6K, &block);
    assert_eq!(out[0], 0.5 * (37.0 - 32.0));
    assert_eq!(out[32], 0.5 * (16.0 - 32.0));
    assert_eq!(out[64], 0.5 * -2.0 * (47.0 - 32.0));
    assert_eq!(out[96], 0.5 * (48.0 - 32.0));
}

#[test]
fn agrees_with_candle() {
    let pairs = [
        (WeightType::Q4_0, GgmlDType::Q4_0),
        (WeightType::Q4_1, GgmlDType::Q4_1),
        (WeightType::Q8_0, GgmlDType::Q8_0),
        (WeightType::Q4K, GgmlDType::Q4K),
        (WeightType::Q6K, GgmlDType::Q6K),
    ];
    let mut rng = Rng(11);
    for (ty, theirs) in pairs {
        let data = weights(ty, 3, 512, &mut rng);
        let storage = QStorage::from_data(Cow::Borrowed(&data), &Device::Cpu, theirs).expect("storage");
        let tensor =
            QTensor::new(storage, (3, 512)).expect("tensor").dequantize(&Device::Cpu).expect("values");
        let theirs: Vec<f32> =
            tensor.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1()).expect("f32");
        for (i, (a, b)) in dequantized(ty, &data).iter().zip(&theirs).enumerate() {
            assert!((a - b).abs() <= 1e-6 * (1.0 + b.abs()), "{ty:?}: weight {i} is {a}, candle has {b}");
        }
    }
}

#[test]
fn packing_keeps_every_weight() {
    let mut rng = Rng(12);
    for ty in TYPES {
        for rows in [1, 15, 16, 37] {
            let cols = ty.block_len() * 3;
            let data = weights(ty, rows, cols, &mut rng);
            let packed = PackedMatrix::pack(ty, rows, cols, &data).expect("packed");
            assert_eq!((packed.rows(), packed.cols()), (rows, cols));
            let plain = dequantized(ty, &data);
            let mut out = vec![0f32; cols];
            for row in 0..rows {
                packed.dequantize_row(row, &mut out);
                for (a, b) in out.iter().zip(&plain[row * cols..]) {
                    assert!((a - b).abs() <= 1e-6 * (1.0 + b.abs()), "{ty:?} row {row}: {a}, file has {b}");
                }
                if !matches!(ty, WeightType::Q4_0) {
                    assert_eq!(bits(&out), bits(&plain[row * cols..][..cols]), "{ty:?} row {row}");
                }
            }
        }
    }
}

#[test]
fn q4_0_scales_beyond_half_precision_survive() {
    let mut block = half_bytes(30000.0).to_vec();
    block.extend([0x9f; 16]);
    let packed = PackedMatrix::pack(WeightType::Q4_0, 1, 32, &block).expect("packed");
    let mut out = vec![0f32; 32];
    packed.dequantize_row(0, &mut out);
    assert_eq!((out[0], out[16]), (30000.0 * 7.0, 30000.0));
}

#[test]
fn wrong_shapes_are_named() {
    let pack = |rows, cols, len: usize| PackedMatrix::pack(WeightType::Q4_1, rows, cols, &vec![0; len]).err();
    assert_eq!(pack(0, 32, 0), Some(PackError::Empty { rows: 0, cols: 32 }));
    assert_eq!(
        pack(1, 33, 20).map(|e| e.to_string()).as_deref(),
        Some("33 columns are not a multiple of the block length 32 of Q4_1")
    );
    assert_eq!(
        pack(2, 64, 79).map(|e| e.to_string()).as_deref(),
        Some("2 x 64 weights need 80 bytes, got 79")
    );
}
