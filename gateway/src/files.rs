//! Files of customers: contents in `files/` of the data directory, what is known about them in `files.db`.
//!
//! A file's content is complete on the disk before its row is written, and its row is gone before its content is: what has
//! a row can be read. What a crash leaves over without one is removed at the next start.

mod draft;
mod schema;
#[cfg(test)]
mod tests;

pub use draft::Draft;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row, ToSql, TransactionBehavior, params};

use crate::config::{FilesSection, make_private_dir};

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Requests of a batch.
    Batch,
    /// Answers of a batch; made by the server alone.
    BatchOutput,
    /// Whatever its owner wants.
    UserData,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Purpose; 3] = [Purpose::Batch, Purpose::BatchOutput, Purpose::UserData];

    /// The spelling in database and API.
    pub fn as_str(self) -> &'static str {
        match self {
            Purpose::Batch => "batch",
            Purpose::BatchOutput => "batch_output",
            Purpose::UserData => "user_data",
        }
    }

    /// The purpose of this name.
    pub fn named(name: &str) -> Option<Purpose> {
        Self::ALL.into_iter().find(|purpose| purpose.as_str() == name)
    }
}

/// What is known about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRow {
    /// `file-...`.
    pub id: String,
    /// Whose room it takes.
    pub org_id: String,
    /// Whose it is; nobody else sees it.
    pub project_id: String,
    /// What it is for.
    pub purpose: Purpose,
    /// As its owner named it.
    pub name: String,
    /// Size of its content.
    pub bytes: u64,
    /// When it was complete, Unix milliseconds.
    pub created_ms: u64,
    /// First instant at which it is gone.
    pub expires_ms: Option<u64>,
}

/// Which files to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Only those of one purpose.
    pub purpose: Option<Purpose>,
    /// Those that come after the file of this id.
    pub after: Option<String>,
    /// The oldest first.
    pub ascending: bool,
    /// Most to list.
    pub limit: usize,
}

/// Why files cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A file or directory cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// The database failed.
    #[error("files database: {0}")]
    Database(#[from] rusqlite::Error),
    /// Made by another version.
    #[error("files database has schema version {found}, this program knows {known}")]
    Schema {
        /// Version in the file.
        found: i64,
        /// Version of this program.
        known: i64,
    },
    /// No room.
    #[error("{what} would be {wanted} {unit}, the limit is {limit}")]
    Full {
        /// Whose room.
        what: &'static str,
        /// With the new file.
        wanted: u64,
        /// Unit of the numbers.
        unit: &'static str,
        /// The limit.
        limit: u64,
    },
}

/// The store; cheap to clone. Calls block on the disk.
#[derive(Clone)]
pub struct Files {
    inner: Arc<Inner>,
}

struct Inner {
    db: Mutex<Connection>,
    folder: PathBuf,
    section: FilesSection,
}

impl Files {
    /// Opens or makes the store in `dir`, and removes what an earlier process left half done.
    pub fn open(dir: &Path, section: &FilesSection, now_ms: u64) -> Result<Self, FileError> {
        let folder = dir.join("files");
        make_private_dir(&folder).map_err(|source| io_error(&folder, source))?;
        let db = schema::open(dir)?;
        let files = Self { inner: Arc::new(Inner { db: Mutex::new(db), folder, section: section.clone() }) };
        files.sweep(now_ms)?;
        files.remove_strays()?;
        Ok(files)
    }

    /// The limits.
    pub fn limits(&self) -> &FilesSection {
        &self.inner.section
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic while holding the lock leaves at worst an open transaction, which its guard has rolled back.
        self.inner.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the content of a file is.
    pub fn path(&self, id: &str) -> PathBuf {
        self.inner.folder.join(id)
    }

    /// A file to be written; nobody sees it before it is [kept](Self::keep).
    pub fn draft(&self, id: &str) -> Result<Draft, FileError> {
        Draft::begin(self.inner.folder.join(format!("{id}.part")))
    }

    /// Refuses what has no room, before it is written.
    pub fn check_room(&self, org_id: &str, bytes: u64) -> Result<(), FileError> {
        self.room(&self.lock(), org_id, bytes)
    }

    fn room(&self, db: &Connection, org_id: &str, bytes: u64) -> Result<(), FileError> {
        let section = &self.inner.section;
        let (org_files, org_bytes): (u64, u64) = db
            .prepare_cached("SELECT files, bytes FROM orgs WHERE org_id = ?1")?
            .query_row([org_id], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?
            .unwrap_or_default();
        let total: u64 =
            db.prepare_cached("SELECT coalesce(sum(bytes), 0) FROM orgs")?.query_row([], |row| row.get(0))?;
        let mib = 1 << 20;
        let checks = [
            ("your organization's files", org_files + 1, "files", section.org_files),
            ("your organization's files together", org_bytes + bytes, "bytes", section.org_mib * mib),
            ("this server's files together", total + bytes, "bytes", section.total_mib * mib),
        ];
        match checks.into_iter().find(|(_, wanted, _, limit)| wanted > limit) {
            Some((what, wanted, unit, limit)) => Err(FileError::Full { what, wanted, unit, limit }),
            None => Ok(()),
        }
    }

    /// Makes a draft a file, where there is room. What the server makes itself, like the answers of a batch, which are
    /// paid, is never refused; a second one of the same id takes the place of the first.
    pub fn keep(&self, draft: Draft, mut row: FileRow) -> Result<FileRow, FileError> {
        row.bytes = draft.bytes();
        let mut db = self.lock();
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if row.purpose != Purpose::BatchOutput {
            self.room(&tx, &row.org_id, row.bytes)?;
        }
        draft.place(&self.path(&row.id))?;
        tx.prepare_cached(
            "INSERT OR REPLACE INTO files (id, org_id, project_id, purpose, name, bytes, created_ms, expires_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            row.id,
            row.org_id,
            row.project_id,
            row.purpose.as_str(),
            row.name,
            row.bytes,
            row.created_ms,
            row.expires_ms
        ])?;
        tx.commit()?;
        Ok(row)
    }

    /// A project's file.
    pub fn get(&self, project_id: &str, id: &str, now_ms: u64) -> Result<Option<FileRow>, FileError> {
        let db = self.lock();
        let mut statement = db.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM files
             WHERE id = ?1 AND project_id = ?2 AND (expires_ms IS NULL OR expires_ms > ?3)"
        ))?;
        Ok(statement.query_row(params![id, project_id, now_ms], read).optional()?)
    }

    /// A project's files, and whether there are more; `None` where `after` is not among them.
    pub fn list(
        &self,
        project_id: &str,
        listing: &Listing,
        now_ms: u64,
    ) -> Result<Option<(Vec<FileRow>, bool)>, FileError> {
        let db = self.lock();
        let place: Option<i64> = match &listing.after {
            None => None,
            Some(id) => {
                let mut find =
                    db.prepare_cached("SELECT seq FROM files WHERE id = ?1 AND project_id = ?2")?;
                match find.query_row([id, project_id], |row| row.get(0)).optional()? {
                    Some(seq) => Some(seq),
                    None => return Ok(None),
                }
            }
        };
        let (side, order) = if listing.ascending { (">", "ASC") } else { ("<", "DESC") };
        let mut statement = db.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM files
             WHERE project_id = ?1 AND (expires_ms IS NULL OR expires_ms > ?2)
                AND (?3 IS NULL OR seq {side} ?3) AND (?4 IS NULL OR purpose = ?4)
             ORDER BY seq {order} LIMIT ?5"
        ))?;
        let purpose = listing.purpose.map(Purpose::as_str);
        let most = listing.limit.saturating_add(1);
        let wanted: [&dyn ToSql; 5] = [&project_id, &now_ms, &place, &purpose, &most];
        let rows = statement.query_map(&wanted[..], read)?;
        let mut rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        let has_more = rows.len() > listing.limit;
        rows.truncate(listing.limit);
        Ok(Some((rows, has_more)))
    }

    /// Forgets a project's file; false where it has none of this id.
    pub fn delete(&self, project_id: &str, id: &str, now_ms: u64) -> Result<bool, FileError> {
        let sql = "DELETE FROM files
                   WHERE id = ?1 AND project_id = ?2 AND (expires_ms IS NULL OR expires_ms > ?3)";
        let found = self.lock().prepare_cached(sql)?.execute(params![id, project_id, now_ms])? > 0;
        if found {
            self.remove_content(id)?;
        }
        Ok(found)
    }

    /// Opens the content of a file.
    pub fn content(&self, id: &str) -> Result<File, FileError> {
        let path = self.path(id);
        File::open(&path).map_err(|source| io_error(&path, source))
    }

    /// Removes files whose time is over; nobody has seen them from its first instant on.
    pub fn sweep(&self, now_ms: u64) -> Result<(), FileError> {
        let db = self.lock();
        let mut statement = db.prepare_cached("DELETE FROM files WHERE expires_ms <= ?1 RETURNING id")?;
        let gone = statement.query_map([now_ms], |row| row.get::<_, String>(0))?;
        let gone = gone.collect::<rusqlite::Result<Vec<_>>>()?;
        gone.iter().try_for_each(|id| self.remove_content(id))
    }

    fn remove_content(&self, id: &str) -> Result<(), FileError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&path, error)),
            _ => Ok(()),
        }
    }

    /// Removes contents without a row: drafts, and those whose row was the last thing that an earlier process removed.
    fn remove_strays(&self) -> Result<(), FileError> {
        let folder = &self.inner.folder;
        let db = self.lock();
        let mut known = db.prepare("SELECT 1 FROM files WHERE id = ?1")?;
        for entry in fs::read_dir(folder).map_err(|source| io_error(folder, source))? {
            let entry = entry.map_err(|source| io_error(folder, source))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !known.exists([&name])? {
                self.remove_content(&name)?;
            }
        }
        Ok(())
    }
}

fn io_error(path: &Path, source: io::Error) -> FileError {
    FileError::Io { path: path.display().to_string(), source }
}

const COLUMNS: &str = "id, org_id, project_id, purpose, name, bytes, created_ms, expires_ms";

fn read(row: &Row<'_>) -> rusqlite::Result<FileRow> {
    let purpose: String = row.get(3)?;
    Ok(FileRow {
        id: row.get(0)?,
        org_id: row.get(1)?,
        project_id: row.get(2)?,
        purpose: Purpose::named(&purpose).unwrap_or(Purpose::UserData),
        name: row.get(4)?,
        bytes: row.get(5)?,
        created_ms: row.get(6)?,
        expires_ms: row.get(7)?,
    })
}
