//! Files and batches in the document.

use std::collections::HashMap;

use utoipa::{IntoParams, ToSchema};

/// A file and what it is for.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileForm {
    /// The file; its name is kept.
    #[schema(value_type = String, format = Binary)]
    pub file: Vec<u8>,
    /// What it is for.
    pub purpose: UploadPurpose,
    /// `created_at`; only with the next field.
    #[serde(rename = "expires_after[anchor]")]
    pub anchor: Option<String>,
    /// Lifetime, seconds.
    #[serde(rename = "expires_after[seconds]")]
    #[schema(minimum = 3600, maximum = 2_592_000)]
    pub seconds: Option<i32>,
}

/// What a file is uploaded for.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UploadPurpose {
    /// Requests of a batch, one a line.
    Batch,
    /// Whatever its owner wants.
    UserData,
}

/// What a file is for.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FilePurpose {
    /// Requests of a batch, one a line.
    Batch,
    /// Answers or errors of a batch.
    BatchOutput,
    /// Whatever its owner wants.
    UserData,
}

/// A file.
#[derive(ToSchema)]
#[schema(as = File)]
pub struct FileObject {
    /// `file-...`.
    pub id: String,
    /// `file`.
    pub object: String,
    /// Its size.
    pub bytes: u64,
    /// Unix seconds.
    pub created_at: u64,
    /// When it goes, Unix seconds; null: never by itself.
    #[schema(required)]
    pub expires_at: Option<u64>,
    /// Its name.
    pub filename: String,
    /// What it is for.
    pub purpose: FilePurpose,
    /// `processed`.
    pub status: String,
    /// Null.
    #[schema(required)]
    pub status_details: Option<String>,
}

/// Which files to list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FileQuery {
    /// Only those of one purpose.
    #[param(inline)]
    pub purpose: Option<FilePurpose>,
    /// Files of a page.
    #[param(minimum = 1, maximum = 10_000)]
    pub limit: Option<u32>,
    /// Id of the last file that is known.
    pub after: Option<String>,
    /// `desc`, the newest first, or `asc`.
    pub order: Option<String>,
}

/// What was deleted.
#[derive(ToSchema)]
pub struct DeletedFile {
    /// Its id.
    pub id: String,
    /// `file`.
    pub object: String,
    /// `true`.
    pub deleted: bool,
}

/// Many requests in a file.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "input_file_id": "file-0123456789abcdef01234567", "endpoint": "/v1/chat/completions", "completion_window": "24h",
}))]
pub struct BatchRequest {
    /// A file of the purpose `batch`: lines `{"custom_id": ..., "method": "POST", "url": ..., "body": {...}}`.
    #[schema(max_length = 128)]
    pub input_file_id: String,
    /// What all lines ask for.
    pub endpoint: BatchEndpoint,
    /// How long it may take; longer is cheaper.
    pub completion_window: CompletionWindow,
    /// How long its files are kept.
    pub output_expires_after: Option<OutputExpiry>,
    /// Pairs that the batch gives back.
    pub metadata: Option<HashMap<String, String>>,
}

/// Routes that a batch can ask.
#[derive(ToSchema)]
pub enum BatchEndpoint {
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

/// How long a batch may take.
#[derive(ToSchema)]
pub enum CompletionWindow {
    /// An hour.
    #[serde(rename = "1h")]
    Hour,
    /// Four hours.
    #[serde(rename = "4h")]
    FourHours,
    /// A day.
    #[serde(rename = "24h")]
    Day,
    /// A week.
    #[serde(rename = "7d")]
    Week,
}

/// How long a batch's files are kept.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputExpiry {
    /// `created_at`.
    pub anchor: String,
    /// Seconds.
    #[schema(minimum = 3600, maximum = 2_592_000)]
    pub seconds: i32,
}

/// A batch.
#[derive(ToSchema)]
#[schema(as = Batch)]
pub struct BatchObject {
    /// `batch_...`.
    pub id: String,
    /// `batch`.
    pub object: String,
    /// What its lines ask for.
    pub endpoint: BatchEndpoint,
    /// Model of its lines, once they were read.
    pub model: Option<String>,
    /// Mistakes in its input.
    pub errors: Option<BatchErrors>,
    /// Its lines.
    pub input_file_id: String,
    /// How long it may take.
    pub completion_window: CompletionWindow,
    /// Where it is.
    pub status: BatchStatus,
    /// Answers, once it has ended.
    pub output_file_id: Option<String>,
    /// Errors, once it has ended.
    pub error_file_id: Option<String>,
    /// Unix seconds, like the times below.
    pub created_at: u64,
    /// When its first line could begin.
    pub in_progress_at: Option<u64>,
    /// When its time is over.
    pub expires_at: u64,
    /// When its lines were done.
    pub finalizing_at: Option<u64>,
    /// When its files were there.
    pub completed_at: Option<u64>,
    /// When its input was found unusable.
    pub failed_at: Option<u64>,
    /// When its time was over.
    pub expired_at: Option<u64>,
    /// When somebody wanted no more of it.
    pub cancelling_at: Option<u64>,
    /// When it was ended.
    pub cancelled_at: Option<u64>,
    /// How far it is.
    pub request_counts: BatchCounts,
    /// What it has used.
    pub usage: BatchUsage,
    /// The caller's own tags.
    pub metadata: Option<HashMap<String, String>>,
}

/// Mistakes in a batch's input.
#[derive(ToSchema)]
pub struct BatchErrors {
    /// `list`.
    pub object: String,
    /// The first of them.
    pub data: Vec<crate::batches::InputError>,
}

/// Where a batch is.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchStatus {
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

/// How far a batch is.
#[derive(ToSchema)]
pub struct BatchCounts {
    /// Lines.
    pub total: u32,
    /// Lines with an answer.
    pub completed: u32,
    /// Lines with an error.
    pub failed: u32,
}

/// What a batch has used.
#[derive(ToSchema)]
pub struct BatchUsage {
    /// Input tokens, cached ones included.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Both.
    pub total_tokens: u64,
    /// Extension: the settled amount in USD, a decimal string.
    pub cost_usd: String,
}
