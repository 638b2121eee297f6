//! What can I sell, and what does it cost me? A discrete-event simulation of one or many devices: the engine's own
//! scheduler decides each step, a cost model says how long it takes. The same seed and trace give the same report.
//!
//! A trace is a CSV file with the columns `at_ms,tier,org,prompt_tokens,output_tokens`; without one a day in small is made
//! up: bursts of the operator's own work, Poisson customers, and a backlog that can wait.
#![forbid(unsafe_code)]

#[path = "simulate/device.rs"]
mod device;
#[path = "simulate/report.rs"]
mod report;
#[path = "simulate/trace.rs"]
mod trace;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use engine::EngineConfig;

use device::{Cost, Device};
use report::Report;

/// Simulates the scheduler on a trace.
#[derive(Parser)]
struct Args {
    /// Requests as CSV: at_ms,tier,org,prompt_tokens,output_tokens; made up where absent.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Seed of the made-up trace.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Length of the made-up trace, seconds.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Devices, each with a scheduler and cache of its own.
    #[arg(long, default_value_t = 1)]
    devices: usize,
    /// Figures of `spillway calibrate`, in place of the three below.
    #[arg(long)]
    capacity: Option<PathBuf>,
    /// Cost of a step whatever is in it, microseconds.
    #[arg(long, default_value_t = 8_000.0)]
    step_us: f64,
    /// Cost of a prompt token, microseconds.
    #[arg(long, default_value_t = 700.0)]
    prompt_us: f64,
    /// Cost of a generated token, microseconds.
    #[arg(long, default_value_t = 900.0)]
    output_us: f64,
    /// Sequences of a batch.
    #[arg(long, default_value_t = 64)]
    max_num_seqs: usize,
    /// Cache blocks of 16 tokens.
    #[arg(long, default_value_t = 4_096)]
    blocks: usize,
    /// List price of prompts, USD per 1M tokens.
    #[arg(long, default_value_t = 0.10)]
    prompt_price: f64,
    /// List price of answers, USD per 1M tokens.
    #[arg(long, default_value_t = 0.40)]
    output_price: f64,
    /// Where to draw how busy the devices were and with what.
    #[arg(long)]
    svg: Option<PathBuf>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let arrivals = match &args.trace {
        Some(path) => trace::read(path)?,
        None => trace::made_up(args.seed, args.seconds, args.devices),
    };
    let cost = match &args.capacity {
        Some(path) => Cost::measured(&std::fs::read_to_string(path)?)?,
        None => Cost { step_us: args.step_us, prompt_us: args.prompt_us, output_us: args.output_us },
    };
    let config = EngineConfig {
        max_num_seqs: args.max_num_seqs,
        block_size: 16,
        num_blocks: args.blocks,
        prefill_chunk: 64,
        // What does not fit waits here; a real server would say so at once.
        max_waiting: 1 << 20,
        ..EngineConfig::default()
    };
    config.validate()?;
    let begin = Instant::now();
    let report = simulate(&arrivals, &config, cost, args.devices.max(1));
    eprintln!("{:.0} s simulated in {:.2} s", report.end_us as f64 / 1e6, begin.elapsed().as_secs_f64());
    print!("{}", report.table(args.prompt_price, args.output_price));
    if let Some(path) = &args.svg {
        std::fs::write(path, report.svg())?;
    }
    Ok(())
}

/// Plays the arrivals in order; a device runs a step whenever it has work. A request goes to the device with fewest tokens
/// to come, the first of several.
fn simulate(arrivals: &[trace::Arrival], config: &EngineConfig, cost: Cost, devices: usize) -> Report {
    let mut fleet: Vec<Device> = (0..devices).map(|_| Device::new(config.clone(), cost)).collect();
    let mut report = Report::new(devices);
    // Devices whose step ends at that time; those that rest are not among them.
    let mut ends: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    let mut arrivals = arrivals.iter().enumerate().peekable();
    loop {
        let next_end = ends.peek().map(|Reverse((at_us, _))| *at_us);
        let next_arrival = arrivals.peek().map(|(_, arrival)| arrival.at_us);
        match (next_arrival, next_end) {
            (None, None) => return report,
            (Some(at_us), end) if end.is_none_or(|end| at_us <= end) => {
                let Some((number, arrival)) = arrivals.next() else { continue };
                let least = (0..devices).min_by_key(|at| fleet[*at].to_come()).unwrap_or(0);
                let device = &mut fleet[least];
                if !device.add(number as u64, arrival) {
                    report.refused(arrival);
                } else if let Some(end_us) = device.begin(at_us, &mut report) {
                    ends.push(Reverse((end_us, least)));
                }
            }
            (_, Some(at_us)) => {
                let Some(Reverse((_, at))) = ends.pop() else { continue };
                fleet[at].end(at_us, &mut report);
                if let Some(end_us) = fleet[at].begin(at_us, &mut report) {
                    ends.push(Reverse((end_us, at)));
                }
            }
            (Some(_), None) => {}
        }
    }
}
