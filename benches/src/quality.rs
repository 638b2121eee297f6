//! What speed costs in quality: perplexity of a fixed text by the kernels, and by plain floats from the same file.
#![forbid(unsafe_code)]

#[path = "quality/float.rs"]
mod float;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use kernels::AttentionMeta;
use models::{Batch, Card};
use rayon::prelude::*;

use float::Network;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Novel, science, technical prose, a dialogue and code.
const TEXT: &str = include_str!("quality/text.txt");
const BLOCK: usize = 32;

/// Compares the kernels with plain floats on the same model file.
#[derive(Parser)]
struct Args {
    /// The model file.
    model: PathBuf,
    /// A text of your own.
    #[arg(long)]
    text: Option<PathBuf>,
    /// Tokens that see each other; a longer text is cut.
    #[arg(long, default_value_t = 512)]
    window: usize,
    /// Instruction set, as `step` prints it; the fastest by default.
    #[arg(long)]
    isa: Option<String>,
}

/// Sums over positions.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    positions: usize,
    /// Negative log likelihood of the text by plain floats, and by the kernels.
    nll: [f64; 2],
    /// Positions where both like the same token best.
    agreements: usize,
    /// Kullback-Leibler divergence of the kernels' distribution from that of plain floats.
    divergence: f64,
}

impl Sums {
    fn plus(self, other: Self) -> Self {
        Self {
            positions: self.positions + other.positions,
            nll: [self.nll[0] + other.nll[0], self.nll[1] + other.nll[1]],
            agreements: self.agreements + other.agreements,
            divergence: self.divergence + other.divergence,
        }
    }

    fn perplexities(&self) -> [f64; 2] {
        self.nll.map(|nll| (nll / self.positions as f64).exp())
    }
}

/// Log probabilities of a row of logits.
fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().fold(f32::NEG_INFINITY, |max, x| max.max(*x));
    let total: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
    logits.iter().map(|x| f64::from(x - max) - total.ln()).collect()
}

fn best(values: &[f64]) -> Option<usize> {
    values.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(index, _)| index)
}

/// One position: `next` is the token that follows.
fn compare(reference: &[f32], ours: &[f32], next: u32) -> Sums {
    let rows = [reference, ours].map(log_probabilities);
    Sums {
        positions: 1,
        nll: [-rows[0][next as usize], -rows[1][next as usize]],
        agreements: usize::from(best(&rows[0]) == best(&rows[1])),
        divergence: rows[0].iter().zip(&rows[1]).map(|(p, q)| p.exp() * (p - q)).sum(),
    }
}

fn whole(tokens: &[u32]) -> Batch {
    let len = tokens.len() as u32;
    let meta = AttentionMeta {
        positions: (0..len).collect(),
        slot_mapping: (0..len).collect(),
        query_start: vec![0, len],
        context_len: vec![len],
        block_table: (0..len.div_ceil(BLOCK as u32)).collect(),
        table_stride: tokens.len().div_ceil(BLOCK),
    };
    Batch { token_ids: tokens.to_vec(), attention: Arc::new(meta), logits_at: (0..len).collect() }
}

/// Compares on at most `limit` tokens of `text`, in windows.
fn measure(path: &Path, text: &str, window: usize, limit: usize) -> Fallible<Sums> {
    let loaded = models::load(path, Card::from_file(path)?, &|_| ())?;
    let (model, network) = (loaded.model, Network::open(path)?);
    let cache = model.new_cache(window.div_ceil(BLOCK), BLOCK)?;
    let mut tokens = loaded.tokenizer.encode_text(text)?;
    tokens.truncate(limit);
    let (vocab, mut sums) = (model.config().vocab, Sums::default());
    for tokens in tokens.chunks(window) {
        let reference = network.logits(tokens)?;
        let ours = model.forward(&whole(tokens), &cache)?.flatten_all()?.to_vec1::<f32>()?;
        let rows = reference.par_chunks_exact(vocab).zip(ours.par_chunks_exact(vocab)).zip(&tokens[1..]);
        let window = rows.map(|((reference, ours), next)| compare(reference, ours, *next));
        sums = sums.plus(window.reduce(Sums::default, Sums::plus));
    }
    Ok(sums)
}

fn main() -> Fallible<()> {
    let args = Args::parse();
    if let Some(isa) = args.isa.as_deref().filter(|isa| !kernels::cpu::choose(isa)) {
        return Err(format!("this machine has no instruction set {isa:?}").into());
    }
    if args.window < 2 {
        return Err("a window has 2 tokens at least".into());
    }
    let text = args.text.map(std::fs::read_to_string).transpose()?;
    let sums = measure(&args.model, text.as_deref().unwrap_or(TEXT), args.window, usize::MAX)?;
    let ([reference, ours], positions) = (sums.perplexities(), sums.positions as f64);
    println!(
        "| kernels | positions | perplexity, floats | kernels | ratio | same first choice | mean KL, nats |"
    );
    println!("|---|---|---|---|---|---|---|");
    println!(
        "| {}, keys and values f16 | {} | {reference:.3} | {ours:.3} | {:.4} | {:.1} % | {:.5} |",
        kernels::isa(),
        sums.positions,
        ours / reference,
        100.0 * sums.agreements as f64 / positions,
        sums.divergence / positions
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{TEXT, compare, measure};

    #[test]
    fn the_kernels_are_within_one_per_cent_of_plain_floats() {
        let sums = measure(&models::fetch::ensure_test_model(), TEXT, 160, 320).expect("both networks run");
        let [reference, ours] = sums.perplexities();
        assert_eq!(sums.positions, 318);
        // A model that understands nothing would agree with itself too.
        assert!(reference < 60.0, "the text's perplexity is {reference}");
        assert!((ours / reference - 1.0).abs() < 0.01, "{ours} against {reference}");
        assert!(sums.agreements > 300, "{sums:?}");
        assert!(sums.divergence / 318.0 < 0.01, "{sums:?}");
    }

    #[test]
    fn a_difference_shows() {
        let same = compare(&[1.0, 0.0], &[1.0, 0.0], 0);
        assert_eq!((same.agreements, same.divergence), (1, 0.0));
        assert!((same.nll[0] - (1.0 + (-1f64).exp()).ln()).abs() < 1e-7);
        let other = compare(&[1.0, 0.0], &[0.0, 1.0], 0);
        assert!(other.agreements == 0 && other.divergence > 0.4 && other.nll[1] > other.nll[0] + 0.9);
    }
}
