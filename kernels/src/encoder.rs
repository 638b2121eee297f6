//! Ops of bidirectional encoders (BERT and its like), as candle ops. They run on the CPU.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use crate::cpu::{self, AddNorm};

/// Attention of every token to every token of its own sequence, without a cache.
///
/// `qkv` is `[t, 3 * width]` f32 (queries, keys, values) and `bias` `[3 * width]` is added to it; sequence `i` has the rows
/// `starts[i]..starts[i + 1]`. Returns `[t, width]`.
///
/// # Errors
/// If the shapes contradict each other, or a head is not a multiple of 8 wide.
pub fn attend_all(qkv: &Tensor, bias: &Tensor, starts: &Arc<[u32]>, heads: usize) -> Result<Tensor> {
    let ((t, columns), n) = (qkv.dims2()?, bias.dims1()?);
    if columns != n || heads == 0 || !n.is_multiple_of(3 * heads * 8) {
        bail!("attend_all: rows of {columns} with a bias of {n} and {heads} heads");
    }
    if starts.first() != Some(&0) || starts.last().map(|end| *end as usize) != Some(t) || !starts.is_sorted()
    {
        bail!("attend_all: sequence offsets {starts:?} over {t} tokens");
    }
    let op = AttendAll { starts: Arc::clone(starts), heads };
    qkv.contiguous()?.apply_op2_no_bwd(&bias.contiguous()?, &op)
}

struct AttendAll {
    starts: Arc<[u32]>,
    heads: usize,
}

impl CustomOp2 for AttendAll {
    fn name(&self) -> &'static str {
        "attend-all"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (t, columns) = layout.shape().dims2()?;
        let (qkv, bias) = (cpu::slice_of::<f32>(qkv, layout)?, cpu::slice_of::<f32>(bias, bias_layout)?);
        let mut out = vec![0f32; t * columns / 3];
        cpu::path().attend_all(qkv, bias, &self.starts, self.heads, &mut out);
        Ok((CpuStorage::F32(out), Shape::from((t, columns / 3))))
    }
}

/// Layer normalisation of `x + residual + bias`, all `[t, k]` but the bias. `parameters` is `[3, k]`: bias, scale, shift.
///
/// # Errors
/// If shapes or types do not match.
pub fn add_norm(x: &Tensor, residual: &Tensor, parameters: &Tensor, eps: f32) -> Result<Tensor> {
    let (_, k) = x.dims2()?;
    if residual.dims() != x.dims() || parameters.dims() != [3, k] || k == 0 {
        bail!("add_norm: {:?} and {:?} with {:?}", x.dims(), residual.dims(), parameters.dims());
    }
    x.contiguous()?.apply_op3_no_bwd(&residual.contiguous()?, &parameters.contiguous()?, &Norm { eps })
}

struct Norm {
    eps: f32,
}

impl CustomOp3 for Norm {
    fn name(&self) -> &'static str {
        "add-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
        parameters: &CpuStorage,
        parameters_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = cpu::slice_of::<f32>(x, layout)?;
        let residual = cpu::slice_of::<f32>(residual, residual_layout)?;
        let parameters = cpu::slice_of::<f32>(parameters, parameters_layout)?;
        let (_, k) = layout.shape().dims2()?;
        let (bias, rest) = parameters.split_at(k);
        let (weight, shift) = rest.split_at(k);
        let mut out = vec![0f32; x.len()];
        cpu::path().add_norm(x, residual, AddNorm { bias, weight, shift, eps: self.eps }, &mut out);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// `gelu(x + bias)` in its exact form; `x` is `[t, k]`, `bias` `[k]`.
///
/// # Errors
/// If shapes or types do not match.
pub fn bias_gelu(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let ((_, k), n) = (x.dims2()?, bias.dims1()?);
    if k != n || k == 0 {
        bail!("bias_gelu: rows of {k} with a bias of {n}");
    }
    x.contiguous()?.apply_op2_no_bwd(&bias.contiguous()?, &BiasGelu)
}

struct BiasGelu;

impl CustomOp2 for BiasGelu {
    fn name(&self) -> &'static str {
        "bias-gelu"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let mut out = cpu::slice_of::<f32>(x, layout)?.to_vec();
        cpu::path().bias_gelu(&mut out, cpu::slice_of::<f32>(bias, bias_layout)?);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}
