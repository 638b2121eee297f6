//! Leases as clients see them.

use serde_json::{Value, json};

use crate::api::error::ApiResult;
use crate::leases::{Kept, LeaseError, Sla, State as Status, Sums, Terms};
use crate::ledger::Events;
use crate::money::Picos;

/// What a lease agrees on.
pub(super) fn shape_of(terms: &Terms) -> Value {
    json!({
        "unit_tokens_per_second": terms.unit_tokens_per_second,
        "prompt_tokens_per_token": terms.prompt_tokens_per_token,
        "unit_hour_usd": Picos(terms.unit_hour_picos).to_usd(),
        "notice_hours": terms.notice_hours,
        "rebate_percent": terms.rebate_percent,
        "reclaim_credit_percent": terms.reclaim_credit_percent,
        "sla": terms.sla.is_promised().then(|| sla(terms.sla)),
    })
}

fn sla(sla: Sla) -> Value {
    let target = |ms: u32| (ms > 0).then_some(ms);
    json!({
        "first_token_ms": target(sla.first_token_ms), "inter_token_ms": target(sla.inter_token_ms),
        "objective_permille": sla.objective_permille, "window_hours": 1, "min_requests": sla.min_requests,
        "credit_percent": sla.credit_percent,
    })
}

fn events(events: Events) -> Value {
    json!({"requests": events.all, "missed": events.missed})
}

/// The object as clients see it.
pub(super) fn object(kept: &Kept, sums: Sums, now_ms: u64) -> ApiResult<Value> {
    let lease = &kept.lease;
    let state = lease.state(now_ms);
    let (start_ms, end_ms) = (lease.start_ms(), lease.end_ms);
    let billed_ms = kept.billed_ms.min(end_ms);
    let usd = |from_ms, to_ms| Ok::<_, LeaseError>(lease.fee(from_ms, to_ms)?.to_usd());
    let is_over = matches!(state, Status::Ended | Status::Cancelled | Status::Reclaimed);
    let steps: Vec<Value> =
        lease.steps.iter().map(|step| json!({"at": step.at_ms / 1_000, "units": step.units})).collect();
    Ok(json!({
        "id": lease.id, "object": "capacity.lease", "model": lease.model, "status": state.as_str(),
        "organization_id": lease.org_id, "project_id": lease.project_id, "created_at": lease.created_ms / 1_000,
        "start": start_ms / 1_000, "end": end_ms / 1_000, "agreed_end": lease.agreed_end_ms / 1_000,
        "notice": lease.notice.map(|notice| json!({"at": notice.at_ms / 1_000, "by": notice.by})),
        "ended_at": is_over.then(|| if state == Status::Cancelled {
            lease.notice.map_or(end_ms, |notice| notice.at_ms) / 1_000
        } else {
            end_ms / 1_000
        }),
        "steps": steps, "units": lease.units_at(now_ms), "tokens_per_second": lease.tokens_per_minute(now_ms) / 60,
        "overflow": lease.overflow.as_str(), "terms": shape_of(&lease.terms),
        "holding": {
            "unit_hours": lease.unit_hours(start_ms, end_ms), "usd": usd(start_ms, end_ms)?,
            "billed_unit_hours": lease.unit_hours(start_ms, billed_ms), "billed_usd": usd(start_ms, billed_ms)?,
        },
        "use": {
            "until": kept.accounted_ms.min(end_ms) / 1_000, "offered_tokens": sums.offered, "used_tokens": sums.used,
            "resold_tokens": sums.resold, "idle_tokens": sums.offered - sums.used - sums.resold,
            "rebate_usd": Picos(sums.rebate_picos).to_usd(),
        },
        "targets": {
            "first_token": events(sums.first), "inter_token": events(sums.next),
            "credit_usd": Picos(sums.sla_picos).to_usd(),
        },
        "reclaim_credit_usd": lease.reclaim_credit().map_err(LeaseError::from)?.to_usd(),
    }))
}
