//! Load generator: streams chat completions from an OpenAI-compatible server and prints latency and throughput.
//!
//! `--rate` makes an open loop (Poisson arrivals; a slow server does not slow the arrivals down, so queueing shows);
//! `--concurrency` makes a closed loop of that many clients. Every request has its own prompt of distinct words.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Streams chat completions and prints TTFT, inter-token latency and throughput.
#[derive(Parser, Clone)]
struct Args {
    /// Address of the server, host:port.
    #[arg(long, default_value = "127.0.0.1:8080")]
    addr: String,
    /// API key.
    #[arg(long, env = "OPENAI_API_KEY", default_value = "", hide_env_values = true)]
    key: String,
    /// Model name sent in each request.
    #[arg(long, default_value = "smollm2-135m-instruct")]
    model: String,
    /// Number of requests.
    #[arg(long, default_value_t = 32)]
    requests: usize,
    /// Open loop: mean arrivals per second.
    #[arg(long)]
    rate: Option<f64>,
    /// Closed loop: requests in flight at once.
    #[arg(long, default_value_t = 16, conflicts_with = "rate")]
    concurrency: usize,
    /// Words in each prompt (about one token a word, chat template not counted).
    #[arg(long, default_value_t = 100)]
    words: usize,
    /// Words among them, at the beginning, that are the same in all prompts.
    #[arg(long, default_value_t = 0)]
    shared_words: usize,
    /// Tokens to generate; the end-of-text token is ignored so that all requests do equal work.
    #[arg(long, default_value_t = 128)]
    max_tokens: usize,
    /// Requests before these, one after another and not counted.
    #[arg(long, default_value_t = 0)]
    warm: usize,
    /// Seed of arrivals and prompts.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What one request saw; times since its planned arrival.
#[derive(Default)]
struct Trace {
    first_token: Option<Duration>,
    gaps: Vec<Duration>,
    tokens: u64,
    prompt_tokens: u64,
    error: Option<String>,
}

impl Trace {
    /// Tokens a second after the first; none where there was nothing to wait for.
    #[allow(clippy::cast_precision_loss)]
    fn rate(&self) -> Option<f64> {
        let seconds = self.gaps.iter().sum::<Duration>().as_secs_f64();
        (seconds > 0.0).then(|| self.tokens.saturating_sub(1) as f64 / seconds)
    }
}

/// A small generator (splitmix64): the load must be the same for every server that is compared.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

const WORDS: [&str; 24] = [
    "river", "stone", "cloud", "market", "engine", "garden", "silver", "window", "paper", "winter", "bridge",
    "forest", "signal", "copper", "harbor", "candle", "mirror", "valley", "thread", "ladder", "pocket",
    "orange", "violin", "desert",
];

fn prompt(words: usize, rng: &mut Rng) -> String {
    let picked: Vec<&str> = (0..words).map(|_| WORDS[(rng.next() % WORDS.len() as u64) as usize]).collect();
    picked.join(" ")
}

fn request_bytes(args: &Args, prompt: &str) -> Vec<u8> {
    let body = serde_json::json!({
        "model": args.model, "stream": true, "stream_options": {"include_usage": true}, "temperature": 0,
        "max_tokens": args.max_tokens, "ignore_eos": true, "messages": [{"role": "user", "content": prompt}],
    })
    .to_string();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        args.addr,
        args.key,
        body.len()
    )
    .into_bytes()
}

async fn one(args: &Args, prompt: String, planned: Instant) -> Trace {
    let mut trace = Trace::default();
    if let Err(error) = stream(args, &prompt, planned, &mut trace).await {
        trace.error = Some(error.to_string());
    }
    trace
}

async fn stream(args: &Args, prompt: &str, planned: Instant, trace: &mut Trace) -> std::io::Result<()> {
    let mut socket = TcpStream::connect(&args.addr).await?;
    socket.set_nodelay(true)?;
    socket.write_all(&request_bytes(args, prompt)).await?;
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    if !line.contains(" 200 ") {
        let mut rest = String::new();
        reader.read_to_string(&mut rest).await?;
        return Err(std::io::Error::other(format!(
            "{} {}",
            line.trim(),
            rest.lines().last().unwrap_or_default()
        )));
    }
    let mut last = None;
    loop {
        line.clear();
        if reader.read_line(&mut line).await? == 0 {
            return Err(std::io::Error::other("stream ended without [DONE]"));
        }
        let Some(data) = line.trim_end().strip_prefix("data: ") else { continue };
        if data == "[DONE]" {
            return Ok(());
        }
        record(data, planned, &mut last, trace)?;
    }
}

fn record(
    data: &str,
    planned: Instant,
    last: &mut Option<Instant>,
    trace: &mut Trace,
) -> std::io::Result<()> {
    let chunk: serde_json::Value = serde_json::from_str(data)?;
    if let Some(error) = chunk.get("error") {
        return Err(std::io::Error::other(error.to_string()));
    }
    if let Some(usage) = chunk.get("usage").filter(|usage| !usage.is_null()) {
        trace.tokens = usage["completion_tokens"].as_u64().unwrap_or(0);
        trace.prompt_tokens = usage["prompt_tokens"].as_u64().unwrap_or(0);
    }
    let content = chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
    if !content.is_empty() {
        let now = Instant::now();
        match *last {
            None => trace.first_token = Some(now - planned),
            Some(before) => trace.gaps.push(now - before),
        }
        *last = Some(now);
    }
    Ok(())
}

async fn run(args: Args) -> (Vec<Trace>, Duration) {
    let args = Arc::new(args);
    let permits =
        Arc::new(Semaphore::new(if args.rate.is_some() { Semaphore::MAX_PERMITS } else { args.concurrency }));
    let mut rng = Rng(args.seed);
    let shared = prompt(args.shared_words.min(args.words), &mut rng);
    let text = |rng: &mut Rng| {
        let own = prompt(args.words.saturating_sub(args.shared_words), rng);
        format!("{shared} {own}")
    };
    for _ in 0..args.warm {
        let warm = one(&args, text(&mut rng), Instant::now()).await;
        if warm.error.is_some() {
            return (vec![warm], Duration::ZERO);
        }
    }
    let begin = Instant::now();
    let mut due = begin;
    let mut tasks = Vec::with_capacity(args.requests);
    for _ in 0..args.requests {
        let text = text(&mut rng);
        if let Some(rate) = args.rate {
            due += Duration::from_secs_f64(-(1.0 - rng.unit()).ln() / rate);
            tokio::time::sleep_until(due.into()).await;
        }
        let Ok(permit) = permits.clone().acquire_owned().await else { break };
        let args = args.clone();
        // In the open loop the clock starts at the planned arrival, so that a late start is not hidden.
        let planned = if args.rate.is_some() { due } else { Instant::now() };
        tasks.push(tokio::spawn(async move {
            let trace = one(&args, text, planned).await;
            drop(permit);
            trace
        }));
    }
    let mut traces = Vec::with_capacity(tasks.len());
    for task in tasks {
        traces.push(
            task.await.unwrap_or_else(|error| Trace { error: Some(error.to_string()), ..Trace::default() }),
        );
    }
    (traces, begin.elapsed())
}

/// The value below which a share `q` of the sorted samples lies, in milliseconds.
fn quantile_ms(samples: &mut [Duration], q: f64) -> f64 {
    samples.sort_unstable();
    match samples.len() {
        0 => f64::NAN,
        n => samples[((n - 1) as f64 * q).round() as usize].as_secs_f64() * 1e3,
    }
}

/// The figures of a run; rates in tokens a second.
#[allow(clippy::cast_precision_loss)]
fn figures(traces: &[Trace], wall: Duration) -> Vec<(&'static str, f64)> {
    let mut ttft: Vec<Duration> = traces.iter().filter_map(|trace| trace.first_token).collect();
    let mut gaps: Vec<Duration> = traces.iter().flat_map(|trace| trace.gaps.iter().copied()).collect();
    // A chunk may hold several tokens, so a stream's own rate is not that of its chunks.
    let mut rates: Vec<f64> = traces.iter().filter_map(Trace::rate).collect();
    rates.sort_unstable_by(f64::total_cmp);
    let output: u64 = traces.iter().map(|trace| trace.tokens).sum();
    let input: u64 = traces.iter().map(|trace| trace.prompt_tokens).sum();
    let seconds = wall.as_secs_f64();
    vec![
        ("requests", traces.len() as f64),
        ("errors", traces.iter().filter(|trace| trace.error.is_some()).count() as f64),
        ("wall_s", seconds),
        ("in_rate", input as f64 / seconds),
        ("out_rate", output as f64 / seconds),
        ("stream_rate", rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)),
        ("ttft_p50_ms", quantile_ms(&mut ttft, 0.5)),
        ("ttft_p99_ms", quantile_ms(&mut ttft, 0.99)),
        ("gap_p50_ms", quantile_ms(&mut gaps, 0.5)),
        ("gap_p99_ms", quantile_ms(&mut gaps, 0.99)),
    ]
}

fn report(args: &Args, traces: &[Trace], wall: Duration) {
    let figures = figures(traces, wall);
    if args.json {
        let object: serde_json::Map<String, serde_json::Value> =
            figures.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        println!("{}", serde_json::Value::from(object));
    } else {
        println!(
            "| requests | errors | wall s | in tok/s | out tok/s | tok/s of a stream | TTFT p50 | p99 ms | \
             inter-token p50 | p99 ms |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
        // Times between tokens are short, counts are whole.
        let digits = [0, 0, 2, 0, 0, 0, 0, 0, 1, 1];
        let cells = figures.iter().zip(digits).map(|((_, value), digits)| format!("{value:.digits$}"));
        println!("| {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    if let Some(first) = traces.iter().find_map(|trace| trace.error.as_ref()) {
        eprintln!("first error: {first}");
    }
}

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    // One thread: the client must not take a second core from the server it measures.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (traces, wall) = runtime.block_on(run(args.clone()));
    report(&args, &traces, wall);
    Ok(())
}
