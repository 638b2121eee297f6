//! Texts that a client carries for us: nobody but the organisation's own requests here can read or change them.
//!
//! ChaCha20-Poly1305 under a key of the organisation, a random nonce before the text, all in base64url.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::items::Item;
use crate::api::Shared;
use crate::api::error::{ApiError, ApiResult, Code};
use crate::api::scope::random;

const PURPOSE: &str = "compaction";
/// Form of what follows; another one could not be read.
const VERSION: u8 = 1;

/// The key of an organisation's compactions.
pub(super) fn key(api: &Shared, org_id: &str) -> [u8; 32] {
    api.accounts.sealing_key(PURPOSE, org_id)
}

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has the cipher's length"))
}

/// Seals a text.
pub(super) fn seal(key: &[u8; 32], text: &str) -> String {
    let nonce = random::<NONCE_LEN>();
    let mut sealed = text.as_bytes().to_vec();
    cipher(key)
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from([VERSION]), &mut sealed)
        .expect("a summary is far shorter than the cipher's limit");
    URL_SAFE_NO_PAD.encode([&[VERSION], &nonce[..], &sealed].concat())
}

/// The text that was sealed; none where it was sealed with another key, or changed.
fn open(key: &[u8; 32], sealed: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
    let (nonce, sealed) = bytes.strip_prefix(&[VERSION])?.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut sealed = sealed.to_vec();
    let text = cipher(key).open_in_place(nonce, Aad::from([VERSION]), &mut sealed).ok()?;
    String::from_utf8(text.to_vec()).ok()
}

/// Unseals what stands for earlier parts of the conversation; `field` is where the items came from.
pub(super) fn open_all(api: &Shared, org_id: &str, items: &mut [Item], field: &str) -> ApiResult<()> {
    for (i, item) in items.iter_mut().enumerate() {
        let Item::Compaction { encrypted_content, summary, .. } = item else { continue };
        *summary = open(&key(api, org_id), encrypted_content).ok_or_else(|| {
            let path = match field {
                "input" => format!("input[{i}].encrypted_content"),
                other => other.to_owned(),
            };
            let message = format!(
                "Invalid '{path}': it was not made here by POST /v1/responses/compact for your organization, or it was \
                 changed. Send it as it came, or send the conversation itself."
            );
            ApiError::param(Code::InvalidValue, path, message)
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_opens_and_only_what_was_sealed() {
        let (key, other) = ([1; 32], [2; 32]);
        let sealed = seal(&key, "läunch on Tuesday");
        assert!(!sealed.contains("Tuesday"));
        assert_ne!(sealed, seal(&key, "läunch on Tuesday"));
        assert_eq!(open(&key, &sealed).as_deref(), Some("läunch on Tuesday"));
        assert_eq!(open(&other, &sealed), None);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(open(&key, &String::from_utf8(changed).unwrap()), None, "byte {at}");
            assert_eq!(open(&key, &sealed[..at]), None, "{at} bytes");
        }
    }

    #[test]
    fn an_empty_text_can_be_sealed() {
        assert_eq!(open(&[1; 32], &seal(&[1; 32], "")).as_deref(), Some(""));
    }
}
