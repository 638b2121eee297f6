//! The Hugging Face hub as a source.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Repo, RepoType};

use super::{Progress, SourceError};

struct Report<'a> {
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl hf_hub::api::Progress for Report<'_> {
    fn init(&mut self, _size: usize, _filename: &str) {}

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        (self.progress)(Progress { done: self.done.min(self.total), total: self.total });
    }

    fn finish(&mut self) {}
}

/// Downloads one file into `room`. There is one try: a hub that cannot be reached is given up for the next source.
pub(super) fn download(
    repo: &str,
    revision: &str,
    file: &str,
    room: &Path,
    total: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, SourceError> {
    let api = ApiBuilder::from_env()
        .with_cache_dir(room.to_owned())
        .with_progress(false)
        .with_retries(0)
        .build()?;
    let repo = Repo::with_revision(repo.to_owned(), RepoType::Model, revision.to_owned());
    Ok(api.repo(repo).download_with_progress(file, Report { done: 0, total, progress })?)
}
