//! Typed readers of a URL's query. As in bodies, what nobody reads is refused.

use axum::http::Uri;

use super::error::{ApiError, ApiResult, Code};
use super::fields::{integer_of, invalid};
use super::json::Json;

/// Pairs of a query that nobody has read yet.
#[derive(Debug)]
pub struct Query {
    rest: Vec<(String, String)>,
}

impl Query {
    /// The query of `uri`.
    pub fn read(uri: &Uri) -> Self {
        let query = uri.query().unwrap_or_default();
        Self { rest: form_urlencoded::parse(query.as_bytes()).into_owned().collect() }
    }

    /// Takes every value of a list, which clients spell `name=a&name=b` or `name[]=a&name[]=b`.
    pub fn all(&mut self, name: &str) -> Vec<String> {
        let is_named = |key: &str| key == name || key.strip_suffix("[]") == Some(name);
        self.rest.extract_if(.., |(key, _)| is_named(key)).map(|(_, value)| value).collect()
    }

    /// Takes one value.
    pub fn string(&mut self, name: &str) -> ApiResult<Option<String>> {
        let mut values = self.rest.extract_if(.., |(key, _)| key == name);
        let first = values.next().map(|(_, value)| value);
        if values.next().is_some() {
            let message = format!("The parameter '{name}' occurs twice.");
            return Err(ApiError::param(Code::DuplicateField, name, message));
        }
        Ok(first)
    }

    /// Takes `true` or `false`.
    pub fn boolean(&mut self, name: &str) -> ApiResult<Option<bool>> {
        let parse = |text: String| match text.as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(invalid(name, "expected 'true' or 'false'")),
        };
        self.string(name)?.map(parse).transpose()
    }

    /// Takes an integer of `min..=max`.
    pub fn integer(&mut self, name: &str, min: i64, max: i64) -> ApiResult<Option<i64>> {
        let parse = |text: String| {
            let number = text.parse().map_err(|_| invalid(name, "expected an integer"))?;
            integer_of(name, &Json::Integer(number), min, max)
        };
        self.string(name)?.map(parse).transpose()
    }

    /// Takes an integer of `min..=max`, both within `u32`.
    pub fn count(&mut self, name: &str, min: u32, max: u32) -> ApiResult<Option<u32>> {
        let number = self.integer(name, min.into(), max.into())?;
        Ok(number.map(|number| u32::try_from(number).expect("within the u32 bounds above")))
    }

    /// Refuses what is left.
    pub fn finish(self) -> ApiResult<()> {
        let Some((name, _)) = self.rest.into_iter().next() else { return Ok(()) };
        let name: String = name.chars().take(128).collect();
        let message = format!("Unknown parameter: '{name}'.");
        Err(ApiError::param(Code::UnknownParameter, name, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::read(&format!("/x?{text}").parse().unwrap())
    }

    #[test]
    fn values_are_typed_and_the_rest_is_refused() {
        let mut q = query("a=1&b=true&c=x%20y&d[]=1&d[]=2&d=3");
        assert_eq!(q.count("a", 0, 5).unwrap(), Some(1));
        assert_eq!(q.boolean("b").unwrap(), Some(true));
        assert_eq!(q.string("c").unwrap().as_deref(), Some("x y"));
        assert_eq!(q.all("d"), ["1", "2", "3"]);
        assert_eq!(q.string("e").unwrap(), None);
        assert!(q.finish().is_ok());
        assert_eq!(query("z=1").finish().unwrap_err().param.as_deref(), Some("z"));
        assert_eq!(query("a=1&a=2").string("a").unwrap_err().code, Code::DuplicateField);
        assert_eq!(query("a=9").count("a", 0, 5).unwrap_err().code, Code::IntegerAboveMax);
        assert_eq!(query("a=-1").count("a", 0, 5).unwrap_err().code, Code::IntegerBelowMin);
        assert_eq!(query("a=x").count("a", 0, 5).unwrap_err().code, Code::InvalidValue);
        assert_eq!(query("a=1").boolean("a").unwrap_err().code, Code::InvalidValue);
    }
}
