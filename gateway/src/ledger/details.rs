//! What a row says about its request beside who pays and at which price: names as they were, the caller's own tags,
//! and hashes of what went in. Reports read them from here, so that a closed period never changes its text.

use std::collections::BTreeMap;

use crate::accounts::Identity;

/// SHA-256 of a body or a file.
pub type Sha256Digest = [u8; 32];

/// Kept with the hold and the settlement of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Name of the organisation at admission.
    pub org_name: String,
    /// Name of the project at admission.
    pub project_name: String,
    /// Name of the API key at admission.
    pub key_name: String,
    /// The caller's end user, where given.
    pub user: Option<String>,
    /// The caller's own tags, where given.
    pub tags: Option<Tags>,
    /// Of the request body as received.
    pub request_sha256: Option<Sha256Digest>,
    /// Of the weight file that served it.
    pub weights_sha256: Option<Sha256Digest>,
    /// When the whole answer was promised for, Unix milliseconds; without it, the cost comes back.
    pub deadline_ms: Option<u64>,
}

impl Details {
    /// The names of a caller, and nothing else yet.
    pub fn of(identity: &Identity) -> Self {
        Self {
            org_name: identity.org_name.clone(),
            project_name: identity.project_name.clone(),
            key_name: identity.key_name.clone(),
            ..Self::default()
        }
    }

    /// The fields in fixed order, as the row's hash covers them; an absent field is empty.
    pub(super) fn hashed(&self) -> [&[u8]; 7] {
        [
            self.org_name.as_bytes(),
            self.project_name.as_bytes(),
            self.key_name.as_bytes(),
            self.user.as_deref().unwrap_or_default().as_bytes(),
            self.tags.as_ref().map_or("", Tags::as_json).as_bytes(),
            self.request_sha256.as_ref().map_or(&[], |digest| digest.as_slice()),
            self.weights_sha256.as_ref().map_or(&[], |digest| digest.as_slice()),
        ]
    }
}

/// Tags of a request as one JSON object of strings, ordered by key: equal tags are equal texts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tags(String);

impl Tags {
    /// `None` where there are no pairs.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Option<Self> {
        let pairs: BTreeMap<String, String> = pairs.into_iter().collect();
        let json = serde_json::to_string(&pairs).expect("a map of strings is JSON");
        (!pairs.is_empty()).then_some(Self(json))
    }

    /// The object as text.
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// The object.
    pub(super) fn to_value(&self) -> serde_json::Value {
        serde_json::from_str(&self.0).unwrap_or_default()
    }

    /// Its pairs, by key.
    pub fn pairs(&self) -> BTreeMap<String, String> {
        serde_json::from_str(&self.0).expect("made of a map of strings, here or before it was stored")
    }

    /// As stored; what this program has written is in the right form.
    pub(super) fn stored(json: String) -> Self {
        Self(json)
    }
}

/// Parses 64 hex digits.
pub fn parse_sha256(hex: &str) -> Option<Sha256Digest> {
    let mut digest = [0; 32];
    let is_hex = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex {
        return None;
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(digest)
}

/// Lower-case hex digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |hex, byte| format!("{hex}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_ordered_and_never_empty() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let tags = Tags::new([pair("b", "2"), pair("a", "1\"")]).unwrap();
        assert_eq!(tags.as_json(), r#"{"a":"1\"","b":"2"}"#);
        assert_eq!(Some(tags), Tags::new([pair("a", "1\""), pair("b", "2")]));
        assert_eq!(Tags::new([]), None);
    }

    #[test]
    fn digests_as_text_and_back() {
        let digest: Sha256Digest = std::array::from_fn(|at| at as u8 * 7);
        assert_eq!(parse_sha256(&hex(&digest)), Some(digest));
        for bad in ["", "0", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(parse_sha256(bad), None, "{bad}");
        }
    }
}
