//! What a caller wants to lease. Times are Unix seconds at beginnings of hours.

use super::FAR_MS;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::{Fields, invalid};
use crate::api::json::Json;
use crate::civil::{self, HOUR_MS};
use crate::config::LeasesSection;
use crate::leases::{Overflow, Step};

const MAX_MODEL_BYTES: usize = 256;

/// A stretch of whole hours, Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start_ms: u64,
    pub(super) end_ms: u64,
}

impl Span {
    /// From `start` (else: the hour that has begun) to `end`, or for `hours` (else: the shortest lease); Unix seconds.
    pub(super) fn of(
        limits: &LeasesSection,
        start: Option<i64>,
        end: Option<i64>,
        hours: Option<i64>,
        now_ms: u64,
    ) -> ApiResult<Self> {
        if end.is_some() && hours.is_some() {
            let message = "Give either 'end' or 'hours', not both.";
            return Err(ApiError::param(Code::ConflictingParameters, "hours", message));
        }
        let current_ms = now_ms / HOUR_MS * HOUR_MS;
        let start_ms = start.map_or(Ok(current_ms), |start| hour("start", start))?;
        if start_ms < current_ms {
            let now = civil::format_s(current_ms);
            return Err(invalid("start", &format!("it is before the hour that has begun, {now}")));
        }
        if start_ms - current_ms > u64::from(limits.max_ahead_hours) * HOUR_MS {
            let most = limits.max_ahead_hours;
            return Err(invalid("start", &format!("it is more than {most} hours ahead")));
        }
        let (name, length) = match end {
            Some(end) => ("end", hour("end", end)?.saturating_sub(start_ms) / HOUR_MS),
            None => ("hours", hours.map_or(limits.min_hours.into(), i64::unsigned_abs)),
        };
        let (least, most) = (u64::from(limits.min_hours), u64::from(limits.max_hours));
        if !(least..=most).contains(&length) {
            return Err(invalid(name, &format!("a lease has {least} to {most} hours, not {length}")));
        }
        Ok(Self { start_ms, end_ms: start_ms + length * HOUR_MS })
    }
}

/// A beginning of an hour in milliseconds.
fn hour(name: &str, seconds: i64) -> ApiResult<u64> {
    let ms = u64::try_from(seconds).ok().and_then(|seconds| seconds.checked_mul(1_000));
    let ms = ms.filter(|ms| *ms <= u64::MAX - FAR_MS && i64::try_from(*ms).is_ok());
    let ms = ms.ok_or_else(|| invalid(name, "expected Unix seconds"))?;
    if ms % HOUR_MS != 0 {
        let (before, after) = (seconds / 3_600 * 3_600, (seconds / 3_600 + 1).saturating_mul(3_600));
        let reason =
            format!("it is not the beginning of an hour (UTC); the next to it are {before} and {after}");
        return Err(invalid(name, &reason));
    }
    Ok(ms)
}

/// A request for a lease.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) model: String,
    pub(super) steps: Vec<Step>,
    pub(super) end_ms: u64,
    pub(super) overflow: Overflow,
}

impl Wanted {
    pub(super) fn read(body: Json, limits: &LeasesSection, now_ms: u64) -> ApiResult<Self> {
        let mut fields = Fields::root(body)?;
        let model = fields.string("model", MAX_MODEL_BYTES)?;
        let model = fields.required("model", model)?;
        let units = fields.count("units", 1, u32::MAX)?;
        let units = fields.required("units", units)?;
        let (start, end) = (fields.integer("start", 0, i64::MAX)?, fields.integer("end", 0, i64::MAX)?);
        let hours = fields.integer("hours", 1, i64::MAX)?;
        let ramp = fields.array("ramp", limits.max_steps)?.unwrap_or_default();
        let overflow = fields.string("overflow", 64)?;
        fields.finish(&[])?;
        if end.is_none() && hours.is_none() {
            let message = "Missing required parameter: 'hours', or 'end'.";
            return Err(ApiError::param(Code::MissingParameter, "hours", message));
        }
        let Span { start_ms, end_ms } = Span::of(limits, start, end, hours, now_ms)?;
        let mut steps = vec![Step { at_ms: start_ms, units }];
        for (at, step) in ramp.into_iter().enumerate() {
            steps.push(read_step(step, &format!("ramp[{at}]"), steps[at].at_ms, end_ms)?);
        }
        let overflow = overflow.map_or(Ok(Overflow::ReservedOnly), |name| {
            let message = "Invalid 'overflow': use 'reserved_only' or 'reserved_then_shared'.";
            Overflow::named(&name).ok_or_else(|| ApiError::param(Code::UnsupportedValue, "overflow", message))
        })?;
        Ok(Self { model, steps, end_ms, overflow })
    }
}

/// A step of the ramp, later than the one before it.
fn read_step(step: Json, path: &str, before_ms: u64, end_ms: u64) -> ApiResult<Step> {
    let mut own = Fields::nested(step, path)?;
    let (at, units) = (own.integer("at", 0, i64::MAX)?, own.count("units", 1, u32::MAX)?);
    let (at, units) = (own.required("at", at)?, own.required("units", units)?);
    let name = own.path("at");
    own.finish(&[])?;
    let at_ms = hour(&name, at)?;
    if at_ms <= before_ms || at_ms >= end_ms {
        return Err(invalid(&name, "steps lie within the lease, each later than the one before it"));
    }
    Ok(Step { at_ms, units })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::json;
    use crate::api::openapi::testing::assert_documented;

    const NOW_MS: u64 = 10 * HOUR_MS + 5;

    fn read(body: &str) -> Result<Wanted, (Code, String)> {
        let body = json::parse(body.as_bytes(), 8).unwrap();
        Wanted::read(body, &LeasesSection::default(), NOW_MS)
            .map_err(|error| (error.code, error.param.unwrap_or_default()))
    }

    #[test]
    fn requests_are_read_as_documented() {
        let read = || {
            // `end` and `hours` exclude each other, so both are taken and then refused.
            let both = r#"{"model":"m","units":2,"start":36000,"end":43200,"hours":2,"overflow":"reserved_only",
                "ramp":[{"at":39600,"units":3}]}"#;
            assert_eq!(read(both).unwrap_err(), (Code::ConflictingParameters, "hours".to_owned()));
        };
        assert_documented("LeaseRequest", read);
    }

    #[test]
    fn times_are_hours_and_default_to_the_one_that_has_begun() {
        let wanted = read(r#"{"model":"m","units":2,"hours":3,"ramp":[{"at":39600,"units":5}]}"#).unwrap();
        let steps = [Step { at_ms: 10 * HOUR_MS, units: 2 }, Step { at_ms: 11 * HOUR_MS, units: 5 }];
        assert_eq!((wanted.steps.as_slice(), wanted.end_ms), (&steps[..], 13 * HOUR_MS));
        assert_eq!(wanted.overflow, Overflow::ReservedOnly);
        for (rest, code, param) in [
            (r#""hours":1,"start":36001"#, Code::InvalidValue, "start"),
            (r#""hours":1,"start":32400"#, Code::InvalidValue, "start"),
            (r#""hours":1,"start":9223372036854775807"#, Code::InvalidValue, "start"),
            (r#""hours":1,"start":3600000000000"#, Code::InvalidValue, "start"),
            (r#""hours":1,"start":"x""#, Code::InvalidType, "start"),
            (r#""end":36000"#, Code::InvalidValue, "end"),
            (r#""end":9223372036854774000"#, Code::InvalidValue, "end"),
            (r#""hours":745"#, Code::InvalidValue, "hours"),
            (r#""hours":9223372036854775807"#, Code::InvalidValue, "hours"),
            (r#""hours":0"#, Code::IntegerBelowMin, "hours"),
            (r#""start":36000"#, Code::MissingParameter, "hours"),
            (r#""hours":2,"ramp":[{"at":36000,"units":3}]"#, Code::InvalidValue, "ramp[0].at"),
            (r#""hours":2,"ramp":[{"at":43200,"units":3}]"#, Code::InvalidValue, "ramp[0].at"),
            (r#""hours":2,"ramp":[{"at":39600}]"#, Code::MissingParameter, "ramp[0].units"),
            (r#""hours":2,"ramp":[{"at":39600,"units":3,"x":1}]"#, Code::UnknownParameter, "ramp[0].x"),
            (r#""hours":2,"ramp":[7]"#, Code::InvalidType, "ramp[0]"),
            (r#""hours":2,"overflow":"spill""#, Code::UnsupportedValue, "overflow"),
            (r#""hours":2,"unit":1"#, Code::UnknownParameter, "unit"),
        ] {
            let body = format!(r#"{{"model":"m","units":2,{rest}}}"#);
            assert_eq!(read(&body).unwrap_err(), (code, param.to_owned()), "{body}");
        }
        assert_eq!(read(r#"{"model":"m","hours":2}"#).unwrap_err().1, "units");
    }
}
