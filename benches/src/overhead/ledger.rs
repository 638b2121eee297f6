//! The ledger alone: money held and settled, durable, by many at once.

use std::path::Path;
use std::time::{Duration, Instant};

use gateway::config::Config;
use gateway::ledger::{Details, EndReason, HoldRequest, Ledger, Settlement, Timings, Tokens};
use gateway::money::{Picos, PriceVersion};
use gateway::node::Failure;
use gateway::serving::unix_ms;

/// Requests a second that `clients` at once get held and settled in a ledger under `place`.
pub(crate) async fn rate(place: &Path, clients: usize, time: Duration) -> Result<f64, Failure> {
    let data = tempfile::Builder::new().prefix("spillway-bench-").tempdir_in(place)?;
    let ledger = Ledger::open(data.path(), &Config::default().ledger, unix_ms())?;
    let begin = Instant::now();
    let client = |client: usize| {
        let ledger = ledger.clone();
        tokio::spawn(async move {
            let mut count = 0_u64;
            while begin.elapsed() < time {
                let request_id = format!("req_{client}_{count}");
                ledger.hold(request(&request_id)).await?;
                let tokens = Tokens { uncached_input: 30, cached_input: 0, output: 100 };
                let (end, timings) = (EndReason::Finished, Timings::default());
                ledger.settle(Settlement { request_id, tokens, end, at_ms: unix_ms(), timings }).await?;
                count += 1;
            }
            Ok::<u64, Failure>(count)
        })
    };
    let tasks: Vec<_> = (0..clients).map(client).collect();
    let mut count = 0;
    for task in tasks {
        count += task.await??;
    }
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    tokio::task::spawn_blocking(move || ledger.close()).await?;
    Ok(rate)
}

fn request(id: &str) -> HoldRequest {
    let price = PriceVersion::new("fake", "default", 0, Picos(100_000), Picos(50_000), Picos(400_000));
    HoldRequest {
        request_id: id.to_owned(),
        key_id: "key_1".to_owned(),
        project_id: "proj_1".to_owned(),
        org_id: "org_1".to_owned(),
        model: "fake".to_owned(),
        tier: "default".to_owned(),
        endpoint: "/v1/chat/completions".to_owned(),
        price,
        amount: Picos(100_000_000),
        prompt_tokens: 30,
        budgets: Vec::new(),
        credit_line: None,
        details: Details::default(),
        at_ms: unix_ms(),
        lease: None,
    }
}
