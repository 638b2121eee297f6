//! Cases about leases of capacity.

use serde_json::{Value, json};

use super::Case;
use crate::support::{merged, model_id};

/// A lease that is right but for `extra`.
fn lease(name: &str, extra: Value) -> Case {
    let right = json!({"model": model_id(), "units": 1, "hours": 2});
    Case::json(format!("a lease {name}"), merged(right, extra), 400).path("/v1/capacity/leases")
}

pub(super) fn cases() -> Vec<Case> {
    let far = 4_102_444_800_u64;
    vec![
        lease("of what was not measured", json!({})).code("unsupported_value").param("model"),
        lease("without a model", json!({"model": null})).code("missing_required_parameter").param("model"),
        lease("of a model as a number", json!({"model": 7})).code("invalid_type").param("model"),
        lease("of no units", json!({"units": 0})).code("integer_below_min_value").param("units"),
        lease("of too many units", json!({"units": 1_u64 << 32}))
            .code("integer_above_max_value")
            .param("units"),
        lease("of half a unit", json!({"units": 0.5})).code("invalid_type").param("units"),
        lease("without units", json!({"units": null})).code("missing_required_parameter").param("units"),
        lease("without a length", json!({"hours": null})).code("missing_required_parameter").param("hours"),
        lease("for no hours", json!({"hours": 0})).code("integer_below_min_value").param("hours"),
        lease("for ever", json!({"hours": i64::MAX})).code("invalid_value").param("hours"),
        lease("until and for", json!({"end": far})).code("conflicting_parameters").param("hours"),
        lease("until the past", json!({"hours": null, "end": 3_600})).code("invalid_value").param("end"),
        lease("until the end of time", json!({"hours": null, "end": i64::MAX}))
            .code("invalid_value")
            .param("end"),
        lease("from the past", json!({"start": 3_600})).code("invalid_value").param("start"),
        lease("from before 1970", json!({"start": -3_600})).code("integer_below_min_value").param("start"),
        lease("within an hour", json!({"start": far + 1})).code("invalid_value").param("start"),
        lease("from too far ahead", json!({"start": far})).code("invalid_value").param("start"),
        lease("from a date", json!({"start": "2030-01-01"})).code("invalid_type").param("start"),
        lease("with a ramp that is none", json!({"ramp": 3})).code("invalid_type").param("ramp"),
        lease("with a step that is none", json!({"ramp": [3]})).code("invalid_type").param("ramp[0]"),
        lease("with a step before it", json!({"ramp": [{"at": 3_600, "units": 1}]}))
            .code("invalid_value")
            .param("ramp[0].at"),
        lease("with a step of no units", json!({"ramp": [{"at": 3_600, "units": 0}]}))
            .code("integer_below_min_value")
            .param("ramp[0].units"),
        lease("with a step of more", json!({"ramp": [{"at": 3_600, "units": 1, "price": 0}]}))
            .code("unknown_parameter")
            .param("ramp[0].price"),
        lease("with many steps", json!({"ramp": vec![json!({"at": 3_600, "units": 1}); 50]}))
            .code("array_above_max_length")
            .param("ramp"),
        lease("with another overflow", json!({"overflow": "shared"}))
            .code("unsupported_value")
            .param("overflow"),
        lease("with a field that is none", json!({"unit": 1})).code("unknown_parameter").param("unit"),
        Case::bytes("a lease that is no JSON", "{", 400).path("/v1/capacity/leases").code("invalid_json"),
        Case::bytes("a lease that is a list", "[]", 400).path("/v1/capacity/leases").code("invalid_type"),
    ]
}
