//! Key texts, ids and the keyed hash.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::AccountsError;

/// What every key begins with.
pub const SECRET_PREFIX: &str = "sk-sw-";
/// What every key for the admin listener begins with.
pub const ADMIN_SECRET_PREFIX: &str = "sk-admin-";
/// Random characters of a key: 43 of base62 carry 256 bits.
const RANDOM_LEN: usize = 43;
/// Length of a key.
pub const SECRET_LEN: usize = SECRET_PREFIX.len() + RANDOM_LEN;
/// Random characters of a key that are stored and listed.
const SHOWN_LEN: usize = 8;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Keyed hash of a key text.
pub(super) type Digest = [u8; 32];

/// The secret of the keyed hash, in its own file so that a copy of the database alone tells nothing.
pub(super) struct Pepper([u8; 32]);

impl Pepper {
    /// Reads `<dir>/pepper`, or makes it with mode 600; two processes that start at once agree on one.
    pub(super) fn open(dir: &Path) -> Result<Self, AccountsError> {
        let path = dir.join("pepper");
        let io = |source| AccountsError::Io { path: path.display().to_string(), source };
        if !path.try_exists().map_err(io)? {
            let fresh = dir.join(format!(".pepper-{}", random_text(12)?));
            let mut bytes = [0; 32];
            fill(&mut bytes)?;
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).map_err(io)?;
            file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(io)?;
            // A link never replaces an existing file, and is complete the moment it can be seen.
            let linked = fs::hard_link(&fresh, &path);
            fs::remove_file(&fresh).map_err(io)?;
            match linked {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(io(error)),
                _ => fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?,
            }
        }
        let mode = fs::metadata(&path).map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o007 != 0 {
            return Err(AccountsError::PepperReadable { path: path.display().to_string(), mode });
        }
        let bytes = fs::read(&path).map_err(io)?;
        let length = bytes.len();
        bytes.try_into().map(Self).map_err(|_| {
            io(std::io::Error::new(ErrorKind::InvalidData, format!("{length} bytes, a pepper has 32")))
        })
    }

    pub(super) fn mac(&self, text: &str) -> Digest {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any key length fits");
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

/// A new key; `prefix` says what for.
pub(super) fn generate(prefix: &str) -> Result<String, AccountsError> {
    Ok(format!("{prefix}{}", random_text(RANDOM_LEN)?))
}

/// True where `text` has this prefix and a key's length and alphabet; looks at no more than a key's length.
pub(super) fn well_formed(prefix: &str, text: &str) -> bool {
    text.len() == prefix.len() + RANDOM_LEN
        && text.strip_prefix(prefix).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// The part of a key that may be shown.
pub(super) fn shown<'a>(prefix: &str, secret: &'a str) -> &'a str {
    &secret[..prefix.len() + SHOWN_LEN]
}

pub(super) fn new_id(prefix: &str) -> Result<String, AccountsError> {
    Ok(format!("{prefix}_{}", random_text(16)?))
}

fn random_text(len: usize) -> Result<String, AccountsError> {
    let mut text = String::with_capacity(len);
    let mut bytes = [0; 64];
    while text.len() < len {
        fill(&mut bytes)?;
        // 248 = 4 × 62: dropping the rest keeps every character equally likely.
        let fair = bytes.iter().filter(|&&byte| byte < 248);
        text.extend(fair.map(|&byte| char::from(BASE62[usize::from(byte) % 62])).take(len - text.len()));
    }
    Ok(text)
}

fn fill(bytes: &mut [u8]) -> Result<(), AccountsError> {
    getrandom::fill(bytes).map_err(|error| AccountsError::Random(error.to_string()))
}
