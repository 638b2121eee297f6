//! The sections with every default, unit, bound and reason.

use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ConfigError, DeviceChoice, Journal};

/// One bounded number of the configuration, for documentation and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// `section.key`.
    pub key: &'static str,
    /// Unit of the value.
    pub unit: &'static str,
    /// Value when unset.
    pub default: u64,
    /// Smallest value allowed.
    pub min: u64,
    /// Largest value allowed.
    pub max: u64,
}

/// Declares a section: bounded numbers as `name: type = default, min..=max, unit`, other keys as `name: type = default`.
macro_rules! section {
    (
        $(#[$meta:meta])* $name:ident, $section:literal,
        numbers { $($(#[$nmeta:meta])* $number:ident: $nty:ty = $ndefault:expr, $min:expr, $max:expr, $unit:literal;)* }
        others { $($(#[$ometa:meta])* $other:ident: $oty:ty = $odefault:expr;)* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[$nmeta])* pub $number: $nty,)*
            $($(#[$ometa])* pub $other: $oty,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($number: $ndefault,)* $($other: $odefault,)* }
            }
        }

        impl $name {
            /// The section's bounded numbers.
            pub const BOUNDS: &'static [Bound] = &[$(Bound {
                key: concat!($section, ".", stringify!($number)),
                unit: $unit,
                default: $ndefault,
                min: $min,
                max: $max,
            },)*];

            /// Refuses the first number outside its bounds.
            pub(super) fn check_bounds(&self) -> Result<(), ConfigError> {
                let values = [$(u64::try_from(self.$number).unwrap_or(u64::MAX),)*];
                for (bound, value) in Self::BOUNDS.iter().zip(values) {
                    if !(bound.min..=bound.max).contains(&value) {
                        return Err(ConfigError::OutOfBounds {
                            key: bound.key.to_owned(), value, unit: bound.unit, min: bound.min, max: bound.max,
                        });
                    }
                }
                Ok(())
            }
        }
    };
}

pub(super) use section;

section! {
    /// Listeners, deadlines and sizes of the HTTP server.
    Server, "server",
    numbers {
        /// From the first byte of a connection or request to the end of its header; slow senders hold a socket for nothing.
        header_deadline_s: u64 = 10, 1, 300, "s";
        /// From the end of the header to the end of the body.
        body_deadline_s: u64 = 30, 1, 3600, "s";
        /// How long one write may wait for a client that does not read.
        write_deadline_s: u64 = 60, 1, 3600, "s";
        /// How long a kept-alive connection may idle between requests; above the 60 s of common load balancers.
        idle_deadline_s: u64 = 75, 1, 3600, "s";
        /// Request line and header together; hyper's own floor is 8 KiB.
        max_header_bytes: usize = 32_768, 8192, 1_048_576, "bytes";
        /// Header lines of a request.
        max_headers: usize = 64, 8, 1024, "lines";
        /// Body of a request: a long chat fits many times over.
        max_body_bytes: usize = 4_194_304, 1024, 268_435_456, "bytes";
        /// Open connections; a further one waits in the listen queue.
        max_connections: usize = 4096, 1, 1_000_000, "connections";
        /// How long live streams may go on after a request to stop.
        drain_seconds: u64 = 30, 0, 3600, "s";
        /// Silence after which a stream gets a comment line, below the 30 s at which proxies give up.
        heartbeat_seconds: u64 = 10, 1, 300, "s";
        /// Whole life of one request, queue included.
        request_deadline_s: u64 = 600, 1, 86_400, "s";
    }
    others {
        /// Where customers connect.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8080));
        /// Health, metrics and administration; keep it private.
        admin_listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8081));
    }
}

section! {
    /// Default limits of keys and projects, and bounds of a request's fields.
    Limits, "limits",
    numbers {
        /// Requests a key may make; also the burst.
        key_requests_per_minute: u32 = 600, 0, 10_000_000, "requests/min";
        /// Tokens a key may use; also the burst.
        key_tokens_per_minute: u32 = 1_000_000, 0, 4_000_000_000, "tokens/min";
        /// Requests of a key in flight.
        key_concurrency: u32 = 64, 0, 1_000_000, "requests";
        /// Requests all keys of a project may make together.
        project_requests_per_minute: u32 = 3000, 0, 10_000_000, "requests/min";
        /// Tokens all keys of a project may use together.
        project_tokens_per_minute: u32 = 5_000_000, 0, 4_000_000_000, "tokens/min";
        /// Requests of a project in flight.
        project_concurrency: u32 = 256, 0, 1_000_000, "requests";
        /// Requests all projects of an organisation may make together; unlimited unless set.
        organisation_requests_per_minute: u32 = 10_000_000, 0, 10_000_000, "requests/min";
        /// Tokens all projects of an organisation may use together; unlimited unless set.
        organisation_tokens_per_minute: u32 = 4_000_000_000, 0, 4_000_000_000, "tokens/min";
        /// Requests of an organisation in flight; unlimited unless set.
        organisation_concurrency: u32 = 1_000_000, 0, 1_000_000, "requests";
        /// Output tokens reserved and held at first; extended while decoding, so never the model's maximum at once.
        output_allowance_tokens: u32 = 256, 1, 1_000_000, "tokens";
        /// Output tokens of a choice that an answer is begun for where budget or balance pays for no more; fewer are refused.
        output_minimum_tokens: u32 = 16, 1, 1_000_000, "tokens";
        /// Once enough answers of a key and model are known, what this part of them stayed within is reserved instead.
        output_quantile_percent: u32 = 90, 1, 100, "%";
        /// Answers after which a key and model is known well enough.
        output_learn_after: u32 = 16, 1, 64, "answers";
        /// Most that is reserved at first of what was learned; long answers are covered as they come.
        output_learned_max_tokens: u32 = 4096, 1, 1_000_000, "tokens";
        /// Pairs of key and model that are remembered, about 200 bytes each; beyond it all are learned anew.
        output_learned_pairs: usize = 16_384, 1, 16_777_216, "pairs";
        /// Choices of one request; each is a sequence of its own.
        max_n: u32 = 8, 1, 128, "choices";
        /// Messages of a chat.
        max_messages: usize = 2048, 1, 100_000, "messages";
        /// Prompts of one completions request.
        max_prompts: usize = 16, 1, 1024, "prompts";
        /// Stop strings, as the public API allows.
        max_stop: usize = 4, 1, 64, "strings";
        /// Each stop string; the matcher holds back this much text.
        max_stop_bytes: usize = 512, 1, 65_536, "bytes";
        /// Entries of `logit_bias`.
        max_logit_bias: usize = 300, 0, 100_000, "entries";
        /// Alternatives of `top_logprobs`, as the public API allows.
        max_top_logprobs: u8 = 20, 0, 20, "tokens";
        /// Nesting of a request body.
        json_depth: usize = 64, 4, 127, "levels";
        /// Length of `user`, `safety_identifier` and the like.
        user_bytes: usize = 512, 1, 65_536, "bytes";
        /// Tools of one request, as the public API allows; all of them are written into the prompt.
        max_tools: usize = 128, 0, 10_000, "tools";
        /// Pairs of `metadata`.
        max_metadata: usize = 16, 0, 1024, "pairs";
    }
    others {}
}

section! {
    /// The batching engine.
    EngineSection, "engine",
    numbers {
        /// Sequences in one batch.
        max_num_seqs: usize = 64, 1, 4096, "sequences";
        /// Tokens of one step, prefill and decode together.
        max_batched_tokens: usize = 512, 1, 65_536, "tokens";
        /// Prompt tokens of one step while others decode; small keeps their tokens coming.
        prefill_chunk: usize = 64, 1, 65_536, "tokens";
        /// Tokens of one cache block.
        block_size: usize = 16, 8, 256, "tokens";
        /// Memory of the key-value cache, touched only as used.
        kv_cache_mib: usize = 384, 1, 1_048_576, "MiB";
        /// The same on a CUDA device; 0 takes nine tenths of what the weights leave free there, for one model.
        cuda_kv_cache_mib: usize = 0, 0, 1_048_576, "MiB";
        /// Requests waiting for a place in the batch.
        max_waiting: usize = 256, 1, 100_000, "requests";
        /// How long a request may wait there.
        queue_wait_s: u64 = 30, 1, 3600, "s";
        /// Events a stream buffers before its sequence pauses.
        stream_capacity: usize = 64, 1, 65_536, "events";
        /// Threads of the arithmetic; 0 takes one per core.
        threads: usize = 0, 0, 1024, "threads";
    }
    others {
        /// Where generating models run: "auto" (the first CUDA device, else the CPU), "cpu", or "cuda:0" and up.
        device: DeviceChoice = DeviceChoice::Auto;
        /// Reuse the cache of equal prompt beginnings within an organisation.
        prefix_cache: bool = true;
    }
}

section! {
    /// Service tiers, high to low `internal`, `reserved`, `priority`, `default`, `flex`, `batch`, and how tenants share one.
    Tiers, "tiers",
    numbers {
        /// Price of a tier without a `[[money.price]]`, as a part of the default price. The operator's own is list price.
        internal_price_percent: u32 = 100, 0, 1000, "%";
        /// The same for reserved capacity.
        reserved_price_percent: u32 = 100, 0, 1000, "%";
        /// The same for priority; the public platforms take 175 to 200.
        priority_price_percent: u32 = 175, 0, 1000, "%";
        /// The same for flex; the public platforms take half.
        flex_price_percent: u32 = 50, 0, 1000, "%";
        /// The same for batches, wanted within a day; the public platforms take half.
        batch_price_percent: u32 = 50, 0, 1000, "%";
        /// The same for batches that are wanted within an hour.
        batch_1h_price_percent: u32 = 75, 0, 1000, "%";
        /// The same within four hours.
        batch_4h_price_percent: u32 = 60, 0, 1000, "%";
        /// The same within a week.
        batch_7d_price_percent: u32 = 40, 0, 1000, "%";
        /// Most tokens of one step for all lower tiers together while `internal` computes. On a CPU each is felt; on a
        /// device whose small steps are bound by memory a few are free.
        internal_yield_tokens: usize = 0, 0, 65_536, "tokens";
        /// The same for `reserved`.
        reserved_yield_tokens: usize = 0, 0, 65_536, "tokens";
        /// The same for `priority`.
        priority_yield_tokens: usize = 32, 0, 65_536, "tokens";
        /// The same for `default`.
        default_yield_tokens: usize = 64, 0, 65_536, "tokens";
        /// The same for `flex`.
        flex_yield_tokens: usize = 64, 0, 65_536, "tokens";
        /// Steps without a token after which a sequence of `reserved` goes before all others; 0: it may starve.
        reserved_starvation_steps: u32 = 0, 0, 1_000_000_000, "steps";
        /// The same for `priority`.
        priority_starvation_steps: u32 = 64, 0, 1_000_000_000, "steps";
        /// The same for `default`.
        default_starvation_steps: u32 = 256, 0, 1_000_000_000, "steps";
        /// The same for `flex`.
        flex_starvation_steps: u32 = 2048, 0, 1_000_000_000, "steps";
        /// The same for `batch`.
        batch_starvation_steps: u32 = 0, 0, 1_000_000_000, "steps";
        /// Cost of a prompt token in the accounts by which tenants share a tier.
        prefill_cost: u32 = 1, 1, 1000, "cost";
        /// Cost of a generated token there; a step is faster per token when it has many.
        decode_cost: u32 = 2, 1, 1000, "cost";
        /// How far (cost / weight) a tenant may get ahead of one that waits before it gives up its place in the batch.
        drift: u32 = 4096, 1, 1_073_741_824, "cost";
    }
    others {
        /// Tiers that projects may use, unless `[[tiers.tenant]]` says otherwise.
        allowed: Vec<String> = ["default", "flex", "priority"].map(str::to_owned).into();
        /// Tier of requests that name none, or `auto`.
        default: String = "default".to_owned();
        /// Organisations and projects with a weight or tiers of their own.
        tenant: Vec<TenantRule> = Vec::new();
    }
}

/// What an organisation or a project has of its own; unset values are the general ones. A project's rule counts before
/// its organisation's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantRule {
    /// An organisation's name, or a project's as `organisation/project`.
    pub name: String,
    /// Its part of a tier, in relation to its siblings; 1 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Tiers that it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<Vec<String>>,
    /// Tier of its requests that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

section! {
    /// The ledger's writer.
    LedgerSection, "ledger",
    numbers {
        /// Commands waiting for the writer; beyond it callers wait, which is the signal to admit less.
        queue: usize = 8192, 1, 1_000_000, "commands";
        /// Commands of one commit.
        max_batch: usize = 512, 1, 65_536, "commands";
    }
    others {
        /// "behind": after a crash a stream is billed for what its client has or up to 32 tokens less. "ahead": never for
        /// less than that and at most 32 tokens more, at the price of one commit for each piece of a stream.
        journal: Journal = Journal::Behind;
    }
}

section! {
    /// Answers of the Responses surface that are kept.
    ResponsesSection, "responses",
    numbers {
        /// How long an answer can be fetched and gone on from, as the public API allows.
        ttl_days: u32 = 30, 1, 3650, "days";
        /// Text kept for one organisation; beyond it its oldest answers go.
        org_mib: usize = 256, 1, 1_048_576, "MiB";
        /// Earlier answers that one goes on from; all of them are read for it.
        max_chain: u32 = 512, 1, 100_000, "responses";
        /// Summary that stands for a compacted conversation; whatever goes on from it reads it again.
        compact_max_tokens: u32 = 1024, 1, 65_536, "tokens";
    }
    others {}
}

section! {
    /// Responses over WebSocket. A message is bounded as a body is, by `server.max_body_bytes`.
    WebSocketSection, "websocket",
    numbers {
        /// Life of a connection, as the public API allows: whoever serves it must be free to move it at some time.
        max_age_s: u64 = 3600, 1, 86_400, "s";
        /// Silence between answers after which it is closed: it holds a socket and what it remembers.
        idle_s: u64 = 600, 1, 86_400, "s";
        /// Time after a ping without any sign of life after which the client is taken for gone; pings go out as often
        /// as `server.heartbeat_seconds`.
        pong_deadline_s: u64 = 30, 1, 3600, "s";
        /// Open connections of one key: one serves one answer at a time, so as many as its requests in flight by default.
        max_per_key: u32 = 64, 1, 1_000_000, "connections";
        /// Conversation that a connection remembers of answers that are not kept; beyond it they cannot be gone on from.
        memory_kib: usize = 4096, 0, 1_048_576, "KiB";
    }
    others {}
}

/// One of several models served: an entry of `[[models]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRule {
    /// Name of its card, and of the model in the API.
    pub id: String,
    /// A weight file to use in place of the card's: GGUF, or safetensors with its companions beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// The model served, where it is the only one; several stand in `[[models]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// Name of its card, and of the model in the API.
    pub id: String,
    /// A weight file to use in place of the card's: GGUF, or safetensors with its companions beside it.
    pub path: Option<PathBuf>,
    /// Where pulled weights are kept; unset: `models` in the data directory.
    pub dir: Option<PathBuf>,
}

impl Default for ModelSection {
    fn default() -> Self {
        Self { id: super::money::DEMO_MODEL.to_owned(), path: None, dir: None }
    }
}

/// Where state lives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// Directory of accounts, ledger and models; made on first use.
    pub dir: PathBuf,
}

/// Makes `dir` and its parents, where missing, for this user alone: it holds the pepper of the keys and the bills.
///
/// # Errors
/// The file system's.
pub fn make_private_dir(dir: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

impl Default for Data {
    fn default() -> Self {
        Self { dir: PathBuf::from(".spillway") }
    }
}
