//! What a batch is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::BatchWindow;

/// Where a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Its input is being read.
    Validating,
    /// Its input cannot be used.
    Failed,
    /// Its lines are being done.
    InProgress,
    /// Its files are being written.
    Finalizing,
    /// All lines have their answer.
    Completed,
    /// Its time was over before that.
    Expired,
    /// Somebody wants no more of it.
    Cancelling,
    /// It was ended.
    Cancelled,
}

impl Status {
    /// The spelling in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Validating => "validating",
            Status::Failed => "failed",
            Status::InProgress => "in_progress",
            Status::Finalizing => "finalizing",
            Status::Completed => "completed",
            Status::Expired => "expired",
            Status::Cancelling => "cancelling",
            Status::Cancelled => "cancelled",
        }
    }

    /// Nothing comes after it.
    pub fn is_final(self) -> bool {
        matches!(self, Status::Failed | Status::Completed | Status::Expired | Status::Cancelled)
    }
}

/// The route that all lines of a batch are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Endpoint {
    /// Conversations.
    #[serde(rename = "/v1/chat/completions")]
    Chat,
    /// Prompts.
    #[serde(rename = "/v1/completions")]
    Completions,
    /// Vectors.
    #[serde(rename = "/v1/embeddings")]
    Embeddings,
    /// The Responses surface.
    #[serde(rename = "/v1/responses")]
    Responses,
}

impl Endpoint {
    /// All of them.
    pub const ALL: [Endpoint; 4] =
        [Endpoint::Chat, Endpoint::Completions, Endpoint::Embeddings, Endpoint::Responses];

    /// The route.
    pub fn path(self) -> &'static str {
        match self {
            Endpoint::Chat => "/v1/chat/completions",
            Endpoint::Completions => "/v1/completions",
            Endpoint::Embeddings => "/v1/embeddings",
            Endpoint::Responses => "/v1/responses",
        }
    }

    /// The one with this route.
    pub fn at(path: &str) -> Option<Endpoint> {
        Self::ALL.into_iter().find(|endpoint| endpoint.path() == path)
    }
}

/// A mistake in an input file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InputError {
    /// What kind.
    pub code: String,
    /// What to do about it.
    pub message: String,
    /// The line's field at fault.
    pub param: Option<String>,
    /// The line, counted from 1; absent where it is about the file.
    pub line: Option<u32>,
}

/// How far a batch is, and what it has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lines.
    pub total: u32,
    /// Lines with an answer.
    pub completed: u32,
    /// Lines with an error, or without an answer at the end.
    pub failed: u32,
    /// Billed prompt tokens that were computed.
    pub uncached_input: u64,
    /// Billed prompt tokens that were found in the prefix cache.
    pub cached_input: u64,
    /// Billed tokens that were generated.
    pub output: u64,
    /// Cost of all of them, pico-USD.
    pub cost_picos: i64,
}

/// A batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// `batch_...`.
    pub id: String,
    /// Whose limits it counts against.
    pub org_id: String,
    /// Whose it is; nobody else sees it.
    pub project_id: String,
    /// The key that it is done and billed for.
    pub key_id: String,
    /// What its lines ask for.
    pub endpoint: Endpoint,
    /// How long it may take.
    pub window: BatchWindow,
    /// Its lines.
    pub input_file_id: String,
    /// Their answers, once there are some.
    pub output_file_id: Option<String>,
    /// Their errors, once there are some.
    pub error_file_id: Option<String>,
    /// Model of the first line.
    pub model: Option<String>,
    /// Where it is.
    pub status: Status,
    /// When it was asked for, Unix milliseconds.
    pub created_ms: u64,
    /// When its time is over.
    pub expires_ms: u64,
    /// When it came to each state.
    pub reached: BTreeMap<Status, u64>,
    /// Lifetime of its output files, seconds; absent: the server's.
    pub output_ttl_s: Option<u64>,
    /// The caller's own tags.
    pub metadata: Option<Value>,
    /// What is wrong with its input.
    pub errors: Vec<InputError>,
    /// How far it is; kept beside the rest, because it changes with every line.
    #[serde(skip)]
    pub counts: Counts,
}
