//! `GET /v1/capacity`: what is left, by model and tier.

use axum::Json;
use axum::extract::State;
use engine::{Engine, Tier};
use serde_json::{Value, json};

use super::Shared;
use super::auth::Caller;
use crate::capacity::{Measured, Point, headroom};
use crate::registry::Served;
use crate::serving::unix_ms;

/// Places and expected waits of the models and tiers that the caller may use, and what the machine was measured to do.
#[utoipa::path(
    get,
    path = "/v1/capacity",
    operation_id = "getCapacity",
    tag = "models",
    responses((status = 200, description = "Places and waits.", body = crate::api::openapi::capacity::CapacityList)),
)]
pub async fn retrieve(State(api): State<Shared>, caller: Caller) -> Json<Value> {
    let tiers: Vec<Tier> = Tier::ALL
        .into_iter()
        // Batches are open to everybody.
        .filter(|tier| *tier == Tier::Batch || caller.tier(&api, Some(*tier)).is_ok())
        .collect();
    let usable = api.models.iter().filter(|served| caller.identity.may_use(&served.card().id));
    let models: Vec<Value> = usable
        .filter_map(|served| match served {
            Served::Engine(engine) => Some(model(&api, engine, &tiers)),
            Served::Embedder(_) => None,
        })
        .collect();
    Json(json!({"object": "list", "created": unix_ms() / 1_000, "data": models}))
}

fn model(api: &Shared, engine: &Engine, tiers: &[Tier]) -> Value {
    let (card, stats, config) = (engine.card(), engine.stats(), engine.config());
    let slots = config.max_num_seqs;
    let free_blocks = stats.free_blocks + stats.cached_blocks;
    let tiers = tiers.iter().map(|tier| {
        let left = headroom(*tier, &stats, slots, api.serving.typical_ms());
        let now = stats.tiers[tier.index()];
        json!({
            "service_tier": tier.name(), "level": left.level.as_str(), "free_concurrent": left.free,
            "expected_wait_ms": left.wait_ms, "running": now.running, "waiting": now.waiting,
        })
    });
    let measured = api.capacity.as_ref().and_then(|capacity| capacity.of(&card.id, &card.sha256));
    json!({
        "object": "capacity", "model": card.id, "max_concurrent": slots,
        "kv_tokens": {
            "total": stats.total_blocks * config.block_size, "free": free_blocks * config.block_size,
        },
        "tiers": tiers.collect::<Vec<_>>(),
        "measured": measured.map(|measured| shape(measured, api.capacity_target_ms)),
    })
}

fn shape(measured: &Measured, target_ms: f64) -> Value {
    let sellable = measured.within(target_ms).map(|point: &Point| json!(point));
    json!({
        "measured_at": measured.measured_ms / 1_000, "points": measured.points,
        "sellable": {"inter_token_p99_ms": target_ms, "point": sellable},
    })
}
