//! One gateway: everything that serves, opened from a configuration and its models, and closed again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::accounts::Accounts;
use crate::alerts::{Hook, watch};
use crate::api::{Api, Kept};
use crate::app;
use crate::batches::Batches;
use crate::capacity::Capacity;
use crate::config::{Config, make_private_dir};
use crate::files::Files;
use crate::guard::Guard;
use crate::idempotency::Idempotency;
use crate::leases::{Leases, sellable_units};
use crate::ledger::{Ledger, LedgerError, copy, mirror::Mirror, was_billed};
use crate::receipts::Signer;
use crate::registry::Registry;
use crate::responses::Store;
use crate::server::{self, Options, Signals};
use crate::serving::{Lifecycle, Rates, Serving, unix_ms, upkeep};

/// How long files may stay on the disk after their time; nobody sees them.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Why a gateway cannot be opened or has failed; names the setting or the file.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A gateway whose ports are bound and that answers nobody yet.
pub struct Node {
    api: Arc<Api>,
    ledger: Ledger,
    mirror: Option<Mirror>,
    models: Registry,
    public: TcpListener,
    admin: TcpListener,
}

impl Node {
    /// Opens what `config` names. What can be refused at once comes before `start_models`, which may take long. Needs
    /// the runtime's context, on a thread that runs no futures.
    ///
    /// # Errors
    /// A port, a file, a store or a model cannot be used.
    pub fn open(
        config: &Config,
        start_models: impl FnOnce() -> Result<Registry, Failure>,
    ) -> Result<Self, Failure> {
        let dir = &config.data.dir;
        make_private_dir(dir).map_err(|e| format!("data.dir = {dir:?}: {e}"))?;
        let public = bind("server.listen", config.server.listen)?;
        let admin = bind("server.admin_listen", config.server.admin_listen)?;
        let accounts = Accounts::open_with(dir, &config.money.budget)?;
        let batches = Batches::open(dir, &config.batches, unix_ms())?;
        let (ledger, mirror) = open_ledger(config, &batches)?;
        let kept = open_kept(config, batches)?;
        let signer = Signer::open(dir)?;
        let models = start_models()?;
        let rates = Rates::new(config, &accounts.list_prices()?)?;
        let mut serving = Serving::new(ledger.clone(), rates, config, Lifecycle::default());
        serving.limiter = serving.limiter.join(&config.fleet)?;
        serving.leases = open_leases(config, &models, kept.capacity.as_ref())?;
        serving.capacity.clone_from(&kept.capacity);
        let guard = Guard::new(&config.guard).map_err(|e| format!("[guard]: {e}"))?;
        let api = Api::new(accounts, Arc::new(serving), kept, models.clone(), guard, signer, config);
        Ok(Self { api: Arc::new(api), ledger, mirror, models, public, admin })
    }

    /// Who may ask for what.
    pub fn accounts(&self) -> &Accounts {
        &self.api.accounts
    }

    /// Where it listens: for customers, and for operators.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn addresses(&self) -> std::io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.public.local_addr()?, self.admin.local_addr()?))
    }

    /// Serves until the last connection has ended after a signal, then closes everything.
    ///
    /// # Errors
    /// What was kept for later cannot be read or written.
    pub async fn serve(self, signals: Signals, config: &Config) -> Result<(), Failure> {
        let Self { api, ledger, mirror, models, public, admin } = self;
        serve(api, (public, admin), signals, config).await?;
        let close = move || {
            // Whatever a dropped stream left behind is in the ledger's queue by now.
            models.shutdown();
            ledger.close();
            drop(mirror);
        };
        Ok(tokio::task::spawn_blocking(close).await?)
    }
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

/// What is leased. Leases that were made go on where no new ones are offered; a fleet has none.
fn open_leases(
    config: &Config,
    models: &Registry,
    capacity: Option<&Capacity>,
) -> Result<Option<Leases>, Failure> {
    if config.fleet.redis_url.is_some() || config.fleet.postgres_url.is_some() {
        return Ok(None);
    }
    let target_ms = f64::from(config.capacity.inter_token_ms);
    let sellable = models.iter().filter_map(|served| {
        let card = served.card();
        let measured = capacity?.of(&card.id, &card.sha256)?;
        Some((card.id.clone(), sellable_units(measured, target_ms, &config.leases)))
    });
    Ok(Some(Leases::open(&config.data.dir, &config.leases, sellable.collect())?))
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
    if let Some(leases) = &api.serving.leases {
        leases.recover(&api.serving.ledger, unix_ms()).await?;
    }
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
