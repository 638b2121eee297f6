//! What the gateway costs: time added to a request, CPU of a request, streams at once, and money settled a second.
//!
//! Both kinds of server run as processes of their own over loopback and share the machine with the load. "bare" answers
//! without doing anything; what others take beyond it is theirs. The gateway has everything on: keys, limits at three
//! levels, two budgets, holds and durable bills; its model costs next to nothing, and its time is told apart. The peer
//! stands in front of "bare"; without a database, which it needs for keys of customers and their spend.
#![forbid(unsafe_code)]

mod client;
mod ledger;
mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand};
use gateway::node::Failure;

use client::{Seen, Target, closed_loop, open_loop, quantile, streams};
use server::Server;

/// Rates of the open loop, requests a second.
const RATES: [f64; 3] = [100.0, 1_000.0, 5_000.0];
/// What the peer can take of them; beyond it an open loop only measures its own patience.
const PEER_RATES: usize = 1;
/// Clients of the closed loop.
const CLIENTS: usize = 64;
/// Steps of the model a second where streams are read.
const TOKENS_PER_SECOND: u32 = 20;

/// Measures the gateway against a model that costs nothing.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// Seconds of each load
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Rounds; medians of them are printed
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Streams at once
    #[arg(long, default_value_t = 2_000)]
    streams: usize,
    /// Folder on a disk, for a ledger whose commits wait for it
    #[arg(long, default_value = "target")]
    disk: PathBuf,
    /// Folder in memory, for a ledger whose commits wait for nothing
    #[arg(long, default_value = "/dev/shm")]
    memory: PathBuf,
    /// A Python environment with LiteLLM's proxy: python3 -m venv DIR && DIR/bin/pip install 'litellm[proxy]'
    #[arg(long, value_name = "DIR")]
    litellm: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Role {
    /// Be the gateway
    #[command(hide = true)]
    Serve { data: PathBuf, step_us: u64 },
    /// Be the server that does nothing
    #[command(hide = true)]
    Bare,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    match args.role {
        Some(Role::Serve { data, step_us }) => server::serve(data, step_us),
        Some(Role::Bare) => server::bare(),
        None => {
            // One thread: the load must not take a second core from the server it measures.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(measure(&args))
        }
    }
}

async fn measure(args: &Args) -> Result<(), Failure> {
    let time = Duration::from_secs(args.seconds.into());
    println!("| hold and settle, {} at once | requests/s |\n|---|---|", 4 * CLIENTS);
    for (name, place) in [("ledger on a disk", &args.disk), ("ledger in memory", &args.memory)] {
        let mut rates = Vec::new();
        for _ in 0..args.rounds {
            rates.push(ledger::rate(place, 4 * CLIENTS, time).await?);
        }
        println!("| {name} | {:.0} |", median(rates));
    }
    let bare = Server::bare()?;
    let upstream = bare.address;
    let mut servers = vec![
        bare,
        Server::gateway("Spillway, ledger in memory", &args.memory, Duration::ZERO)?,
        Server::gateway("Spillway, ledger on a disk", &args.disk, Duration::ZERO)?,
    ];
    if let Some(environment) = &args.litellm {
        servers.push(Server::litellm(environment, upstream)?);
    }
    requests(args, &servers, time).await;
    drop(servers);
    stream(args, &args.disk).await
}

/// One load on one server.
struct Cell {
    seen: Seen,
    /// CPU milliseconds of a request, without the model's.
    cpu_ms: f64,
}

async fn cell(
    server: &Server,
    target: &std::sync::Arc<Target>,
    rate: Option<f64>,
    time: Duration,
    seed: u64,
) -> Cell {
    target.forget();
    let before = server.cpu();
    let seen = match rate {
        Some(rate) => open_loop(target, rate, time, seed).await,
        None => closed_loop(target, CLIENTS, time).await,
    };
    let after = server.cpu();
    if let Some(error) = &seen.error {
        eprintln!("{}: {} errors, the first: {error}", server.name, seen.errors);
    }
    let own = (after.all - after.engine) - (before.all - before.engine);
    let cpu_ms = own * 1e3 / seen.latencies.len().max(1) as f64;
    Cell { seen, cpu_ms }
}

/// Open loops at every rate and a closed loop, on all servers in turn.
async fn requests(args: &Args, servers: &[Server], time: Duration) {
    let targets: Vec<_> =
        servers.iter().map(|server| Target::new(server.address, &server.key, server.model())).collect();
    let loads: Vec<Option<f64>> = RATES.map(Some).into_iter().chain([None]).collect();
    let mut cells: Vec<Vec<Vec<Cell>>> =
        loads.iter().map(|_| servers.iter().map(|_| Vec::new()).collect()).collect();
    for target in &targets {
        // Whatever is slow at the first request only.
        closed_loop(target, 8, Duration::from_secs(1)).await;
    }
    for round in 0..args.rounds {
        for (row, load) in cells.iter_mut().zip(&loads) {
            for ((cell_of, server), target) in row.iter_mut().zip(servers).zip(&targets) {
                let beyond = load.is_some_and(|rate| rate > RATES[PEER_RATES - 1]);
                if beyond && server.name == "LiteLLM" {
                    continue;
                }
                cell_of.push(cell(server, target, *load, time, round as u64).await);
            }
        }
    }
    report(servers, &loads, &cells);
}

fn report(servers: &[Server], loads: &[Option<f64>], cells: &[Vec<Vec<Cell>>]) {
    println!(
        "\n| load | server | answers/s | p50 ms | p99 ms | added p50 | added p99 | CPU ms/request | answers/CPU s | errors |\n\
         |---|---|---|---|---|---|---|---|---|---|"
    );
    let of = |cells: &[Cell], what: &dyn Fn(&Cell) -> f64| median(cells.iter().map(what).collect());
    for (load, row) in loads.iter().zip(cells) {
        let name = load.map_or_else(|| format!("{CLIENTS} clients"), |rate| format!("{rate:.0}/s"));
        let base = [0.5, 0.99].map(|q| of(&row[0], &|cell| cell.seen.ms(q)));
        for (server, cells) in servers.iter().zip(row).filter(|(_, cells)| !cells.is_empty()) {
            let rate = of(cells, &|cell| cell.seen.latencies.len() as f64 / cell.seen.wall.as_secs_f64());
            let [p50, p99] = [0.5, 0.99].map(|q| of(cells, &|cell| cell.seen.ms(q)));
            let cpu = of(cells, &|cell| cell.cpu_ms);
            let errors: usize = cells.iter().map(|cell| cell.seen.errors).sum();
            println!(
                "| {name} | {} | {rate:.0} | {p50:.2} | {p99:.2} | {:.2} | {:.2} | {cpu:.3} | {:.0} | {errors} |",
                server.name,
                p50 - base[0],
                p99 - base[1],
                1e3 / cpu
            );
        }
    }
}

/// Many streams at once, each with as many tokens a second.
async fn stream(args: &Args, place: &Path) -> Result<(), Failure> {
    let step = Duration::from_secs(1) / TOKENS_PER_SECOND;
    let server = Server::gateway("Spillway", place, step)?;
    let target = Target::new(server.address, &server.key, server.model());
    streams(&target, 8, 2).await;
    let (rss, before) = (server.rss_kib(), server.cpu());
    let tokens = (args.seconds + 4) * TOKENS_PER_SECOND;
    let begin = std::time::Instant::now();
    let run = streams(&target, args.streams, tokens);
    let watch = async {
        tokio::time::sleep(Duration::from_secs((args.seconds + 2).into())).await;
        server.rss_kib()
    };
    let (seen, peak) = tokio::join!(run, watch);
    let (wall, after) = (begin.elapsed().as_secs_f64(), server.cpu());
    let cpu = (after.all - after.engine - before.all + before.engine) / wall;
    println!(
        "\n| streams | events/s | gap p50 ms | gap p99 ms | gateway's cores | model's cores | KiB/stream | errors |\n\
         |---|---|---|---|---|---|---|---|"
    );
    println!(
        "| {} | {:.0} | {:.1} | {:.1} | {cpu:.2} | {:.2} | {:.1} | {} |",
        args.streams,
        seen.events as f64 / wall,
        quantile(&seen.gaps, 0.5).as_secs_f64() * 1e3,
        quantile(&seen.gaps, 0.99).as_secs_f64() * 1e3,
        (after.engine - before.engine) / wall,
        (peak - rss) / args.streams as f64,
        seen.errors
    );
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
