//! Price versions that were added while the server ran; those of the configuration are not in the database.

use rusqlite::{Connection, params};
use serde_json::json;

use super::audit::{Note, note};
use super::{Result, instant};
use crate::accounts::AccountsError;
use crate::accounts::handle::By;
use crate::civil;
use crate::money::{Picos, PriceVersion};

/// Adds a version; a price once added is never changed, because bills name it.
pub(in crate::accounts) fn insert(db: &Connection, by: &By<'_>, price: &PriceVersion) -> Result<()> {
    let from = instant("effective_from", price.effective_from_ms)?;
    let sql = "SELECT count(*) FROM prices WHERE model = ?1 AND tier = ?2 AND effective_from_ms = ?3";
    if db.query_row(sql, params![price.model, price.tier, from], |row| row.get::<_, i64>(0))? > 0 {
        let at = civil::format_ms(price.effective_from_ms);
        let name = format!("{} {} from {at}", price.model, price.tier);
        return Err(AccountsError::Exists { what: "price", name });
    }
    db.execute(
        "INSERT INTO prices (id, model, tier, effective_from_ms, uncached_input, cached_input, output, created_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            price.id,
            price.model,
            price.tier,
            from,
            price.uncached_input.0,
            price.cached_input.0,
            price.output.0,
            instant("now", by.now_ms)?
        ],
    )?;
    let after = json!({
        "id": price.id, "model": price.model, "tier": price.tier, "effective_from_ms": price.effective_from_ms,
        "uncached_input": price.uncached_input.to_usd_per_million(),
        "cached_input": price.cached_input.to_usd_per_million(), "output": price.output.to_usd_per_million(),
    });
    let (event, object_id) = ("price.created", price.id.as_str());
    note(db, by, Note { event, object_id, project_id: None, before: None, after: Some(after) })
}

/// All versions in the database, oldest first.
pub(in crate::accounts) fn list(db: &Connection) -> Result<Vec<PriceVersion>> {
    let mut statement = db.prepare_cached(
        "SELECT model, tier, effective_from_ms, uncached_input, cached_input, output FROM prices
         ORDER BY created_ms, rowid",
    )?;
    let rows = statement.query_map([], |row| {
        let (model, tier): (String, String) = (row.get(0)?, row.get(1)?);
        let picos = |at: usize| row.get(at).map(Picos);
        Ok(PriceVersion::new(&model, &tier, row.get(2)?, picos(3)?, picos(4)?, picos(5)?))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
