//! AVX2 with FMA and F16C.
//!
//! The functions of the table are safe to call because [`path`] hands it out only after detecting the three features.

mod attend;
mod math;
mod panel;

use half::f16;

use super::{Path, Rows, Softmax, Unit};
use crate::packed::{Kind, PANEL};

static PATH: Path = Path {
    name: "avx2",
    quantize: |x, norm, out| {
        // SAFETY: the table is only reachable where the features were detected.
        unsafe { math::quantize(x, norm, out) }
    },
    norm_scale: |x, eps| {
        // SAFETY: as above.
        unsafe { math::norm_scale(x, eps) }
    },
    panel: |kind: Kind, panel: &[u8], rows: Rows<'_>, out: &mut [[f32; PANEL]]| {
        // SAFETY: as above.
        unsafe { panel::panel(kind, panel, rows, out) }
    },
    rms_norm: |x, weight, eps, out| {
        // SAFETY: as above.
        unsafe { math::rms_norm(x, weight, eps, out) }
    },
    gate: |gate, up| {
        // SAFETY: as above.
        unsafe { math::gate(gate, up) }
    },
    rotate_pairs: |head, cos, sin| {
        // SAFETY: as above.
        unsafe { math::rotate_pairs(head, cos, sin) }
    },
    attend: |q, unit: Unit<'_>, states: &mut [Softmax], acc| {
        // SAFETY: as above.
        unsafe { attend::attend(q, unit, states, acc) }
    },
    widen: |from: &[f16], to| {
        // SAFETY: as above.
        unsafe { math::widen(from, to) }
    },
    narrow: |from, to: &mut [f16]| {
        // SAFETY: as above.
        unsafe { math::narrow(from, to) }
    },
    prefetch: math::prefetch,
};

/// The path, if this machine has the instructions.
pub(super) fn path() -> Option<&'static Path> {
    let found = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    found.then_some(&PATH)
}
