//! Rows to and from PostgreSQL, whose whole numbers are all signed and of 64 bits.

use std::sync::Arc;

use postgres::Row;
use postgres::types::ToSql;

use super::super::details::{Details, Tags};
use super::super::reader;
use super::super::row::{Facts, Transfer};
use super::super::store::{StoreError, StoreResult};
use super::super::types::{EndReason, LedgerError, Pace};
use crate::money::{Cost, Picos, PriceVersion, Tokens};

/// Calls `insert` with the values of a row, in the order of [`super::super::schema::COLUMNS`].
pub(super) fn with_values<T>(row: &Transfer, insert: impl FnOnce(&[&(dyn ToSql + Sync)]) -> T) -> T {
    let (facts, price, details) = (&row.facts, &row.facts.price, row.details.as_deref());
    let ms = |at: u64| at.cast_signed();
    let (at_ms, from_ms, admitted_ms) = (ms(row.at_ms), ms(price.effective_from_ms), ms(facts.admitted_ms));
    let prompt = i64::from(facts.prompt_tokens);
    let tokens = [row.tokens.uncached_input, row.tokens.cached_input, row.tokens.output].map(i64::from);
    let (first_token_ms, expires_ms) = (row.first_token_ms.map(ms), row.expires_ms.map(ms));
    let (kind, end) = (row.kind.as_str(), row.end.map(EndReason::as_str));
    let hash = row.hash.as_slice();
    let names = [
        details.map(|details| details.org_name.as_str()),
        details.map(|details| details.project_name.as_str()),
        details.map(|details| details.key_name.as_str()),
        details.and_then(|details| details.user.as_deref()),
        details.and_then(|details| details.tags.as_ref()).map(Tags::as_json),
    ];
    let digests = [
        details.and_then(|details| details.request_sha256.as_ref()).map(|digest| digest.as_slice()),
        details.and_then(|details| details.weights_sha256.as_ref()).map(|digest| digest.as_slice()),
    ];
    let counted = reader::counted_text(&facts.counted);
    let deadline_ms = row.deadline_ms().map(ms);
    let wait_ms = row.pace.map(|pace| i64::from(pace.wait_ms));
    let gap_us = row.pace.and_then(|pace| pace.gap_us).map(i64::from);
    insert(&[
        &row.seq,
        &kind,
        &row.request_id,
        &at_ms,
        &facts.org_id,
        &facts.project_id,
        &facts.key_id,
        &facts.endpoint,
        &price.model,
        &price.tier,
        &price.id,
        &from_ms,
        &price.uncached_input.0,
        &price.cached_input.0,
        &price.output.0,
        &prompt,
        &admitted_ms,
        &row.held.0,
        &row.released.0,
        &tokens[0],
        &tokens[1],
        &tokens[2],
        &row.cost.uncached_input.0,
        &row.cost.cached_input.0,
        &row.cost.output.0,
        &row.cost.total.0,
        &end,
        &first_token_ms,
        &hash,
        &names[0],
        &names[1],
        &names[2],
        &names[3],
        &names[4],
        &digests[0],
        &digests[1],
        &counted,
        &row.credit.0,
        &expires_ms,
        &row.note,
        &deadline_ms,
        &wait_ms,
        &gap_us,
    ])
}

/// The row's columns, from the first on, as [`with_values`] wrote them.
pub(super) fn transfer(row: &Row) -> StoreResult<Transfer> {
    let picos = |at: usize| get(row, at).map(Picos);
    let price = PriceVersion {
        id: get(row, 10)?,
        model: get(row, 8)?,
        tier: get(row, 9)?,
        effective_from_ms: ms(row, 11)?,
        uncached_input: picos(12)?,
        cached_input: picos(13)?,
        output: picos(14)?,
    };
    let counted = get::<Option<String>>(row, 36)?;
    let facts = Facts {
        org_id: get(row, 4)?,
        project_id: get(row, 5)?,
        key_id: get(row, 6)?,
        endpoint: get(row, 7)?,
        price,
        prompt_tokens: count(row, 15)?,
        admitted_ms: ms(row, 16)?,
        counted: reader::counted_of(counted.as_deref()).map_err(damaged)?,
    };
    let end = get::<Option<String>>(row, 26)?;
    Ok(Transfer {
        seq: get(row, 0)?,
        kind: get::<String>(row, 1)?.parse().map_err(damaged)?,
        request_id: get(row, 2)?,
        at_ms: ms(row, 3)?,
        facts: Arc::new(facts),
        held: picos(17)?,
        released: picos(18)?,
        tokens: tokens(row, 19)?,
        cost: Cost {
            uncached_input: picos(22)?,
            cached_input: picos(23)?,
            output: picos(24)?,
            total: picos(25)?,
        },
        end: end.map(|text| text.parse()).transpose().map_err(damaged)?,
        first_token_ms: get::<Option<i64>>(row, 27)?.map(i64::cast_unsigned),
        pace: pace(row)?,
        hash: digest(row, 28)?.ok_or_else(|| StoreError("a row has no hash".to_owned()))?,
        details: details(row)?.map(Arc::new),
        credit: picos(37)?,
        expires_ms: get::<Option<i64>>(row, 38)?.map(i64::cast_unsigned),
        note: get(row, 39)?,
    })
}

fn details(row: &Row) -> StoreResult<Option<Details>> {
    let Some(org_name) = get(row, 29)? else { return Ok(None) };
    Ok(Some(Details {
        org_name,
        project_name: get(row, 30)?,
        key_name: get(row, 31)?,
        user: get(row, 32)?,
        tags: get::<Option<String>>(row, 33)?.map(Tags::stored),
        request_sha256: digest(row, 34)?,
        weights_sha256: digest(row, 35)?,
        deadline_ms: get::<Option<i64>>(row, 40)?.map(i64::cast_unsigned),
    }))
}

fn pace(row: &Row) -> StoreResult<Option<Pace>> {
    let Some(_) = get::<Option<i64>>(row, 41)? else { return Ok(None) };
    let gap_us = get::<Option<i64>>(row, 42)?.map(|_| count(row, 42)).transpose()?;
    Ok(Some(Pace { wait_ms: count(row, 41)?, gap_us }))
}

/// Three token columns from `first` on.
pub(super) fn tokens(row: &Row, first: usize) -> StoreResult<Tokens> {
    Ok(Tokens {
        uncached_input: count(row, first)?,
        cached_input: count(row, first + 1)?,
        output: count(row, first + 2)?,
    })
}

pub(super) fn get<'a, T: postgres::types::FromSql<'a>>(row: &'a Row, at: usize) -> StoreResult<T> {
    Ok(row.try_get(at)?)
}

fn count(row: &Row, at: usize) -> StoreResult<u32> {
    u32::try_from(get::<i64>(row, at)?).map_err(|error| StoreError(format!("column {at}: {error}")))
}

pub(super) fn ms(row: &Row, at: usize) -> StoreResult<u64> {
    Ok(get::<i64>(row, at)?.cast_unsigned())
}

pub(super) fn digest(row: &Row, at: usize) -> StoreResult<Option<[u8; 32]>> {
    let bytes = get::<Option<&[u8]>>(row, at)?;
    bytes.map(<[u8; 32]>::try_from).transpose().map_err(|error| StoreError(format!("column {at}: {error}")))
}

pub(super) fn damaged(error: LedgerError) -> StoreError {
    StoreError(error.to_string())
}
