//! `spillway demo` and `spillway serve`: from a configuration to a server, and back to nothing.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use engine::{Embedder, EmbedderConfig, Engine};
use indicatif::MultiProgress;
use models::{ModelKind, Place};

use super::{Failure, fetch, place};
use crate::accounts::{Accounts, NewKey};
use crate::config::{Config, DEMO_EMBEDDER, EmbeddingSection, ModelRule};
use crate::node::Node;
use crate::registry::{Registry, Served};
use crate::server::Signals;
use crate::serving::unix_ms;

/// Threads for encoding long prompts.
const BLOCKING_THREADS: usize = 4;
/// Serves until a signal.
pub(super) fn run(mut config: Config, is_demo: bool) -> Result<(), Failure> {
    if is_demo {
        add_embedder(&mut config)?;
    }
    if config.engine.threads > 0 {
        rayon::ThreadPoolBuilder::new().num_threads(config.engine.threads).build_global()?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("http")
        .build()?;
    let _context = runtime.enter();
    let node = Node::open(&config, || start_models(&config))?;
    let key = if is_demo { demo_key(node.accounts())? } else { None };
    let signals = Signals::catch()?;
    announce(&config, node.addresses()?, is_demo, key.as_deref())?;
    runtime.block_on(node.serve(signals, &config))?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}

/// Fetches, loads and starts all models, side by side.
fn start_models(config: &Config) -> Result<Registry, Failure> {
    let bars = MultiProgress::new();
    let served = config.served();
    let place = place::open(config)?;
    let started: Result<Vec<Served>, Failure> = std::thread::scope(|scope| {
        let (bars, place) = (&bars, &place);
        let start = |rule| scope.spawn(move || start_model(rule, config, place, bars));
        let threads: Vec<_> = served.iter().map(start).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Served, Failure>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    });
    Ok(Registry::new(started?))
}

pub(super) fn start_model(
    rule: &ModelRule,
    config: &Config,
    place: &Place,
    bars: &MultiProgress,
) -> Result<Served, Failure> {
    let (card, path) = fetch::configured_model(rule, config, bars)?;
    let refused = |e: &dyn std::fmt::Display| format!("model {:?}: {e}", path.display());
    if card.kind != ModelKind::Chat {
        let loaded = models::load_encoder(&path, card).map_err(|e| refused(&e))?;
        let EmbeddingSection { max_batched_tokens, max_waiting_tokens, .. } = config.embedding;
        let embedder = EmbedderConfig { max_batched_tokens, max_waiting_tokens };
        let embedder = Embedder::start(loaded, embedder).map_err(|e| format!("[embedding]: {e}"))?;
        return Ok(Served::Embedder(embedder));
    }
    let loaded = models::load_on(&path, card, place, &|_| {}).map_err(|e| refused(&e))?;
    let engine_config = place::engine_config(config, loaded.model.config(), place)?;
    let engine = Engine::start(loaded, engine_config).map_err(|e| format!("[engine]: {e}"))?;
    Ok(Served::Engine(engine))
}

/// The demo serves an embedder too, unless the operator chose models or prices that leave it out.
fn add_embedder(config: &mut Config) -> Result<(), Failure> {
    let is_priced = config.rate_card()?.versions().iter().any(|version| version.model == DEMO_EMBEDDER);
    if config.models.is_empty() && is_priced {
        config.models = config.served();
        config.models.push(ModelRule { id: DEMO_EMBEDDER.to_owned(), path: None });
    }
    Ok(())
}

/// A key of the demo project, if there is none yet.
fn demo_key(accounts: &Accounts) -> Result<Option<String>, Failure> {
    if !accounts.list_keys()?.is_empty() {
        return Ok(None);
    }
    let new = NewKey { org: "demo".into(), project: "demo".into(), name: "demo".into(), ..NewKey::default() };
    Ok(Some(accounts.create_key(&new, unix_ms())?.secret))
}

/// The line that scripts wait for, and for people how to go on.
fn announce(
    config: &Config,
    (public, admin): (SocketAddr, SocketAddr),
    is_demo: bool,
    key: Option<&str>,
) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready http://{public} admin http://{admin}")?;
    if is_demo {
        let (data, model) = (config.data.dir.display(), &config.served()[0].id);
        match key {
            Some(key) => writeln!(out, "\nAPI key (shown this once): {key}")?,
            None => writeln!(
                out,
                "\nThe API key was shown at the first start. For another one:\n  \
                 spillway keys create --data {data} --project demo"
            )?,
        }
        writeln!(out, "{}", snippets(&format!("http://{public}/v1"), key.unwrap_or("$SPILLWAY_KEY"), model))?;
    }
    out.flush()?;
    Ok(())
}

fn snippets(url: &str, key: &str, model: &str) -> String {
    let python_key =
        if key.starts_with('$') { "os.environ[\"SPILLWAY_KEY\"]".to_owned() } else { format!("\"{key}\"") };
    format!(
        r#"
  curl -N {url}/chat/completions -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \
    -d '{{"model": "{model}", "stream": true, "stream_options": {{"include_usage": true}}, "max_tokens": 64, "messages": [{{"role": "user", "content": "Write one sentence about rivers."}}]}}'

  # pip install openai
  import os
  from openai import OpenAI
  client = OpenAI(base_url="{url}", api_key={python_key})
  stream = client.chat.completions.create(model="{model}", stream=True, max_tokens=64, messages=[{{"role": "user", "content": "Tell me a joke."}}])
  for chunk in stream:
      print(chunk.choices[0].delta.content or "", end="", flush=True)

Ctrl-C ends it; running streams are finished first.
"#
    )
}
