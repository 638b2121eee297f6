//! Looking up rows: of a packed weight matrix, and of activations.

use candle_core::{Device, Result, Tensor, bail};

use crate::PackedMatrix;

/// The rows `ids` of `w` as f32 `[ids.len(), cols]`.
///
/// # Errors
/// If an id is not a row of `w`.
pub fn embed(ids: &[u32], w: &PackedMatrix, device: &Device) -> Result<Tensor> {
    let mut out = vec![0f32; ids.len() * w.cols()];
    for (&id, row) in ids.iter().zip(out.chunks_exact_mut(w.cols())) {
        if id as usize >= w.rows() {
            bail!("embed: id {id} is beyond the table's {} rows", w.rows());
        }
        w.dequantize_row(id as usize, row);
    }
    Tensor::from_vec(out, (ids.len(), w.cols()), device)
}

/// The rows `rows` of `x` `[t, k]`, in that order, as `[rows.len(), k]`.
///
/// # Errors
/// If `x` is not two-dimensional or a row is not below `t`.
pub fn select_rows(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let (t, _) = x.dims2()?;
    if let Some(row) = rows.iter().find(|row| **row as usize >= t) {
        bail!("select_rows: row {row} is beyond {t} rows");
    }
    if rows.len() == t && rows.iter().enumerate().all(|(i, row)| i == *row as usize) {
        return Ok(x.clone());
    }
    x.index_select(&Tensor::new(rows, x.device())?, 0)
}
