//! The servers: a gateway with a model that costs nothing, one that only answers, and a peer's proxy in front of that.

use std::io::{BufRead, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::any;
use engine::EngineConfig;
use engine::testing::FakeModel;
use gateway::accounts::{Accounts, KeyLimits, NewKey};
use gateway::config::{Allowance, Config, ModelRule};
use gateway::node::{Failure, Node};
use gateway::registry::{Registry, Served};
use gateway::server::{self, Options, Signals};
use gateway::serving::{Lifecycle, unix_ms};
use serde_json::json;

/// What every answer says where nothing is computed.
const MODEL: &str = "fake";
/// For the peer, which starts slowly.
const START_LIMIT: Duration = Duration::from_secs(120);

/// A server in a process of its own; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) key: String,
    _data: Option<tempfile::TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of a process, seconds: in all, and of its thread that stands for the model.
#[derive(Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) all: f64,
    pub(crate) engine: f64,
}

impl Server {
    /// The gateway, with its ledger in a folder under `place`.
    pub(crate) fn gateway(name: &'static str, place: &Path, step: Duration) -> Result<Self, Failure> {
        let data = tempfile::Builder::new().prefix("spillway-bench-").tempdir_in(place)?;
        let new = NewKey {
            org: "bench".to_owned(),
            project: "bench".to_owned(),
            name: "bench".to_owned(),
            limits: KeyLimits {
                requests_per_minute: Some(10_000_000),
                tokens_per_minute: Some(4_000_000_000),
                concurrency: Some(100_000),
            },
            budgets: vec!["1000".parse::<Allowance>()?, "1000/day".parse()?],
            ..NewKey::default()
        };
        let key = Accounts::open(data.path())?.create_key(&new, unix_ms())?.secret;
        let step = step.as_micros().to_string();
        let arguments = ["serve".as_ref(), data.path().as_os_str(), step.as_ref()];
        let mut server = Self::own(name, &arguments)?;
        (server.key, server._data) = (key, Some(data));
        Ok(server)
    }

    /// Answers every request with the same text.
    pub(crate) fn bare() -> Result<Self, Failure> {
        Self::own("bare", &["bare".as_ref()])
    }

    fn own(name: &'static str, arguments: &[&std::ffi::OsStr]) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.args(arguments).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let address = line.trim().parse().map_err(|_| format!("{name} did not start: {line}"))?;
        Ok(Self { child, name, address, key: String::new(), _data: None })
    }

    /// LiteLLM's proxy from a Python environment, in front of `upstream`, with one worker and its costs by callback.
    pub(crate) fn litellm(environment: &Path, upstream: SocketAddr) -> Result<Self, Failure> {
        let data = tempfile::tempdir()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let settings = json!({
            "model_list": [{"model_name": MODEL, "litellm_params": {
                "model": "openai/fake", "api_base": format!("http://{upstream}/v1"), "api_key": "none",
                "input_cost_per_token": 1e-7, "output_cost_per_token": 4e-7,
            }}],
            "general_settings": {"master_key": "sk-bench"},
            "litellm_settings": {"max_budget": 1000, "budget_duration": "30d", "telemetry": false},
        });
        let file = data.path().join("config.yaml");
        std::fs::write(&file, settings.to_string())?;
        let port = address.port().to_string();
        let child = Command::new(environment.join("bin/litellm"))
            .args(["--host", "127.0.0.1", "--port", &port, "--num_workers", "1", "--config"])
            .arg(&file)
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
            .env("LITELLM_LOG", "ERROR")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let key = "sk-bench".to_owned();
        let server = Self { child, name: "LiteLLM", address, key, _data: Some(data) };
        let begin = Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            if begin.elapsed() > START_LIMIT {
                return Err(format!("LiteLLM did not listen within {START_LIMIT:?}").into());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(server)
    }

    pub(crate) fn model(&self) -> &'static str {
        MODEL
    }

    /// CPU time so far, user and system.
    pub(crate) fn cpu(&self) -> Cpu {
        let mut cpu = Cpu { all: 0.0, engine: 0.0 };
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        for task in tasks.into_iter().flatten().flatten() {
            let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let stat = read("stat");
            // After the name, which may hold spaces: field 3 and on; 14 and 15 are user and system time in ticks.
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            let ticks = |i: usize| fields.get(i).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
            let seconds = (ticks(11) + ticks(12)) / 100.0;
            cpu.all += seconds;
            if read("comm").trim() == "engine" {
                cpu.engine += seconds;
            }
        }
        cpu
    }

    /// Memory in use, KiB.
    pub(crate) fn rss_kib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse().unwrap_or(0.0)
    }
}

/// This process as the gateway on `data`, whose model takes `step_us` for a step.
pub(crate) fn serve(data: PathBuf, step_us: u64) -> Result<(), Failure> {
    let mut config = Config::default();
    config.data.dir = data;
    config.server.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.server.admin_listen = config.server.listen;
    config.server.max_connections = 16_384;
    config.models = vec![ModelRule { id: MODEL.to_owned(), path: None }];
    config.limits.project_requests_per_minute = 10_000_000;
    config.limits.project_tokens_per_minute = 4_000_000_000;
    config.limits.project_concurrency = 100_000;
    config.limits.organisation_concurrency = 100_000;
    let prices = [("uncached_input", "0.10"), ("cached_input", "0.05"), ("output", "0.40")];
    let price = prices.map(|(name, usd)| format!("{name} = \"{usd}\"")).join("\n");
    config.money.price = vec![toml::from_str(&format!("model = \"{MODEL}\"\ntier = \"default\"\n{price}"))?];
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("http").build()?;
    let _context = runtime.enter();
    let engine = EngineConfig {
        max_num_seqs: 4_096,
        max_batched_tokens: 65_536,
        prefill_chunk: 65_536,
        max_waiting: 16_384,
        num_blocks: 65_536,
        ..EngineConfig::default()
    };
    let model = FakeModel { delay: Duration::from_micros(step_us), ..FakeModel::default() };
    let node = Node::open(&config, || Ok(Registry::new(vec![Served::Engine(model.start(engine))])))?;
    tell(node.addresses()?.0)?;
    runtime.block_on(node.serve(Signals::catch()?, &config))
}

/// This process as a server that does nothing but HTTP.
pub(crate) fn bare() -> Result<(), Failure> {
    let answer = json!({
        "id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": MODEL,
        "choices": [{"index": 0, "finish_reason": "length", "logprobs": null,
                     "message": {"role": "assistant", "content": "w", "refusal": null}}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 1, "total_tokens": 31},
    })
    .to_string();
    let reply = any(move |body: axum::body::Bytes| {
        let answer = answer.clone();
        async move {
            drop(body);
            ([(CONTENT_TYPE, "application/json")], answer)
        }
    });
    let mut config = Config::default().server;
    config.max_connections = 16_384;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let _context = runtime.enter();
    let listener = server::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    tell(listener.local_addr()?)?;
    let router = Router::new().fallback(reply);
    runtime.block_on(server::serve(listener, router, Options::of(&config), Lifecycle::default()));
    Ok(())
}

fn tell(address: SocketAddr) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{address}")?;
    Ok(out.flush()?)
}
