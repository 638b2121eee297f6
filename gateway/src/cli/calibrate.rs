//! `spillway calibrate`: measures what this machine can serve.

use std::time::{Duration, Instant};

use engine::{Engine, Event, Request, SamplingParams, Stop};
use futures::future::try_join_all;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{Failure, place, print, serve};
use crate::capacity::{Capacity, Measured, Point};
use crate::config::{Config, make_private_dir};
use crate::registry::Served;
use crate::serving::unix_ms;

/// Prompt of the first measurement; long enough to fill steps.
const PROMPT_TOKENS: usize = 256;
/// Prompt of the second, which is about what comes after it.
const SHORT_PROMPT_TOKENS: usize = 16;
/// Tokens that each sequence of the second generates.
const OUTPUT_TOKENS: u32 = 48;

/// Measures all models that generate, and keeps what it finds in the data directory.
pub(super) fn run(config: &Config) -> Result<(), Failure> {
    make_private_dir(&config.data.dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let bars = MultiProgress::new();
    let place = place::open(config)?;
    let mut capacity = Capacity::default();
    for rule in config.served() {
        let Served::Engine(engine) = serve::start_model(&rule, config, &place, &bars)? else { continue };
        let measured = runtime.block_on(measure(&engine, &bars))?;
        engine.shutdown(Duration::ZERO);
        table(&measured)?;
        capacity.models.push(measured);
    }
    capacity.save(&config.data.dir)?;
    print(format_args!("\nkept as {} and capacity.svg", config.data.dir.join("capacity.json").display()))?;
    Ok(())
}

fn table(measured: &Measured) -> std::io::Result<()> {
    print(format_args!("{}: {} tokens of key-value cache\n", measured.model, measured.kv_tokens))?;
    print("sequences  input tok/s  output tok/s  between tokens p50 ms  p99 ms")?;
    for point in &measured.points {
        let Point { sequences, input_tokens_per_second, output_tokens_per_second, .. } = point;
        print(format_args!(
            "{sequences:>9}  {input_tokens_per_second:>11.0}  {output_tokens_per_second:>12.1}  {:>21.1}  {:>6.1}",
            point.inter_token_p50_ms, point.inter_token_p99_ms
        ))?;
    }
    Ok(())
}

async fn measure(engine: &Engine, bars: &MultiProgress) -> Result<Measured, Failure> {
    let config = engine.config();
    let kv_tokens = config.num_blocks * config.block_size;
    let fits = |sequences: usize| sequences * (PROMPT_TOKENS + 1) <= kv_tokens;
    let doubled = std::iter::successors(Some(1), |n| Some(n * 2));
    let mut sizes: Vec<usize> = doubled.take_while(|n| *n < config.max_num_seqs && fits(*n)).collect();
    sizes.extend(Some(config.max_num_seqs).filter(|n| fits(*n)));
    let bar = bars.add(ProgressBar::new(sizes.len() as u64 + 1));
    bar.set_style(
        ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} {eta}").expect("the template is valid"),
    );
    bar.set_message(format!("measuring {}", engine.card().id));
    bar.tick();
    // The first steps touch memory that the later ones find ready.
    point(engine, 1).await?;
    let mut points = Vec::with_capacity(sizes.len());
    for size in sizes {
        bar.inc(1);
        points.push(point(engine, size).await?);
    }
    bar.finish_and_clear();
    let card = engine.card();
    let (model, weights_sha256) = (card.id.clone(), card.sha256.clone());
    Ok(Measured { model, weights_sha256, measured_ms: unix_ms(), kv_tokens, points })
}

async fn point(engine: &Engine, sequences: usize) -> Result<Point, Failure> {
    let length = PROMPT_TOKENS.min(engine.context_len() / 2);
    let begin = Instant::now();
    try_join_all((0..sequences).map(|i| generate(engine, i, length, 1))).await?;
    let input_tokens_per_second = (sequences * length) as f64 / begin.elapsed().as_secs_f64();
    let streams = (0..sequences).map(|i| generate(engine, sequences + i, SHORT_PROMPT_TOKENS, OUTPUT_TOKENS));
    let times = try_join_all(streams).await?;
    // Between the last sequence's first token and the first one's last, all of them generate.
    let from = times.iter().filter_map(|times| times.first()).max().copied().unwrap_or(begin);
    let to = times.iter().filter_map(|times| times.last()).min().copied().unwrap_or(begin);
    let within = times.iter().flatten().filter(|at| (from..=to).contains(*at)).count();
    let span = to.saturating_duration_since(from).as_secs_f64().max(1e-6);
    let mut gaps: Vec<f64> = times
        .iter()
        .flat_map(|times| times.windows(2))
        .map(|two| (two[1] - two[0]).as_secs_f64() * 1e3)
        .collect();
    gaps.sort_by(f64::total_cmp);
    let quantile = |part: f64| gaps.get((gaps.len() as f64 * part) as usize).or(gaps.last()).copied();
    Ok(Point {
        sequences,
        input_tokens_per_second,
        output_tokens_per_second: within.saturating_sub(sequences) as f64 / span,
        inter_token_p50_ms: quantile(0.5).unwrap_or_default(),
        inter_token_p99_ms: quantile(0.99).unwrap_or_default(),
    })
}

/// When the tokens of one sequence came. `number` makes its prompt unlike all others.
async fn generate(
    engine: &Engine,
    number: usize,
    prompt: usize,
    max_tokens: u32,
) -> Result<Vec<Instant>, Failure> {
    let vocab = engine.tokenizer().vocab_size();
    let request = Request {
        prompt: (0..prompt).map(|i| ((number * 7_919 + i * 104_729) % vocab) as u32).collect(),
        sampling: SamplingParams { ignore_eos: true, temperature: 0.0, ..SamplingParams::default() },
        stop: Stop { max_tokens, ..Stop::default() },
        // Nothing is found in the prefix cache.
        salt: format!("{number} {:?}", Instant::now()),
        ..Request::default()
    };
    let mut stream = engine.submit(request)?;
    let mut times = Vec::new();
    while let Some(event) = stream.next().await {
        if let Event::Delta(delta) = event {
            times.extend(std::iter::repeat_n(Instant::now(), delta.tokens as usize));
        }
    }
    Ok(times)
}
