//! Exported files against the ledger: each is what the ledger says, and no row is in two of them or in none.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::{Hashed, Manifest};
use crate::config::Reports;
use crate::ledger::details::hex;
use crate::ledger::export::{ExportError, Format, Request, export};
use crate::ledger::period::Period;

/// Ending of a manifest's name.
const SUFFIX: &str = ".manifest.json";

/// What was found in a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Files with a manifest.
    pub files: u64,
    /// Of them, files of a period that is not over: right when written, but not the last word.
    pub open: u64,
    /// What is wrong.
    pub problems: Vec<String>,
}

/// Checks every file in `folder` that has a manifest against the ledger in `dir`.
pub fn check_folder(dir: &Path, folder: &Path) -> Result<Checked, ExportError> {
    let failed = |source| ExportError::Write { path: folder.display().to_string(), source };
    let mut checked = Checked::default();
    let mut series: BTreeMap<(String, Option<String>), Vec<Manifest>> = BTreeMap::new();
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(failed)?;
    let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.to_string_lossy().ends_with(SUFFIX)) {
        let text = fs::read_to_string(path).map_err(failed)?;
        let manifest: Manifest = match serde_json::from_str(&text) {
            Ok(manifest) => manifest,
            Err(error) => {
                checked.problems.push(format!("{}: {error}", path.display()));
                continue;
            }
        };
        checked.files += 1;
        checked.open += u64::from(!manifest.is_final);
        if let Err(problem) = check_file(dir, folder, &manifest)? {
            checked.problems.push(format!("{}: {problem}", manifest.file));
        }
        series.entry((manifest.format.clone(), manifest.organisation_id.clone())).or_default().push(manifest);
    }
    for manifests in series.values_mut() {
        // A period without rows has no place in the sequence.
        manifests.retain(|manifest| manifest.ledger.first_sequence.is_some());
        manifests.sort_by(|a, b| a.from.cmp(&b.from));
        checked.problems.extend(manifests.windows(2).filter_map(|pair| gap(&pair[0], &pair[1])));
    }
    Ok(checked)
}

/// The file has the manifest's hash, and so has what the ledger gives now.
fn check_file(dir: &Path, folder: &Path, manifest: &Manifest) -> Result<Result<(), String>, ExportError> {
    if manifest.file.contains('/') {
        return Ok(Err("the manifest names a path, not a file".to_owned()));
    }
    let mut on_disk = Hashed::new(io::sink());
    let copied =
        fs::File::open(folder.join(&manifest.file)).and_then(|mut file| io::copy(&mut file, &mut on_disk));
    if let Err(error) = copied {
        return Ok(Err(error.to_string()));
    }
    if hex(&on_disk.finish().0) != manifest.sha256 {
        return Ok(Err("the file is not what was exported: its SHA-256 differs".to_owned()));
    }
    let format = Format::ALL.into_iter().find(|format| format.as_str() == manifest.format);
    let (Some(format), Ok(period)) = (format, Period::parse(Some(&manifest.from), Some(&manifest.to))) else {
        return Ok(Err("the manifest names a format or period that does not exist".to_owned()));
    };
    if !manifest.is_final {
        return Ok(Ok(()));
    }
    let reports = Reports {
        provider: manifest.provider.clone(),
        region: manifest.region.clone(),
        max_tag_sets: manifest.max_tag_sets,
        ..Reports::default()
    };
    let org_id = manifest.organisation_id.as_deref();
    let request = Request { format, period, org_id, reports: &reports, customers: &manifest.customers };
    let mut now = Hashed::new(io::sink());
    let summary = export(dir, &request, &mut now)?;
    let rows = (manifest.ledger.first_sequence, manifest.ledger.last_sequence);
    if hex(&now.finish().0) != manifest.sha256 || (summary.first_seq, summary.last_seq) != rows {
        return Ok(Err("the ledger gives another file for this period".to_owned()));
    }
    Ok(Ok(()))
}

/// What is between or in both of two files that follow each other.
fn gap(first: &Manifest, second: &Manifest) -> Option<String> {
    let (last, next) = (first.ledger.last_sequence?, second.ledger.first_sequence?);
    let files = format!("{} and {}", first.file, second.file);
    if next <= last {
        return Some(format!("rows {next} to {last} are in both {files}"));
    }
    if next > last + 1 {
        return Some(format!("rows {} to {} are in neither {files}", last + 1, next - 1));
    }
    (first.ledger.last_sha256 != second.ledger.previous_sha256)
        .then(|| format!("{files} are of two different ledgers"))
}
