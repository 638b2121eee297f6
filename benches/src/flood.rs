//! What the operator's own work feels of the surplus being sold: short `internal` requests on an idle engine, then under
//! a flood of `batch` work with tiers, then under the same flood with everybody in one tier.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use engine::{Engine, EngineConfig, Event, Request, SamplingParams, Stop, SubmitError, Tier};
use models::Card;
use tokio::task::{JoinSet, LocalSet};

/// Times internal requests with and without a flood, and with and without tiers.
#[derive(Parser, Clone)]
struct Args {
    /// The model file.
    model: PathBuf,
    /// Requests of the flood that are always in the engine: ten times what it runs at once.
    #[arg(long, default_value_t = 320)]
    flood: usize,
    /// Prompt and output tokens of a request of the flood.
    #[arg(long, default_value_t = 128)]
    flood_tokens: usize,
    /// Prompt tokens of an internal request.
    #[arg(long, default_value_t = 64)]
    prompt: usize,
    /// Output tokens of an internal request.
    #[arg(long, default_value_t = 32)]
    tokens: usize,
    /// Milliseconds between internal requests: with 32 tokens some 5 % of the time is theirs.
    #[arg(long, default_value_t = 4000)]
    pause_ms: u64,
    /// Tokens that all others may take in a step in which an internal request computes.
    #[arg(long, default_value_t = EngineConfig::default().sharing.tiers[0].yield_tokens)]
    yield_tokens: usize,
    /// Seconds of each phase.
    #[arg(long, default_value_t = 40)]
    seconds: u64,
    /// How often the phases are repeated in turn.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
}

/// What the internal requests of a phase saw, seconds, and what the engine did meanwhile.
#[derive(Default)]
struct Seen {
    first: Vec<f64>,
    gaps: Vec<f64>,
    generated: u64,
    seconds: f64,
    longest_step: f64,
}

/// A prompt that shares no cached block with another.
fn prompt(len: usize, number: usize) -> Vec<u32> {
    (0..len).map(|i| 100 + ((number * 7919 + i * 31 + number / 13) % 20_000) as u32).collect()
}

fn request(len: usize, tokens: usize, number: usize, tier: Tier) -> Request {
    Request {
        prompt: prompt(len, number),
        sampling: SamplingParams {
            temperature: 1.0,
            seed: number as u64,
            ignore_eos: true,
            ..Default::default()
        },
        stop: Stop { max_tokens: tokens as u32, ..Stop::default() },
        tier,
        ..Request::default()
    }
}

/// Keeps `count` requests in the engine until it is aborted.
fn flood(engine: &Engine, args: &Args) -> JoinSet<Result<(), SubmitError>> {
    let mut tasks = JoinSet::new();
    for i in 0..args.flood {
        let (engine, tokens, flood) = (engine.clone(), args.flood_tokens, args.flood);
        tasks.spawn_local(async move {
            for turn in 0.. {
                let number = 1_000 + i + turn * flood;
                let mut stream = engine.submit(request(tokens, tokens, number, Tier::Batch))?;
                while stream.next().await.is_some() {}
            }
            Ok(())
        });
    }
    tasks
}

/// Sends internal requests one after another, as `tier`, until the phase ends.
async fn probe(engine: &Engine, args: &Args, tier: Tier, seen: &mut Seen) -> Result<(), SubmitError> {
    let (begin, before) = (Instant::now(), engine.stats());
    for number in 0.. {
        let sent = Instant::now();
        let mut last = None;
        let mut stream = engine.submit(request(args.prompt, args.tokens, number, tier))?;
        while let Some(event) = stream.next().await {
            if !matches!(event, Event::Delta(_)) {
                continue;
            }
            let now = Instant::now();
            match last.replace(now) {
                None => seen.first.push((now - sent).as_secs_f64()),
                Some(last) => seen.gaps.push((now - last).as_secs_f64()),
            }
            seen.longest_step = seen.longest_step.max(engine.stats().last_step_us as f64 / 1e6);
        }
        if begin.elapsed() >= Duration::from_secs(args.seconds) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(args.pause_ms)).await;
    }
    seen.generated += engine.stats().generated_tokens - before.generated_tokens;
    seen.seconds += begin.elapsed().as_secs_f64();
    Ok(())
}

/// One phase: a flood or none, and internal requests in `tier`.
async fn phase(
    engine: &Engine,
    args: &Args,
    flooded: bool,
    tier: Tier,
    seen: &mut Seen,
) -> Result<(), SubmitError> {
    let mut tasks = if flooded { flood(engine, args) } else { JoinSet::new() };
    if flooded {
        // The batch fills up.
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    probe(engine, args, tier, seen).await?;
    tasks.abort_all();
    while let Some(ended) = tasks.join_next().await {
        if let Ok(result) = ended {
            result?;
        }
    }
    while engine.stats().running + engine.stats().waiting > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let at = ((values.len() as f64 * q).ceil() as usize).clamp(1, values.len().max(1)) - 1;
    values.get(at).copied().unwrap_or(f64::NAN)
}

fn print(phases: &mut [(&str, Seen)]) {
    println!(
        "| load | requests | TTFT p50 | p99 ms | inter-token p50 | p99 ms | generated tok/s |\n|---|---|---|---|---|---|---|"
    );
    for (name, seen) in phases.iter_mut() {
        let ms = |values: &mut [f64], q| quantile(values, q) * 1e3;
        println!(
            "| {name} | {} | {:.0} | {:.0} | {:.1} | {:.1} | {:.0} |",
            seen.first.len(),
            ms(&mut seen.first, 0.5),
            ms(&mut seen.first, 0.99),
            ms(&mut seen.gaps, 0.5),
            ms(&mut seen.gaps, 0.99),
            seen.generated as f64 / seen.seconds
        );
    }
    let [(_, idle), (_, tiers), (_, one)] = phases else { return };
    let (first, under) = (quantile(&mut idle.first, 0.99), quantile(&mut tiers.first, 0.99));
    let gap = quantile(&mut tiers.gaps, 0.5) / quantile(&mut idle.gaps, 0.5);
    let throughput = (tiers.generated as f64 / tiers.seconds) / (one.generated as f64 / one.seconds);
    println!(
        "\nTTFT p99 under the flood / (1.15 x idle + the longest step of {:.0} ms): {:.2}",
        tiers.longest_step * 1e3,
        under / (1.15 * first + tiers.longest_step)
    );
    println!("inter-token p50, flood / idle: {gap:.2}\ntokens/s, tiers / one tier: {throughput:.2}");
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let loaded = models::load(&args.model, Card::from_file(&args.model)?, &|_| ())?;
    // Each tier keeps an eighth of the places from those below.
    let mut config = EngineConfig { max_waiting: 4 * args.flood, ..EngineConfig::default() };
    config.sharing.tiers[0].yield_tokens = args.yield_tokens;
    let engine = Engine::start(loaded, config)?;
    let mut phases = [
        ("idle", Seen::default()),
        ("flood, with tiers", Seen::default()),
        ("flood, one tier", Seen::default()),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    for _ in 0..args.rounds {
        for (i, (_, seen)) in phases.iter_mut().enumerate() {
            let tier = if i == 2 { Tier::Batch } else { Tier::Internal };
            LocalSet::new().block_on(&runtime, phase(&engine, &args, i > 0, tier, seen))?;
        }
    }
    print(&mut phases);
    engine.shutdown(Duration::ZERO);
    Ok(())
}
