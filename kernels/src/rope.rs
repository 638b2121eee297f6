//! Rotary position embedding: a table of cosines and sines, and the rotation of one head.

/// Rotary table for positions `0..max_positions`.
///
/// Pairs are `(2i, 2i+1)` when interleaved (as GGUF Llama files store q and k), else `(i, i + rotary_dim/2)` (NeoX).
#[derive(Debug)]
pub struct RopeTable {
    rotary_dim: usize,
    max_positions: usize,
    interleaved: bool,
    /// `[max_positions, rotary_dim]`: the cosines of a position, then its sines.
    table: Vec<f32>,
}

impl RopeTable {
    /// Fills the table. `freq_factors` (length `rotary_dim/2`) divide each pair's frequency, as Llama 3 files ask for;
    /// missing factors count as 1. An odd `rotary_dim` is rounded down.
    pub fn new(
        rotary_dim: usize,
        max_positions: usize,
        theta: f32,
        freq_factors: Option<&[f32]>,
        interleaved: bool,
    ) -> Self {
        let half = rotary_dim / 2;
        let frequencies: Vec<f64> = (0..half)
            .map(|i| {
                let factor = freq_factors.and_then(|f| f.get(i)).copied().unwrap_or(1.0);
                f64::from(theta).powf(-((2 * i) as f64) / (2 * half) as f64) / f64::from(factor)
            })
            .collect();
        let mut table = Vec::with_capacity(max_positions * half * 2);
        for position in 0..max_positions {
            table.extend(frequencies.iter().map(|f| (f * position as f64).cos() as f32));
            table.extend(frequencies.iter().map(|f| (f * position as f64).sin() as f32));
        }
        Self { rotary_dim: half * 2, max_positions, interleaved, table }
    }

    /// Number of leading values of a head that are rotated.
    pub fn rotary_dim(&self) -> usize {
        self.rotary_dim
    }

    /// First position that the table does not have.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// `[max_positions, rotary_dim]`: the cosines of a position, then its sines.
    pub(crate) fn values(&self) -> &[f32] {
        &self.table
    }

    /// Whether pairs are neighbours.
    pub(crate) fn is_interleaved(&self) -> bool {
        self.interleaved
    }

    /// Rotates the leading `rotary_dim` values of one head in place.
    ///
    /// # Panics
    /// If `position` is not below [`Self::max_positions`] or the head is shorter than `rotary_dim`.
    pub fn rotate(&self, position: usize, head: &mut [f32]) {
        self.rotate_with(rotate_pairs, position, head);
    }

    /// The same with `pairs` in place of [`rotate_pairs`].
    pub(crate) fn rotate_with(
        &self,
        pairs: impl Fn(&mut [f32], &[f32], &[f32]),
        position: usize,
        head: &mut [f32],
    ) {
        let half = self.rotary_dim / 2;
        let row = &self.table[position * self.rotary_dim..][..self.rotary_dim];
        let (cos, sin) = row.split_at(half);
        let head = &mut head[..self.rotary_dim];
        if self.interleaved {
            pairs(head, cos, sin);
        } else {
            let (low, high) = head.split_at_mut(half);
            for (((x, y), &c), &s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                let (a, b) = (*x, *y);
                *x = a * c - b * s;
                *y = a * s + b * c;
            }
        }
    }
}

/// Rotates the pairs `(2i, 2i + 1)` of `head`.
pub(crate) fn rotate_pairs(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((pair, &c), &s) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
        let (a, b) = (pair[0], pair[1]);
        pair[0] = a * c - b * s;
        pair[1] = a * s + b * c;
    }
}
