//! The connection to Redis and the script.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, Script};

use super::ask::{Ask, Grant};

/// How long making a connection may take; nobody waits for it.
const CONNECT: Duration = Duration::from_secs(2);
/// Numbers in the answer for each scope.
const FIELDS: usize = 6;

pub(super) struct Link {
    client: Client,
    script: Script,
    connection: Mutex<Option<MultiplexedConnection>>,
    timeout: Duration,
    prefix: String,
    /// Names this process among all gateways.
    gateway: String,
    place_ttl: Duration,
}

/// What the script said.
pub(super) struct Answer {
    pub(super) taken: bool,
    /// One for each scope asked for.
    pub(super) grants: Vec<Grant>,
}

/// Redis cannot be asked now.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("not connected")]
    Away,
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("unexpected answer of {0} numbers")]
    Answer(usize),
}

impl Link {
    pub(super) fn new(
        client: Client,
        prefix: String,
        gateway: String,
        timeout: Duration,
        place_ttl: Duration,
    ) -> Self {
        let script = Script::new(include_str!("take.lua"));
        Self { client, script, connection: Mutex::default(), timeout, prefix, gateway, place_ttl }
    }

    pub(super) fn place_ttl(&self) -> Duration {
        self.place_ttl
    }

    /// Connects anew, in place of any earlier connection.
    pub(super) async fn connect(&self) -> Result<(), LinkError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(CONNECT));
        let made = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        *self.lock() = Some(made);
        Ok(())
    }

    pub(super) fn disconnect(&self) {
        self.lock().take();
    }

    /// Runs the script over `asks`, within the time that a request may be kept waiting.
    pub(super) async fn call(&self, asks: &[Ask]) -> Result<Answer, LinkError> {
        self.call_within(asks, self.timeout).await
    }

    /// As [`Link::call`] where no request waits.
    pub(super) async fn call_patiently(&self, asks: &[Ask]) -> Result<Answer, LinkError> {
        self.call_within(asks, CONNECT).await
    }

    async fn call_within(&self, asks: &[Ask], limit: Duration) -> Result<Answer, LinkError> {
        let mut connection = self.lock().clone().ok_or(LinkError::Away)?;
        let mut invocation = self.script.prepare_invoke();
        invocation.key(format!("{}:born", self.prefix));
        invocation.arg(&self.gateway).arg(u64::try_from(self.place_ttl.as_millis()).unwrap_or(u64::MAX));
        for ask in asks {
            invocation.key(format!("{}:limit:{}", self.prefix, ask.id));
            for number in ask.numbers() {
                invocation.arg(number);
            }
        }
        let answer = invocation.invoke_async::<Vec<i64>>(&mut connection);
        let numbers = tokio::time::timeout(limit, answer).await.map_err(|_| LinkError::Timeout(limit))??;
        if numbers.len() != 1 + FIELDS * asks.len() {
            return Err(LinkError::Answer(numbers.len()));
        }
        let grants = numbers[1..].chunks_exact(FIELDS).map(Grant::read).collect();
        Ok(Answer { taken: numbers[0] == 1, grants })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<MultiplexedConnection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
