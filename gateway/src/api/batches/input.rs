//! Reads a batch's input: every line is checked for its frame before the first one is done.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use crate::api::error::ApiError;
use crate::api::fields::Fields;
use crate::api::json::{self, Json};
use crate::batches::{Batch, BatchError, Batches, InputError, NewLine};

/// Lines of one transaction.
const PAGE: usize = 1_000;
/// Bytes of text that are one token on average; what waits is estimated by it.
const BYTES_PER_TOKEN: u64 = 4;

/// What a line may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct LineLimits {
    /// Longest line: its body is bounded like that of a request.
    pub(super) max_bytes: usize,
    /// Deepest nesting.
    pub(super) max_depth: usize,
}

/// A line, taken apart.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) custom_id: String,
    pub(super) body: Json,
}

/// What a whole input came to.
pub(super) enum Checked {
    /// Lines, and the model of the first.
    Fine(u32, Option<String>),
    Refused(Vec<InputError>),
}

fn error(line: Option<u32>, code: &str, param: Option<&str>, message: String) -> InputError {
    InputError { code: code.to_owned(), message, param: param.map(str::to_owned), line }
}

fn about(line: u32, refusal: ApiError) -> InputError {
    let code = refusal.code.row().code;
    InputError { code: code.to_owned(), message: refusal.message, param: refusal.param, line: Some(line) }
}

/// Takes a line apart; `number` counts from 1.
pub(super) fn parse(
    text: &[u8],
    number: u32,
    batch: &Batch,
    limits: LineLimits,
    max_custom_id_bytes: usize,
) -> Result<Parsed, InputError> {
    let value = json::parse(text, limits.max_depth).map_err(|reason| {
        error(
            Some(number),
            "invalid_json_line",
            None,
            format!("This line is not parseable as valid JSON: {reason}."),
        )
    })?;
    let read = |value: Json| {
        let mut fields = Fields::root(value)?;
        let custom_id = fields.string("custom_id", max_custom_id_bytes)?;
        let custom_id = fields.required("custom_id", custom_id)?;
        let method = fields.string("method", 16)?;
        let method = fields.required("method", method)?;
        let url = fields.string("url", 256)?;
        let url = fields.required("url", url)?;
        let body = fields.take("body");
        let body = fields.required("body", body)?;
        fields.finish(&[])?;
        Ok((custom_id, method, url, body))
    };
    let (custom_id, method, url, body) = read(value).map_err(|refusal| about(number, refusal))?;
    if method != "POST" {
        let message = "The method of a line must be 'POST'.".to_owned();
        return Err(error(Some(number), "invalid_method", Some("method"), message));
    }
    if url != batch.endpoint.path() {
        let message =
            format!("The URL of this line does not match the batch's endpoint '{}'.", batch.endpoint.path());
        return Err(error(Some(number), "mismatched_endpoint", Some("url"), message));
    }
    if !matches!(body, Json::Object(_)) {
        let message = "The body of a line must be an object.".to_owned();
        return Err(error(Some(number), "invalid_type", Some("body"), message));
    }
    Ok(Parsed { custom_id, body })
}

/// Checks the input of a batch and stores its lines. Blocks.
pub(super) fn check(batches: &Batches, batch: &Batch, limits: LineLimits) -> Result<Checked, BatchError> {
    batches.clear_lines(&batch.id)?;
    let file = batches.input(&batch.id)?;
    let mut checker =
        Checker { batches, batch, limits, model: None, errors: Vec::new(), page: Vec::new(), count: 0 };
    checker.read(file)?;
    checker.store()?;
    let Checker { mut errors, model, count, .. } = checker;
    if errors.is_empty() {
        if count == 0 {
            errors.push(error(None, "empty_file", None, "The input file has no lines.".to_owned()));
        }
        let section = batches.limits();
        let (waiting, limit) = (batches.waiting_tokens(&batch.org_id)?, section.org_queue_tokens);
        if waiting > limit {
            let message = format!(
                "Enqueued token limit reached for your organization: limit {limit}, with this batch {waiting}. Wait \
                 until other batches are finished, or make this one smaller."
            );
            errors.push(error(None, "token_limit_exceeded", None, message));
        }
    }
    Ok(if errors.is_empty() { Checked::Fine(count, model) } else { Checked::Refused(errors) })
}

struct Checker<'a> {
    batches: &'a Batches,
    batch: &'a Batch,
    limits: LineLimits,
    model: Option<String>,
    errors: Vec<InputError>,
    page: Vec<NewLine>,
    /// Lines so far; the numbers of `page` are those of the file, from 1.
    count: u32,
}

impl Checker<'_> {
    fn read(&mut self, file: File) -> Result<(), BatchError> {
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let (mut start, mut number, mut text) = (0_u64, 0_u32, Vec::new());
        let section = self.batches.limits();
        while self.errors.len() < section.max_errors {
            text.clear();
            let most = self.limits.max_bytes as u64 + 1;
            let length = reader.by_ref().take(most).read_until(b'\n', &mut text);
            let length =
                length.map_err(|source| BatchError::Io { path: self.batch.id.clone(), source })? as u64;
            if length == 0 {
                break;
            }
            number += 1;
            if length == most && text.last() != Some(&b'\n') {
                let message =
                    format!("This line is longer than the maximum {} bytes.", self.limits.max_bytes);
                self.errors.push(error(Some(number), "line_too_long", None, message));
                break;
            }
            // The last line may end without a break, and files may end with empty lines.
            let trimmed = text.trim_ascii();
            if !trimmed.is_empty() {
                self.line(trimmed, number, (start, text.len() as u32))?;
            }
            if self.count > section.max_lines {
                let message =
                    format!("The input file has more than the maximum {} lines.", section.max_lines);
                self.errors.push(error(None, "too_many_tasks", None, message));
                break;
            }
            start += length;
        }
        Ok(())
    }

    fn line(&mut self, text: &[u8], number: u32, place: (u64, u32)) -> Result<(), BatchError> {
        let max_custom_id_bytes = self.batches.limits().max_custom_id_bytes;
        match parse(text, number, self.batch, self.limits, max_custom_id_bytes) {
            Ok(parsed) => {
                self.count += 1;
                if let (1, Json::Object(body)) = (self.count, &parsed.body)
                    && let Some(Json::String(model)) = body.get("model")
                {
                    self.model = Some(model.chars().take(128).collect());
                }
                let tokens = u64::from(place.1).div_ceil(BYTES_PER_TOKEN);
                self.page.push(NewLine { n: number, custom_id: parsed.custom_id, place, tokens });
            }
            Err(error) => self.errors.push(error),
        }
        if self.page.len() >= PAGE { self.store() } else { Ok(()) }
    }

    fn store(&mut self) -> Result<(), BatchError> {
        let mut page = std::mem::take(&mut self.page);
        // Past the first mistake lines are only read for more of them.
        while let Some(number) = self.batches.add_lines(&self.batch.id, &page)? {
            let message =
                "The custom_id of this line is that of an earlier one. Make each unique.".to_owned();
            self.errors.push(error(Some(number), "duplicate_custom_id", Some("custom_id"), message));
            page.retain(|line| line.n != number);
            if self.errors.len() >= self.batches.limits().max_errors {
                break;
            }
        }
        Ok(())
    }
}
