//! Lists by pages, as the API spells them.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct PageOf<T> {
    /// `list`.
    pub object: String,
    /// The items.
    pub data: Vec<T>,
    /// Id of the first.
    #[schema(required)]
    pub first_id: Option<String>,
    /// Id of the last, for the parameter `after`.
    #[schema(required)]
    pub last_id: Option<String>,
    /// Whether there are more.
    pub has_more: bool,
}

impl PageOf<Value> {
    /// A page of objects with an `id`.
    pub fn new(data: Vec<Value>, has_more: bool) -> Self {
        let id = |item: Option<&Value>| item.and_then(|item| item["id"].as_str()).map(str::to_owned);
        let (first_id, last_id) = (id(data.first()), id(data.last()));
        Self { object: "list".to_owned(), data, first_id, last_id, has_more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_names_its_first_and_last_item() {
        let page = PageOf::new(vec![json!({"id": "a"}), json!({"id": "b"})], true);
        let text = r#"{"object":"list","data":[{"id":"a"},{"id":"b"}],"first_id":"a","last_id":"b","has_more":true}"#;
        assert_eq!(serde_json::to_string(&page).unwrap(), text);
        let empty = serde_json::to_value(PageOf::new(Vec::new(), false)).unwrap();
        assert_eq!(empty["first_id"], Value::Null);
    }
}
