//! Launch of `sampling.cu`.

use super::device::{CudaError, Device, DeviceBuffer, Element, Launch, Params, ensure};

const THREADS: u32 = 512;
/// Bytes of `SampleShared`.
const SHARED_BYTES: usize = 256 * 8 + 256 * 4 + 3 * 8 + 2 * 4 + 32 * 4 + 32 * 8 + 8 + 8;
/// Token numbers have 20 bits.
const MAX_VOCAB: usize = 1 << 20;

/// How one row's token is chosen. The rules are those of the CPU sampler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleRow {
    /// Seed of the draws.
    pub seed: u64,
    /// Tokens drawn before.
    pub draw: u32,
    /// 1: take the likeliest.
    pub greedy: u32,
    /// 0 = all.
    pub top_k: u32,
    /// Above 0 unless greedy.
    pub temperature: f32,
    /// 1 = all.
    pub top_p: f32,
    /// 0 = all.
    pub min_p: f32,
    /// Penalty on tokens that were seen; 1 = none.
    pub repetition: f32,
    /// Penalty on tokens that were generated; 0 = none.
    pub presence: f32,
    /// Penalty for each time that a token was generated; 0 = none.
    pub frequency: f32,
}

/// The mirror of SampleRow in sampling.cu.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct DeviceRow {
    seed: u64,
    draw: u32,
    greedy: u32,
    top_k: u32,
    temperature: f32,
    top_p: f32,
    min_p: f32,
    repetition: f32,
    presence: f32,
    frequency: f32,
    adjustments_begin: u32,
    adjustments_end: u32,
    /// Likeliest tokens to report, + 1; 0 = no report.
    logprobs: u32,
}
// SAFETY: twelve 4-byte values after an 8-byte one: no padding, any bits are values.
unsafe impl Element for DeviceRow {}

impl Default for SampleRow {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl SampleRow {
    /// Nothing filtered, nothing penalised, temperature 1.
    pub const DEFAULT: Self = Self {
        seed: 0,
        draw: 0,
        greedy: 0,
        top_k: 0,
        temperature: 1.0,
        top_p: 1.0,
        min_p: 0.0,
        repetition: 1.0,
        presence: 0.0,
        frequency: 0.0,
    };
}

/// A change of one token's logit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Adjustment {
    /// The token; a row names each at most once.
    pub token: u32,
    /// How often it was generated.
    pub generated: u32,
    /// Added after the penalties.
    pub bias: f32,
    flags: u32,
}
// SAFETY: four 4-byte values, any bits are values.
unsafe impl Element for Adjustment {}

impl Adjustment {
    /// A token that was `seen` (in the prompt or the output) or is `impossible`.
    pub fn new(token: u32, generated: u32, bias: f32, seen: bool, impossible: bool) -> Self {
        Self { token, generated, bias, flags: u32::from(seen) | u32::from(impossible) << 1 }
    }
}

/// One row's wishes.
#[derive(Clone, Debug, Default)]
pub struct RowWish {
    /// Its settings.
    pub row: SampleRow,
    /// Its changes of single logits.
    pub adjustments: Vec<Adjustment>,
    /// Log probabilities of the chosen and of so many likeliest tokens.
    pub logprobs: Option<u32>,
    /// Tokens that a grammar allows, bit by bit; everything if none.
    pub mask: Option<Vec<u32>>,
}

/// Why a row has no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoToken {
    /// NaN or +infinity among its logits.
    NotFinite,
    /// All are -infinity.
    Nothing,
}

/// A row's token, and its report where asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: u32,
    /// Its log probability in the model's own distribution, and the likeliest tokens with theirs.
    pub logprobs: Option<(f32, Vec<(u32, f32)>)>,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct SampleParams {
    logits: u64,
    rows: u64,
    adjustments: u64,
    raw: u64,
    masks: u64,
    tokens: u64,
    status: u64,
    logprobs: u64,
    top_tokens: u64,
    vocab: u32,
    top_stride: u32,
}
// SAFETY: the mirror of SampleParams in sampling.cu.
unsafe impl Params for SampleParams {}

/// Chooses a token for each row of `logits` `[wishes.len(), vocab]`, which the adjustments change.
///
/// # Errors
/// Sizes that do not go together, a token beyond the vocabulary, a token adjusted twice, or what the driver reports.
pub fn sample(
    logits: &DeviceBuffer<f32>,
    vocab: usize,
    wishes: &[RowWish],
) -> Result<Vec<Result<Sampled, NoToken>>, CudaError> {
    ensure!(vocab > 0 && vocab <= MAX_VOCAB, "sample: a vocabulary of {vocab}");
    ensure!(
        logits.len() >= wishes.len() * vocab,
        "sample: {} rows of {vocab} in {} values",
        wishes.len(),
        logits.len()
    );
    if wishes.is_empty() {
        return Ok(Vec::new());
    }
    let device = logits.device();
    let (rows, adjustments) = collect(wishes, vocab)?;
    let masks = masks(device, wishes, vocab)?;
    let top_stride = wishes.iter().filter_map(|wish| wish.logprobs).max().unwrap_or(0) as usize;
    let (rows, adjustments) = (device.upload(&rows)?, device.upload(&adjustments)?);
    let raw = device.zeros::<f32>(adjustments.len())?;
    let tokens = device.zeros::<u32>(wishes.len())?;
    let status = device.zeros::<u32>(wishes.len())?;
    let logprobs = device.zeros::<f32>(wishes.len() * (1 + top_stride))?;
    let top_tokens = device.zeros::<u32>(wishes.len() * top_stride)?;
    let params = SampleParams {
        logits: logits.address(),
        rows: rows.address(),
        adjustments: adjustments.address(),
        raw: raw.address(),
        masks: masks.as_ref().map_or(0, DeviceBuffer::address),
        tokens: tokens.address(),
        status: status.address(),
        logprobs: logprobs.address(),
        top_tokens: top_tokens.address(),
        vocab: vocab as u32,
        top_stride: top_stride as u32,
    };
    let launch = Launch { grid: [wishes.len() as u32, 1, 1], threads: THREADS, shared_bytes: SHARED_BYTES };
    device.launch("sample", launch, &params)?;
    let (tokens, status) = (tokens.to_vec()?, status.to_vec()?);
    let (logprobs, top_tokens) = (logprobs.to_vec()?, top_tokens.to_vec()?);
    let sampled = |i: usize| match status[i] {
        0 => {
            let own = &logprobs[i * (1 + top_stride)..];
            let report = wishes[i].logprobs.map(|n| {
                let top = top_tokens[i * top_stride..].iter().copied().zip(own[1..].iter().copied());
                (own[0], top.take((n as usize).min(vocab)).collect())
            });
            Ok(Sampled { token: tokens[i], logprobs: report })
        }
        1 => Err(NoToken::NotFinite),
        _ => Err(NoToken::Nothing),
    };
    Ok((0..wishes.len()).map(sampled).collect())
}

fn collect(wishes: &[RowWish], vocab: usize) -> Result<(Vec<DeviceRow>, Vec<Adjustment>), CudaError> {
    let (mut rows, mut adjustments) = (Vec::new(), Vec::new());
    for wish in wishes {
        let mut tokens: Vec<u32> = wish.adjustments.iter().map(|change| change.token).collect();
        tokens.sort_unstable();
        ensure!(tokens.windows(2).all(|pair| pair[0] != pair[1]), "sample: a token is adjusted twice");
        ensure!(
            tokens.last().is_none_or(|token| (*token as usize) < vocab),
            "sample: an adjusted token is beyond the vocabulary of {vocab}"
        );
        ensure!(
            wish.row.greedy == 1 || wish.row.temperature > 0.0,
            "sample: temperature {}",
            wish.row.temperature
        );
        let begin = adjustments.len() as u32;
        adjustments.extend_from_slice(&wish.adjustments);
        let row = wish.row;
        rows.push(DeviceRow {
            seed: row.seed,
            draw: row.draw,
            greedy: row.greedy,
            top_k: row.top_k,
            temperature: row.temperature,
            top_p: row.top_p,
            min_p: row.min_p,
            repetition: row.repetition,
            presence: row.presence,
            frequency: row.frequency,
            adjustments_begin: begin,
            adjustments_end: adjustments.len() as u32,
            logprobs: wish.logprobs.map_or(0, |n| n.min(vocab as u32) + 1),
        });
    }
    Ok((rows, adjustments))
}

/// The grammar masks of all rows, if any row has one.
fn masks(device: &Device, wishes: &[RowWish], vocab: usize) -> Result<Option<DeviceBuffer<u32>>, CudaError> {
    if wishes.iter().all(|wish| wish.mask.is_none()) {
        return Ok(None);
    }
    let words = vocab.div_ceil(32);
    let mut all = Vec::with_capacity(wishes.len() * words);
    for wish in wishes {
        match &wish.mask {
            Some(mask) => {
                ensure!(mask.len() == words, "sample: a mask of {} words for {vocab} tokens", mask.len());
                all.extend_from_slice(mask);
            }
            None => all.extend(std::iter::repeat_n(u32::MAX, words)),
        }
    }
    Ok(Some(device.upload(&all)?))
}
