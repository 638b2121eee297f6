//! Writes a batch's output and error files. Doing it again after a crash gives the same files.

use serde_json::json;

use crate::api::Shared;
use crate::api::error::{ApiError, ApiResult};
use crate::api::files::new_id;
use crate::batches::{Batch, Batches, Status};
use crate::files::{Draft, FileRow, Files, Purpose};
use crate::serving::unix_ms;

/// Lines read at one time; one may have megabytes of vectors.
const PAGE: usize = 16;
const MS_PER_DAY: u64 = 86_400_000;

/// Ends a batch in progress or cancelling: its answers to their files, its unfinished lines to the error file. Blocks.
pub(super) fn finish(api: &Shared, batch: &Batch) -> ApiResult<()> {
    let (batches, files) = (&api.batches, &api.files);
    // From here on the ids are the same whatever comes.
    let batch = if batch.output_file_id.is_some() {
        batch.clone()
    } else {
        let to = if batch.status == Status::Cancelling { Status::Cancelling } else { Status::Finalizing };
        let at_ms = batch.reached.get(&to).copied().unwrap_or_else(unix_ms);
        batches.advance(&batch.id, &[batch.status], to, at_ms, |batch| {
            (batch.output_file_id, batch.error_file_id) = (Some(new_id()), Some(new_id()));
        })?
    };
    let is_cancelled = batch.status == Status::Cancelling;
    let (output, errors, unfinished) = write(batches, files, &batch, is_cancelled)?;
    let output_file_id = keep(files, &batch, output, batch.output_file_id.as_ref(), "output")?;
    let error_file_id = keep(files, &batch, errors, batch.error_file_id.as_ref(), "error")?;
    let end = match (is_cancelled, unfinished) {
        (true, _) => Status::Cancelled,
        (false, 0) => Status::Completed,
        (false, _) => Status::Expired,
    };
    batches.advance(&batch.id, &[batch.status], end, unix_ms(), |batch| {
        (batch.output_file_id, batch.error_file_id) = (output_file_id, error_file_id);
        batch.counts.failed += unfinished;
        // One that was cancelled early was not counted before.
        batch.counts.total = batch.counts.completed + batch.counts.failed;
    })?;
    Ok(())
}

/// Both files, and the number of lines without an answer.
fn write(
    batches: &Batches,
    files: &Files,
    batch: &Batch,
    is_cancelled: bool,
) -> ApiResult<(Draft, Draft, u32)> {
    let draft = |id: &Option<String>| files.draft(id.as_deref().unwrap_or_default());
    let (mut output, mut errors) = (draft(&batch.output_file_id)?, draft(&batch.error_file_id)?);
    let (code, message) = if is_cancelled {
        ("batch_cancelled", "The batch was cancelled before this request was done.")
    } else {
        ("batch_expired", "This request could not be executed before the completion window expired.")
    };
    let (mut from, mut unfinished) = (0, 0);
    loop {
        let page = batches.answers(&batch.id, from, PAGE)?;
        let Some((last, ..)) = page.last() else { return Ok((output, errors, unfinished)) };
        from = last + 1;
        let (mut good, mut bad) = (String::new(), String::new());
        for (n, custom_id, answer) in page {
            let (is_ok, text) = answer.unwrap_or_else(|| {
                unfinished += 1;
                let id = format!("batch_req_{}_{n}", batch.id.trim_start_matches("batch_"));
                let error = json!({"code": code, "message": message});
                let line = json!({"id": id, "custom_id": custom_id, "response": null, "error": error});
                (false, line.to_string())
            });
            let side = if is_ok { &mut good } else { &mut bad };
            side.push_str(&text);
            side.push('\n');
        }
        output.write(good.as_bytes())?;
        errors.write(bad.as_bytes())?;
    }
}

/// Keeps a file that has lines.
fn keep(
    files: &Files,
    batch: &Batch,
    draft: Draft,
    id: Option<&String>,
    kind: &str,
) -> Result<Option<String>, ApiError> {
    let Some(id) = id.filter(|_| draft.bytes() > 0) else { return Ok(None) };
    let created_ms = unix_ms();
    let usual = files.limits().batch_ttl_days * MS_PER_DAY;
    let ttl_ms = batch.output_ttl_s.map_or(usual, |seconds| seconds * 1_000);
    let row = FileRow {
        id: id.clone(),
        org_id: batch.org_id.clone(),
        project_id: batch.project_id.clone(),
        purpose: Purpose::BatchOutput,
        name: format!("{}_{kind}.jsonl", batch.id),
        bytes: draft.bytes(),
        created_ms,
        expires_ms: Some(created_ms.saturating_add(ttl_ms)),
    };
    files.keep(draft, row)?;
    Ok(Some(id.clone()))
}
