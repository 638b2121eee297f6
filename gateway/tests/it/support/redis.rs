//! A real Redis server with a port and a folder of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::server::eventually;
use super::tools::redis_server;
use super::watchdog::Watchdog;

pub(crate) struct Redis {
    child: Child,
    watchdog: Option<Watchdog>,
    port: u16,
    _folder: TempDir,
}

impl Redis {
    /// An empty server that looks as if it had been in use for long: no limit has to fill up first.
    pub(crate) fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let redis = Self::launch(port.expect("a free port").port());
        redis.command("SET spillway:born 0");
        redis
    }

    fn launch(port: u16) -> Self {
        let folder = tempfile::Builder::new().prefix("redis-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let folder = folder.expect("create a folder");
        let child = Command::new(redis_server())
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()])
            .arg("--dir")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the Redis server");
        let watchdog = Some(Watchdog::over(child.id(), folder.path()));
        let redis = Self { child, watchdog, port, _folder: folder };
        eventually("Redis answers", || redis.try_command("PING").is_ok_and(|answer| answer.contains("PONG")));
        redis
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sends one line and returns the first packet of the answer.
    pub(crate) fn command(&self, line: &str) -> String {
        self.try_command(line).expect("Redis answers")
    }

    fn try_command(&self, line: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("{line}\r\n").as_bytes())?;
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    }

    /// kill -9; whatever it held is gone.
    pub(crate) fn kill(&mut self) {
        self.watchdog = None;
        self.child.kill().expect("kill Redis");
        self.child.wait().expect("reap Redis");
    }

    /// Starts it anew on the same port, with nothing in it.
    pub(crate) fn start_empty(&mut self) {
        let port = self.port;
        *self = Self::launch(port);
    }

    /// Stops answering without closing its connections.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status();
        assert!(status.expect("run kill").success(), "kill {signal} failed");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.watchdog = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
