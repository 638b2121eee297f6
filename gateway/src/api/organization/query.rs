//! The query of a report: every parameter is honoured or refused by name.

use axum::http::Uri;

use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::invalid;
use crate::api::query::Query;
use crate::ledger::usage::Dimension;

/// Values of one filter.
const MAX_VALUES: usize = 100;

/// Length of a bucket with the number of them on a page: default and most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Width {
    pub(super) seconds: u64,
    default: u32,
    max: u32,
}

const WIDTHS: [(&str, Width); 3] = [
    ("1m", Width { seconds: 60, default: 60, max: 1_440 }),
    ("1h", Width { seconds: 3_600, default: 24, max: 168 }),
    ("1d", Width { seconds: 86_400, default: 7, max: 180 }),
];

/// A report's query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) start_time: u64,
    pub(super) end_time: Option<u64>,
    pub(super) width: Width,
    pub(super) limit: u64,
    pub(super) group_by: Vec<Group>,
    pub(super) only: Vec<(Dimension, Vec<String>)>,
    /// Begin of the page, in place of `start_time`.
    pub(super) page: Option<u64>,
    /// The answer must have seen this row.
    pub(super) min_sequence: i64,
}

/// What lines are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    By(Dimension),
    /// Model and token class, of costs alone.
    LineItem,
}

/// Names of a dimension as a group and as a filter.
const DIMENSIONS: [(&str, &str, Dimension); 5] = [
    ("project_id", "project_ids", Dimension::Project),
    ("user_id", "user_ids", Dimension::User),
    ("api_key_id", "api_key_ids", Dimension::Key),
    ("model", "models", Dimension::Model),
    ("service_tier", "service_tiers", Dimension::Tier),
];

/// Later than year 9999 is a mistake.
const MAX_TIME: i64 = 253_402_300_799;

impl Report {
    /// Reads a URL's query.
    pub(super) fn read(uri: &Uri, with_line_items: bool) -> ApiResult<Self> {
        let mut query = Query::read(uri);
        let Some(start_time) = time(&mut query, "start_time")? else {
            let message = "Missing required parameter: 'start_time', in Unix seconds.";
            return Err(ApiError::param(Code::MissingParameter, "start_time", message));
        };
        let end_time = time(&mut query, "end_time")?;
        if end_time.is_some_and(|end| end <= start_time) {
            return Err(invalid("end_time", "it must be after 'start_time'"));
        }
        let width = width(&mut query)?;
        let report = Self {
            start_time,
            end_time,
            width,
            limit: query.count("limit", 1, width.max)?.unwrap_or(width.default).into(),
            group_by: groups(&mut query, with_line_items)?,
            only: filters(&mut query)?,
            page: page(&mut query)?,
            min_sequence: query.integer("min_sequence", 0, i64::MAX)?.unwrap_or(0),
        };
        query.finish()?;
        Ok(report)
    }
}

fn time(query: &mut Query, name: &str) -> ApiResult<Option<u64>> {
    Ok(query.integer(name, 0, MAX_TIME)?.map(i64::cast_unsigned))
}

fn width(query: &mut Query) -> ApiResult<Width> {
    let name = "bucket_width";
    let Some(text) = query.string(name)? else { return Ok(WIDTHS[2].1) };
    let found = WIDTHS.iter().find(|(width, _)| *width == text);
    found.map(|found| found.1).ok_or_else(|| invalid(name, "expected '1m', '1h' or '1d'"))
}

fn page(query: &mut Query) -> ApiResult<Option<u64>> {
    let parse = |text: String| {
        let begin = text.strip_prefix("page_").and_then(|begin| begin.parse().ok());
        begin
            .filter(|begin| *begin <= MAX_TIME.cast_unsigned())
            .ok_or_else(|| invalid("page", "it is no page of ours"))
    };
    query.string("page")?.map(parse).transpose()
}

fn groups(query: &mut Query, with_line_items: bool) -> ApiResult<Vec<Group>> {
    let mut groups = Vec::new();
    for value in query.all("group_by") {
        for part in value.split(',') {
            let by = DIMENSIONS.iter().find(|(group, ..)| *group == part).map(|found| Group::By(found.2));
            let line_item = (with_line_items && part == "line_item").then_some(Group::LineItem);
            let group = by.or(line_item).ok_or_else(|| invalid("group_by", "it has an unknown field"))?;
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
    }
    Ok(groups)
}

fn filters(query: &mut Query) -> ApiResult<Vec<(Dimension, Vec<String>)>> {
    let mut only = Vec::new();
    for (_, name, dimension) in DIMENSIONS {
        let values = query.all(name);
        if values.len() > MAX_VALUES {
            let message = format!("Invalid '{name}': more than the maximum {MAX_VALUES} values.");
            return Err(ApiError::param(Code::ArrayTooLong, name, message));
        }
        if !values.is_empty() {
            only.push((dimension, values));
        }
    }
    Ok(only)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str, with_line_items: bool) -> ApiResult<Report> {
        Report::read(&format!("/x?{query}").parse().unwrap(), with_line_items)
    }

    #[test]
    fn queries_are_read_strictly() {
        let query = read(
            "start_time=60&bucket_width=1h&group_by[]=model&group_by%5B%5D=api_key_id&models=a%20b&models=c&page=page_7",
            false,
        )
        .unwrap();
        assert_eq!(query.group_by, [Group::By(Dimension::Model), Group::By(Dimension::Key)]);
        assert_eq!(query.only, [(Dimension::Model, vec!["a b".to_owned(), "c".to_owned()])]);
        assert_eq!((query.limit, query.page, query.width.seconds), (24, Some(7), 3_600));
        for (text, param) in [
            ("", "start_time"),
            ("start_time=x", "start_time"),
            ("start_time=-1", "start_time"),
            ("start_time=9&end_time=9", "end_time"),
            ("start_time=9&limit=181", "limit"),
            ("start_time=9&bucket_width=1w", "bucket_width"),
            ("start_time=9&group_by=line_item", "group_by"),
            ("start_time=9&page=9", "page"),
            ("start_time=9&colour=red", "colour"),
        ] {
            assert_eq!(read(text, false).unwrap_err().param.as_deref(), Some(param), "{text}");
        }
        assert!(read("start_time=9&group_by=line_item", true).is_ok());
        let many = "start_time=9".to_owned() + &"&models=m".repeat(101);
        assert_eq!(read(&many, false).unwrap_err().code, Code::ArrayTooLong);
    }
}
