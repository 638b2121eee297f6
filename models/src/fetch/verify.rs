//! Size, hash, and the stamp that remembers a hash.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::SourceError;
use crate::card::FileSpec;

const CHUNK: usize = 1 << 18;

/// Whether `path` is the file that `file` describes. Unreadable is wrong.
pub(super) fn is_right(path: &Path, file: &FileSpec<'_>) -> bool {
    if path.metadata().map(|m| m.len()).ok() != Some(file.bytes) {
        return false;
    }
    if file.sha256.is_empty() {
        return true;
    }
    let Some(expected) = stamp_text(path, file) else { return false };
    if fs::read_to_string(stamp_path(path)).is_ok_and(|text| text == expected) {
        return true;
    }
    let hash = File::open(path).and_then(|mut input| hash(&mut input, &mut io::sink(), file.bytes));
    let right = hash.is_ok_and(|(hash, _)| hash == file.sha256);
    if right {
        stamp(path, file);
    }
    right
}

/// Remembers that `path` was found right. Failure costs only a second hashing.
pub(super) fn stamp(path: &Path, file: &FileSpec<'_>) {
    if let Some(text) = stamp_text(path, file) {
        let _ = fs::write(stamp_path(path), text);
    }
}

fn stamp_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sha256");
    PathBuf::from(name)
}

fn stamp_text(path: &Path, file: &FileSpec<'_>) -> Option<String> {
    let meta = path.metadata().ok()?;
    let modified = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
    Some(format!("{} {} {modified}\n", file.sha256, meta.len()))
}

/// Copies `input` to `out` and keeps the result only if size and hash are the card's.
pub(super) fn copy_checked(
    input: &mut dyn Read,
    mut out: NamedTempFile,
    file: &FileSpec<'_>,
) -> Result<NamedTempFile, SourceError> {
    // One byte more than expected is enough to know that it is too long.
    let (found, bytes) = hash(input, out.as_file_mut(), file.bytes.saturating_add(1))?;
    if bytes != file.bytes {
        return Err(SourceError::Size { found: bytes, expected: file.bytes });
    }
    if found != file.sha256 {
        return Err(SourceError::Hash { found, expected: file.sha256.to_owned() });
    }
    Ok(out)
}

/// Copies at most `limit` bytes; returns their hash in hex and their number.
fn hash(input: &mut dyn Read, out: &mut dyn Write, limit: u64) -> io::Result<(String, u64)> {
    let mut input = input.take(limit);
    let mut digest = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut total = 0;
    loop {
        let n = match input.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        digest.update(&chunk[..n]);
        out.write_all(&chunk[..n])?;
        total += n as u64;
    }
    let hex = digest.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok((hex, total))
}
