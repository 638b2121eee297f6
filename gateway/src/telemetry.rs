//! Logs: JSON lines on standard error. Prompts, answers and keys are never logged.

use tracing_subscriber::EnvFilter;

/// Starts logging; `filter` is a level (`info`) or a list of `target=level`.
pub fn start(filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|e| format!("log filter '{filter}': {e}"))?;
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init()
        .map_err(|e| e.to_string())
}
