//! `spillway demo` and `spillway serve`: from a configuration to a server, and back to nothing.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use engine::{Embedder, EmbedderConfig, Engine};
use indicatif::MultiProgress;
use models::{ModelKind, Place};
use tokio::net::TcpListener;

use super::{Failure, fetch, place};
use crate::accounts::{Accounts, NewKey};
use crate::alerts::{Hook, watch};
use crate::api::{Api, Kept};
use crate::app;
use crate::batches::Batches;
use crate::capacity::Capacity;
use crate::config::{Config, DEMO_EMBEDDER, EmbeddingSection, ModelRule, make_private_dir};
use crate::files::Files;
use crate::guard::Guard;
use crate::idempotency::Idempotency;
use crate::ledger::{Ledger, LedgerError, copy, mirror::Mirror, was_billed};
use crate::receipts::Signer;
use crate::registry::{Registry, Served};
use crate::responses::Store;
use crate::server::{self, Options, Signals};
use crate::serving::{Lifecycle, Rates, Serving, unix_ms, upkeep};

/// Threads for encoding long prompts.
const BLOCKING_THREADS: usize = 4;
/// How long files may stay on the disk after their time; nobody sees them.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Serves until a signal.
pub(super) fn run(mut config: Config, is_demo: bool) -> Result<(), Failure> {
    if is_demo {
        add_embedder(&mut config)?;
    }
    make_private_dir(&config.data.dir).map_err(|e| format!("data.dir = {:?}: {e}", config.data.dir))?;
    if config.engine.threads > 0 {
        rayon::ThreadPoolBuilder::new().num_threads(config.engine.threads).build_global()?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("http")
        .build()?;
    let _context = runtime.enter();
    // What can be refused at once comes before what takes time.
    let listener = bind("server.listen", config.server.listen)?;
    let admin = bind("server.admin_listen", config.server.admin_listen)?;
    let accounts = Accounts::open_with(&config.data.dir, &config.money.budget)?;
    let batches = Batches::open(&config.data.dir, &config.batches, unix_ms())?;
    let (ledger, mirror) = open_ledger(&config, &batches)?;
    let kept = open_kept(&config, batches)?;
    let signer = Signer::open(&config.data.dir)?;
    let models = start_models(&config)?;
    let key = if is_demo { demo_key(&accounts)? } else { None };
    let lifecycle = Lifecycle::default();
    let rates = Rates::new(&config, &accounts.list_prices()?)?;
    let mut serving = Serving::new(ledger.clone(), rates, &config, lifecycle.clone());
    serving.limiter = serving.limiter.join(&config.fleet)?;
    let guard = Guard::new(&config.guard).map_err(|e| format!("[guard]: {e}"))?;
    let api = Arc::new(Api::new(accounts, Arc::new(serving), kept, models.clone(), guard, signer, &config));
    let addresses = (listener.local_addr()?, admin.local_addr()?);
    let signals = Signals::catch()?;
    announce(&config, addresses, is_demo, key.as_deref())?;
    runtime.block_on(serve(api, (listener, admin), signals, &config))?;
    // Whatever a dropped stream left behind is in the ledger's queue by now.
    models.shutdown();
    ledger.close();
    drop(mirror);
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}

/// What is kept beside accounts and ledger.
fn open_kept(config: &Config, batches: Batches) -> Result<Kept, Failure> {
    let dir = &config.data.dir;
    let billed = |id: &str| was_billed(dir, id).map_err(|error| error.to_string());
    Ok(Kept {
        responses: Arc::new(Store::open(dir, &config.responses, unix_ms())?),
        idempotency: Idempotency::open(dir, &config.idempotency, billed)?,
        files: Files::open(dir, &config.files, unix_ms())?,
        batches,
        capacity: Capacity::load(dir).map_err(|e| format!("capacity.json: {e}"))?,
    })
}

/// The ledger, and with a shared one what keeps this gateway's copy for reports. Lines of batches that are kept but not
/// billed are billed now.
fn open_ledger(config: &Config, batches: &Batches) -> Result<(Ledger, Option<Mirror>), Failure> {
    let finished = |request_id: &str| {
        batches.finished(request_id).map_err(|error| LedgerError::Unavailable(error.to_string()))
    };
    let Some(url) = &config.fleet.postgres_url else {
        let ledger = Ledger::open_with(&config.data.dir, &config.ledger, unix_ms(), &finished)?;
        return Ok((ledger, None));
    };
    let ledger = Ledger::open_shared(url, &config.ledger, unix_ms(), &finished)?;
    let from = copy::Place::Postgres(url.clone());
    let mirror = Mirror::start(&from, &config.data.dir, ledger.clone())?;
    Ok((ledger, Some(mirror)))
}

/// Removes what has expired, now and then.
async fn sweep(api: Arc<Api>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let api = Arc::clone(&api);
        let swept = tokio::task::spawn_blocking(move || {
            api.files.sweep(unix_ms())?;
            api.batches.sweep(unix_ms())?;
            Ok::<(), Failure>(())
        });
        if let Ok(Err(error)) = swept.await {
            tracing::error!(error, "what has expired cannot be removed");
        }
    }
}

/// Serves until the last connection has ended after a signal.
async fn serve(
    api: Arc<Api>,
    (listener, admin): (TcpListener, TcpListener),
    signals: Signals,
    config: &Config,
) -> Result<(), Failure> {
    let options = Options::of(&config.server);
    let lifecycle = api.serving.lifecycle.clone();
    let drain = Duration::from_secs(config.server.drain_seconds);
    let signals = tokio::spawn(signals.drive(lifecycle.clone(), drain));
    let public = app::public(Arc::clone(&api), config.server.max_headers, config.server.max_header_bytes);
    // It outlives the drain, which is worth watching; its own lifecycle never ends.
    let private = app::admin(Arc::clone(&api), config.server.max_headers, config.server.max_header_bytes);
    let private = tokio::spawn(server::serve(admin, private, options, Lifecycle::default()));
    let hook = Hook::new(&config.alerts)?;
    let alerts = hook.map(|hook| tokio::spawn(watch(hook, api.accounts.clone(), config.data.dir.clone())));
    let upkeep = tokio::spawn(upkeep(Arc::clone(&api.serving), api.accounts.clone()));
    api.runner.resume(&api)?;
    let sweeper = tokio::spawn(sweep(Arc::clone(&api)));
    tokio::spawn(server::serve(listener, public, options, lifecycle)).await?;
    // Answers without a connection are streams like all others: they end by themselves, or when they are cut.
    api.background.idle().await;
    api.idempotency.idle().await;
    api.runner.idle().await;
    sweeper.abort();
    signals.abort();
    private.abort();
    upkeep.abort();
    if let Some(alerts) = alerts {
        alerts.abort();
    }
    api.accounts.save_last_used()?;
    tracing::info!("ended");
    Ok(())
}

fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    server::bind(address).map_err(|e| format!("{key} = \"{address}\": cannot listen there: {e}").into())
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
