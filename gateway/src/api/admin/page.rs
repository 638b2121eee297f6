//! Lists by pages, as the API spells them.

use axum::Json;
use serde_json::Value;

use crate::api::error::ApiResult;
use crate::api::fields::invalid;
use crate::api::list::PageOf;
use crate::api::query::Query;

const DEFAULT_LIMIT: u32 = 20;
const MAX_LIMIT: u32 = 100;

/// Which part of a list is wanted.
pub(super) struct Page {
    pub(super) limit: usize,
    pub(super) after: Option<String>,
    ascending: bool,
}

impl Page {
    /// Reads `limit`, `after` and `order`; `ascending` is the order where none is given.
    pub(super) fn read(query: &mut Query, ascending: bool) -> ApiResult<Self> {
        let ascending = match query.string("order")?.as_deref() {
            None => ascending,
            Some("asc") => true,
            Some("desc") => false,
            Some(_) => return Err(invalid("order", "expected 'asc' or 'desc'")),
        };
        let limit = query.count("limit", 1, MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT) as usize;
        Ok(Self { limit, after: query.string("after")?, ascending })
    }

    /// The wanted part of `items`, which have an `id` and come oldest first.
    pub(super) fn of(self, mut items: Vec<Value>) -> ApiResult<Json<PageOf<Value>>> {
        if !self.ascending {
            items.reverse();
        }
        if let Some(after) = self.after {
            let place = items.iter().position(|item| item["id"] == after.as_str());
            let place = place.ok_or_else(|| invalid("after", "the list has no item of this id"))?;
            items.drain(..=place);
        }
        let has_more = items.len() > self.limit;
        items.truncate(self.limit);
        Ok(Json(PageOf::new(items, has_more)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ids(query: &str, ascending: bool) -> ApiResult<(Vec<String>, bool)> {
        let mut query = Query::read(&format!("/x?{query}").parse().unwrap());
        let page = Page::read(&mut query, ascending)?;
        let Json(list) = page.of((1..=5).map(|i| json!({"id": format!("i{i}")})).collect())?;
        let data = list.data.iter().map(|item| item["id"].as_str().unwrap().to_owned());
        Ok((data.collect(), list.has_more))
    }

    #[test]
    fn pages_go_on_after_an_item() {
        assert_eq!(ids("limit=2", true).unwrap(), (vec!["i1".into(), "i2".into()], true));
        assert_eq!(ids("limit=2&after=i3", true).unwrap(), (vec!["i4".into(), "i5".into()], false));
        assert_eq!(ids("limit=2&after=i3", false).unwrap(), (vec!["i2".into(), "i1".into()], false));
        assert_eq!(ids("limit=1&order=desc", true).unwrap(), (vec!["i5".into()], true));
        for bad in ["limit=0", "limit=101", "after=i9", "order=up"] {
            assert!(ids(bad, true).is_err(), "{bad}");
        }
    }
}
