//! The query of a report: every parameter is honoured or refused by name.

use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::fields::invalid;
use crate::ledger::usage::Dimension;

/// Values of one filter.
const MAX_VALUES: usize = 100;

/// Length of a bucket with the number of them on a page: default and most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Width {
    pub(super) seconds: u64,
    default: u64,
    max: u64,
}

const WIDTHS: [(&str, Width); 3] = [
    ("1m", Width { seconds: 60, default: 60, max: 1_440 }),
    ("1h", Width { seconds: 3_600, default: 24, max: 168 }),
    ("1d", Width { seconds: 86_400, default: 7, max: 180 }),
];

/// A report's query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
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

impl Query {
    /// Reads what stands behind the `?`.
    pub(super) fn read(text: &str, with_line_items: bool) -> ApiResult<Self> {
        let mut query = Self {
            start_time: u64::MAX,
            end_time: None,
            width: WIDTHS[2].1,
            limit: 0,
            group_by: Vec::new(),
            only: Vec::new(),
            page: None,
            min_sequence: 0,
        };
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            // SDKs write lists with brackets, people without.
            query.take(name.strip_suffix("[]").unwrap_or(&name), value.into_owned(), with_line_items)?;
        }
        if query.start_time == u64::MAX {
            let message = "Missing required parameter: 'start_time', in Unix seconds.";
            return Err(ApiError::param(Code::MissingParameter, "start_time", message));
        }
        if query.end_time.is_some_and(|end| end <= query.start_time) {
            return Err(invalid("end_time", "it must be after 'start_time'"));
        }
        if query.limit == 0 {
            query.limit = query.width.default;
        }
        if query.limit > query.width.max {
            let reason = format!("at most {} buckets of this width fit on a page", query.width.max);
            return Err(invalid("limit", &reason));
        }
        Ok(query)
    }

    fn take(&mut self, name: &str, value: String, with_line_items: bool) -> ApiResult<()> {
        match name {
            "start_time" => self.start_time = number(name, &value)?,
            "end_time" => self.end_time = Some(number(name, &value)?),
            "limit" => self.limit = number(name, &value)?.max(1),
            "min_sequence" => self.min_sequence = i64::try_from(number(name, &value)?).unwrap_or(i64::MAX),
            "page" => {
                let begin =
                    value.strip_prefix("page_").ok_or_else(|| invalid(name, "it is no page of ours"))?;
                self.page = Some(number(name, begin)?);
            }
            "bucket_width" => {
                let found = WIDTHS.iter().find(|(width, _)| *width == value);
                self.width = found.ok_or_else(|| invalid(name, "expected '1m', '1h' or '1d'"))?.1;
            }
            "group_by" => {
                for part in value.split(',') {
                    let by =
                        DIMENSIONS.iter().find(|(group, ..)| *group == part).map(|found| Group::By(found.2));
                    let line_item = (with_line_items && part == "line_item").then_some(Group::LineItem);
                    let group = by.or(line_item).ok_or_else(|| invalid(name, "it has an unknown field"))?;
                    if !self.group_by.contains(&group) {
                        self.group_by.push(group);
                    }
                }
            }
            _ => match DIMENSIONS.iter().find(|(_, filter, _)| *filter == name) {
                Some(&(_, _, dimension)) => self.restrict(name, dimension, value)?,
                None => {
                    let name: String = name.chars().take(64).collect();
                    let message = format!("Unknown parameter: '{name}'.");
                    return Err(ApiError::param(Code::UnknownParameter, name, message));
                }
            },
        }
        Ok(())
    }

    fn restrict(&mut self, name: &str, dimension: Dimension, value: String) -> ApiResult<()> {
        let at = self.only.iter().position(|(only, _)| *only == dimension).unwrap_or_else(|| {
            self.only.push((dimension, Vec::new()));
            self.only.len() - 1
        });
        let values = &mut self.only[at].1;
        if values.len() == MAX_VALUES {
            let message = format!("Invalid '{name}': more than the maximum {MAX_VALUES} values.");
            return Err(ApiError::param(Code::ArrayTooLong, name, message));
        }
        values.push(value);
        Ok(())
    }
}

fn number(name: &str, text: &str) -> ApiResult<u64> {
    /// Later than year 9999 is a mistake.
    const MAX: u64 = 253_402_300_799;
    let number = text.parse().ok().filter(|number| *number <= MAX);
    number.ok_or_else(|| invalid(name, "expected a whole number that is not negative"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_strictly() {
        let query = Query::read(
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
            assert_eq!(Query::read(text, false).unwrap_err().param.as_deref(), Some(param), "{text}");
        }
        assert!(Query::read("start_time=9&group_by=line_item", true).is_ok());
        let many = "start_time=9".to_owned() + &"&models=m".repeat(101);
        assert_eq!(Query::read(&many, false).unwrap_err().code, Code::ArrayTooLong);
    }
}
