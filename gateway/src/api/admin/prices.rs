//! `/v1/admin/prices`: the rate card. Versions are added and never changed, because bills name them.

use axum::Json;
use axum::extract::Request;
use axum::http::Uri;
use serde_json::{Value, json};

use super::caller::Admin;
use super::document::{answers, requests};
use super::page::Page;
use super::read::{decimal, text, tier};
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::{Fields, invalid};
use crate::api::list::PageOf;
use crate::api::query::Query;
use crate::civil;
use crate::money::{Picos, PriceVersion};
use crate::serving::unix_ms;

/// Adds a version, in force from an instant that has not passed; left out: from now on.
#[utoipa::path(
    post,
    path = "/v1/admin/prices",
    operation_id = "createPrice",
    tag = "money",
    request_body = requests::PriceToAdd,
    responses((status = 200, description = "The version.", body = answers::Price)),
)]
pub(super) async fn create(admin: Admin, request: Request) -> ApiResult<Json<Value>> {
    let mut fields = admin.fields(request).await?;
    let model = text(&mut fields, "model")?;
    let model = fields.required("model", model)?;
    if admin.api.models.get(&model).is_none() {
        let message = format!(
            "The model '{model}' is not served here. GET /v1/models of the public listener lists them."
        );
        return Err(ApiError::param(Code::ModelNotFound, "model", message));
    }
    let name = text(&mut fields, "tier")?.unwrap_or_else(|| "default".to_owned());
    tier("tier", &name)?;
    let now = unix_ms();
    let from = match text(&mut fields, "effective_from")? {
        None => now,
        Some(text) => {
            civil::parse_ms(&text).map_err(|error| invalid("effective_from", &error.to_string()))?
        }
    };
    if from < now {
        return Err(invalid("effective_from", "it has passed, and what was billed since then cannot change"));
    }
    let (uncached, cached) = (price(&mut fields, "uncached_input")?, price(&mut fields, "cached_input")?);
    let output = price(&mut fields, "output")?;
    fields.finish(&[])?;
    let version = PriceVersion::new(&model, &name, from, uncached, cached, output);
    let added = version.clone();
    let mut all = admin.run(|accounts| accounts.list_prices()).await?;
    all.push(added.clone());
    let rates = &admin.api.serving.rates;
    rates.check(&all).map_err(|error| invalid("effective_from", &error.to_string()))?;
    let all = admin.run(move |accounts| {
        accounts.add_price(&added, unix_ms())?;
        accounts.list_prices()
    });
    rates.set_added(&all.await?).map_err(|error| invalid("effective_from", &error.to_string()))?;
    Ok(Json(shape(&version)))
}

fn price(fields: &mut Fields, key: &str) -> ApiResult<Picos> {
    let price = decimal(fields, key, Picos::parse_per_million)?;
    fields.required(key, price)
}

/// All versions, those of the configuration and the derived ones of tiers included, by pages.
#[utoipa::path(
    get,
    path = "/v1/admin/prices",
    operation_id = "listPrices",
    tag = "money",
    params(requests::PageQuery, ("model" = Option<String>, Query, description = "Only of this model.")),
    responses((status = 200, description = "A page of prices.", body = PageOf<answers::Price>)),
)]
pub(super) async fn list(admin: Admin, uri: Uri) -> ApiResult<Json<PageOf<Value>>> {
    let mut query = Query::read(&uri);
    let page = Page::read(&mut query, true)?;
    let model = query.string("model")?;
    query.finish()?;
    let card = admin.api.serving.rates.card();
    let wanted = card.versions().iter().filter(|v| model.as_ref().is_none_or(|model| *model == v.model));
    page.of(wanted.map(shape).collect())
}

fn shape(version: &PriceVersion) -> Value {
    json!({
        "id": version.id,
        "object": "price",
        "model": version.model,
        "tier": version.tier,
        "effective_from": civil::format_ms(version.effective_from_ms),
        "unit": "USD per 1M tokens",
        "uncached_input": version.uncached_input.to_usd_per_million(),
        "cached_input": version.cached_input.to_usd_per_million(),
        "output": version.output.to_usd_per_million(),
    })
}
