//! Nothing that a test starts outlives it.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Kills the server and clears its folder when this test process ends in whatever way: a shell that waits for the
/// end of its input, which only this process holds open. A static server is never dropped, and a killed test
/// process runs no destructors at all.
pub(super) struct Watchdog(Child);

impl Watchdog {
    pub(super) fn over(pid: u32, folder: &Path) -> Self {
        let shell = Command::new("sh")
            .arg("-c")
            .arg("cat >/dev/null; kill -9 \"$0\" 2>/dev/null; rm -rf \"$1\"")
            .arg(pid.to_string())
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the watchdog");
        Self(shell)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
