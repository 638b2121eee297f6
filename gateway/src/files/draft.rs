//! A file that is still being written.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{FileError, io_error};

/// Removed when it is dropped.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    file: File,
    bytes: u64,
    placed: bool,
}

impl Draft {
    pub(super) fn begin(path: PathBuf) -> Result<Self, FileError> {
        let file = File::create(&path).map_err(|source| io_error(&path, source))?;
        Ok(Self { path, file, bytes: 0, placed: false })
    }

    /// Appends.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.file.write_all(bytes).map_err(|source| io_error(&self.path, source))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives it its name, durably.
    pub(super) fn place(mut self, path: &Path) -> Result<(), FileError> {
        let placed = self.file.sync_all().and_then(|()| fs::rename(&self.path, path)).and_then(|()| {
            let folder = path.parent().unwrap_or(path);
            File::open(folder)?.sync_all()
        });
        placed.map_err(|source| io_error(path, source))?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.placed {
            // Where it cannot be removed now, the next start does it.
            let _ = fs::remove_file(&self.path);
        }
    }
}
