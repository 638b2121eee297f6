//! A thousand streams against one budget, over two gateways that are killed at random. The gateways are real processes
//! with a real ledger; only the model is a fake one, so that there is volume.

use std::env;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use engine::EngineConfig;
use engine::testing::FakeModel;
use gateway::config::Config as Settings;
use gateway::ledger::copy::Place;
use gateway::node::Node;
use gateway::registry::{Registry, Served};
use gateway::server::Signals;
use serde_json::{Value, json};

use crate::fleet::two_folders;
use crate::fleet_ledger::verified;
use crate::support::{
    Config, Events, KeyOptions, Method, Rng, Seen, Server, Trial, Wire, chat, data_folder, database,
    eventually, number, seed,
};

const NAME: &str = "fleet_streams::a_thousand_streams_on_killed_gateways_use_one_budget_up_and_no_more";
/// Names the configuration of a process that is to be a gateway.
const GATEWAY: &str = "FAKE_GATEWAY_CONFIG";
const STREAMS: usize = 1_000;
/// Tokens that the budget pays for, and those of one extension of a hold.
const BUDGET: i64 = 50_000;
const LEASE: i64 = 32;
/// Pico-USD of one output token; prompts are free, so that what is billed is what was generated.
const PRICE: i64 = 1_000_000;

/// This process as one gateway, until it is killed.
fn be_a_gateway(path: OsString) {
    let mut settings = Settings::load(Some(Path::new(&path)), std::iter::empty()).expect("a configuration");
    settings.data.dir = env::var_os("SPILLWAY_DATA").expect("a data folder").into();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let _context = runtime.enter();
    let fake = FakeModel { delay: Duration::from_millis(5), ..FakeModel::default() };
    let engine = fake.start(EngineConfig {
        max_num_seqs: 512,
        max_batched_tokens: 2_048,
        max_waiting: STREAMS,
        num_blocks: 8_192,
        ..EngineConfig::default()
    });
    let node = Node::open(&settings, || Ok(Registry::new(vec![Served::Engine(engine)]))).expect("a gateway");
    let (public, admin) = node.addresses().expect("addresses");
    println!("ready http://{public} admin http://{admin}");
    let signals = Signals::catch().expect("signals");
    runtime.block_on(node.serve(signals, &settings)).expect("serve");
}

fn start(data: &Arc<tempfile::TempDir>, config: &Config) -> Server {
    let own = env::current_exe().expect("this program");
    let line = format!("{GATEWAY}=\"$3\" exec '{}' --exact {NAME} --nocapture", own.display());
    Server::start_under(&line, Arc::clone(data), config)
}

/// One stream to its end, whatever that is; nothing where it was refused or its gateway was gone before.
fn stream(address: SocketAddr, key: &str, body: &Value) -> Option<Seen> {
    let mut wire = Wire::connect(address).ok()?;
    let bearer = format!("Bearer {key}");
    let text = body.to_string();
    let headers = [("Authorization", bearer.as_str())];
    wire.request(Method::Post, "/v1/chat/completions", &headers, Some(text.as_bytes())).ok()?;
    let transcript = Events::open(wire).ok()?.transcript();
    // A token of the fake model is a letter.
    let counted = transcript.first_text().len() as u64;
    Some(match transcript.usage {
        Some(usage) => Seen::Usage { request_id: transcript.request_id, usage, counted: Some(counted) },
        None => Seen::Cut { request_id: transcript.request_id, sent: counted },
    })
}

#[test]
fn a_thousand_streams_on_killed_gateways_use_one_budget_up_and_no_more() {
    if let Some(path) = env::var_os(GATEWAY) {
        return be_a_gateway(path);
    }
    let seed = seed(0x5EED_0B11);
    let (mut rng, url) = (Rng::new(seed), database());
    let budget = format!("0.{:06}", BUDGET);
    let options = KeyOptions { project: "fleet", budget: Some(&budget), ..KeyOptions::default() };
    let ([first, second], key) = two_folders(options);
    let price =
        "[[money.price]]\nmodel = \"fake\"\ntier = \"default\"\nuncached_input = \"0\"\ncached_input = \"0\"
                 output = \"1\"\n";
    let config = Config::new()
        .with("model", "id", "\"fake\"")
        .with("fleet", "postgres_url", &format!("\"{url}\""))
        .with("limits", "output_allowance_tokens", &LEASE.to_string())
        .with("limits", "output_learned_max_tokens", &LEASE.to_string())
        .with("limits", "key_concurrency", "10000")
        .with("limits", "project_concurrency", "10000")
        .table(price);
    let folders = [first, second];
    let mut gateways: Vec<Server> = folders.iter().map(|data| start(data, &config)).collect();
    let body = chat(
        "Tell a story.",
        json!({"model": "fake", "max_tokens": 120, "temperature": 0, "stream": true, "ignore_eos": true,
               "stream_options": {"include_usage": true}}),
    );
    let mut clients = Vec::new();
    let mut kills = 0;
    for at in 0..STREAMS {
        let (address, key, body) = (gateways[at % 2].address, key.clone(), body.clone());
        clients.push(thread::spawn(move || stream(address, &key, &body)));
        if at % 200 == 199 {
            // The moment is the point of the trial.
            thread::sleep(Duration::from_millis(rng.between(50, 600)));
            let victim = usize::from(rng.between(0, 2) == 1);
            gateways[victim].kill_hard();
            gateways[victim] = start(&folders[victim], &config);
            kills += 1;
        }
    }
    let mut seen: Vec<Seen> =
        clients.into_iter().filter_map(|client| client.join().expect("a client")).collect();
    let cut = seen.iter().filter(|seen| matches!(seen, Seen::Cut { .. })).count();
    assert!(cut >= 20, "only {cut} streams were cut by {kills} kills");
    eventually("nothing is open", || number(&url, "SELECT count(*) FROM open_holds") == 0);
    // What the dead have left over is used up too.
    while let Some(one) = stream(gateways[0].address, &key, &body) {
        seen.push(one);
    }
    eventually("nothing is open", || number(&url, "SELECT count(*) FROM open_holds") == 0);
    let billed = number(&url, "SELECT sum(cost_picos)::bigint FROM transfers");
    println!("{kills} kills, {} streams, {cut} cut: {} of {BUDGET} tokens", seen.len(), billed / PRICE);
    assert!(billed <= BUDGET * PRICE, "{billed} picos billed of {BUDGET} tokens, seed {seed:#x}");
    assert!(billed >= (BUDGET - LEASE) * PRICE, "{billed} picos billed of {BUDGET} tokens, seed {seed:#x}");
    let folder = data_folder();
    let (report, _) = verified(&Place::Postgres(url), folder.path());
    assert_eq!((report.cost.0, report.open), (billed, 0), "seed {seed:#x}");
    let all = Trial::after(folder.path(), &seen).within(i128::from(BUDGET * PRICE));
    all.check(&format!("seed {seed:#x}"));
}
