//! Several gateways together: where they keep what they share.
//!
//! ```toml
//! [fleet]
//! gateways = 3
//! redis_url = "redis://10.0.0.5:6379"                       # limits
//! postgres_url = "postgres://spillway@10.0.0.5/spillway"    # money
//! ```
//!
//! Accounts, files, batches and kept answers stay with each gateway. A ledger that is there already moves with
//! `spillway ledger copy --from .spillway --to postgres://spillway@10.0.0.5/spillway`, while no gateway runs.

use serde::{Deserialize, Serialize};

use super::sections::{Bound, section};
use super::{ConfigError, invalid};

section! {
    /// Several gateways that keep limits and money together.
    FleetSection, "fleet",
    numbers {
        /// Gateways of the fleet, at most: while Redis is away each admits its part of every limit.
        gateways: u32 = 2, 1, 10_000, "gateways";
        /// Part of a limit that a gateway takes ahead, so that it need not ask for each request; all gateways together may
        /// go beyond a limit by this much each. Limits so small that the part is below one are asked for each time.
        lease_percent: u32 = 2, 0, 50, "%";
        /// How long a request may wait for Redis; then it is as if Redis were away.
        timeout_ms: u64 = 50, 1, 10_000, "ms";
        /// How long places of requests in flight stay taken after their gateway was last heard of.
        place_ttl_s: u64 = 10, 1, 600, "s";
    }
    others {
        /// Where the common limits are, as `redis://[user:password@]host[:port][/database]` (no TLS, no cluster; it should
        /// not evict keys); unset: each gateway limits alone.
        redis_url: Option<String> = None;
        /// The common ledger, as `postgres://user:password@host[:port]/database` (no TLS); unset: `ledger.db` in the data
        /// directory. With it `ledger.db` is a copy that reports are read from, a moment behind.
        postgres_url: Option<String> = None;
        /// Begins the names of all keys there.
        redis_prefix: String = "spillway".to_owned();
    }
}

impl FleetSection {
    /// Bounds and addresses; an address is not repeated in a refusal, it may hold a password.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        self.check_bounds()?;
        if let Some(url) = &self.redis_url {
            let scheme = url.split(':').next().unwrap_or_default();
            if !["redis", "redis+unix", "unix"].contains(&scheme) {
                let message = "must begin with redis:// (TLS is not built in; use a tunnel or a local proxy)";
                return Err(invalid("fleet.redis_url", &format!("{scheme}:…"), message));
            }
        }
        if let Some(url) = &self.postgres_url
            && !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme))
        {
            let scheme = url.split(':').next().unwrap_or_default();
            let message = "must begin with postgres://";
            return Err(invalid("fleet.postgres_url", &format!("{scheme}:…"), message));
        }
        if self.redis_prefix.is_empty() || self.redis_prefix.len() > 64 {
            return Err(invalid("fleet.redis_prefix", &self.redis_prefix, "must be 1 to 64 bytes"));
        }
        Ok(())
    }
}
