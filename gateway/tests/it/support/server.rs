//! A real `spillway serve` process with its own data folder, and its command line.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::config::{Config, KeyOptions};
use super::export::{Row, rows};
use super::http::{Method, Reply, Wire};
use super::stream::{Events, Transcript};
use super::watchdog::Watchdog;

const PROGRAM: &str = env!("CARGO_BIN_EXE_spillway");
/// A debug-free start takes a second or two; the rest is room for a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running server. Killed and reaped when dropped.
pub(crate) struct Server {
    child: Child,
    watchdog: Option<Watchdog>,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    data: Arc<TempDir>,
    /// Everything that the process has printed so far.
    log: Arc<Mutex<String>>,
}

/// A fresh data folder on the disk that holds the target folder.
pub(crate) fn data_folder() -> Arc<TempDir> {
    let folder = tempfile::Builder::new().prefix("spillway-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
    Arc::new(folder.expect("create a data folder"))
}

impl Server {
    pub(crate) fn start(config: &Config) -> Self {
        Self::start_in(data_folder(), config)
    }

    /// Starts on a data folder that may have been used before.
    pub(crate) fn start_in(data: Arc<TempDir>, config: &Config) -> Self {
        Self::start_under("", data, config)
    }

    /// Starts with limits of the process that a line of shell sets before.
    pub(crate) fn start_under(limits: &str, data: Arc<TempDir>, config: &Config) -> Self {
        let file = data.path().join("test.toml");
        std::fs::write(&file, config.render()).expect("write the configuration");
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{limits}\nexec \"$0\" \"$@\""), PROGRAM]);
        let mut child = prepared(shell, data.path())
            .arg("serve")
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start spillway");
        let log = Arc::new(Mutex::new(String::new()));
        let lines = follow(&mut child, &log);
        let watchdog = Watchdog::over(child.id(), data.path());
        let Some((address, admin)) = await_ready(&lines) else {
            let _ = child.kill();
            let status = child.wait();
            drop(watchdog);
            panic!("spillway did not become ready ({status:?}); it printed:\n{}", log.lock().expect("log"));
        };
        Self { child, watchdog: Some(watchdog), address, admin, data, log }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn data(&self) -> Arc<TempDir> {
        Arc::clone(&self.data)
    }

    pub(crate) fn printed(&self) -> String {
        self.log.lock().expect("log").clone()
    }

    /// Runs a subcommand on the data folder of this server.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        cli(self.data.path(), arguments)
    }

    /// Creates a key, waits until it works, and returns its text.
    pub(crate) fn key(&self, options: KeyOptions) -> String {
        let arguments = options.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = self.cli(&arguments);
        assert!(output.status.success(), "{arguments:?} failed: {}", said(&output));
        let key = String::from_utf8(output.stdout).expect("a key is text").trim().to_owned();
        self.await_key(&key);
        key
    }

    /// Waits until a key that another process has made works here.
    pub(crate) fn await_key(&self, key: &str) {
        let bearer = format!("Bearer {key}");
        let headers = [("Authorization", bearer.as_str())];
        eventually("the new key works", || self.get("/v1/models", &headers).status() == 200);
    }

    /// The export of everything, one row a request.
    pub(crate) fn export(&self) -> Vec<Row> {
        rows(self.data.path())
    }

    /// The settled row of a request, awaited: rows of cut streams appear a moment after the cut.
    pub(crate) fn row(&self, request_id: &str) -> Row {
        let mut found = None;
        eventually(&format!("a row of {request_id} in the export"), || {
            found = self.export().into_iter().find(|row| row.request_id == request_id);
            found.is_some()
        });
        found.expect("awaited above")
    }

    /// Fails unless `verify` says that the ledger balances.
    pub(crate) fn verify(&self) {
        let output = self.cli(&["verify"]);
        assert!(output.status.success(), "verify failed with {}: {}", output.status, said(&output));
    }

    pub(crate) fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.exchange(self.address, Method::Get, path, headers, None)
    }

    pub(crate) fn delete(&self, path: &str, key: &str) -> Reply {
        let bearer = format!("Bearer {key}");
        self.exchange(self.address, Method::Delete, path, &[("Authorization", &bearer)], None)
    }

    /// Gets with a bearer key.
    pub(crate) fn fetch(&self, path: &str, key: &str) -> Reply {
        self.get(path, &[("Authorization", &format!("Bearer {key}"))])
    }

    /// Opens a stream by GET.
    pub(crate) fn fetch_events(&self, path: &str, key: &str) -> Events {
        let mut wire = Wire::connect(self.address).expect("connect");
        let bearer = format!("Bearer {key}");
        wire.request(Method::Get, path, &[("Authorization", &bearer)], None).expect("write");
        Events::open(wire).expect("a stream opens")
    }

    pub(crate) fn admin_get(&self, path: &str) -> Reply {
        self.exchange(self.admin, Method::Get, path, &[], None)
    }

    /// Speaks to the private listener with an admin key.
    pub(crate) fn operate(&self, method: Method, path: &str, key: &str, body: Option<&Value>) -> Reply {
        self.operate_raw(method, path, &[("Authorization", &format!("Bearer {key}"))], body)
    }

    /// Speaks to the private listener.
    pub(crate) fn operate_raw(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Reply {
        let body = body.map(Value::to_string);
        self.exchange(self.admin, method, path, headers, body.as_ref().map(String::as_bytes))
    }

    /// Makes an admin key.
    pub(crate) fn admin_key(&self) -> String {
        let output = self.cli(&["admin-keys", "create", "--name", "test"]);
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).expect("a key is text").trim().to_owned()
    }

    /// Posts JSON with a bearer key.
    pub(crate) fn post(&self, path: &str, key: &str, body: &Value) -> Reply {
        self.post_raw(path, &[("Authorization", &format!("Bearer {key}"))], body.to_string().as_bytes())
    }

    pub(crate) fn post_raw(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.exchange(self.address, Method::Post, path, headers, Some(body))
    }

    pub(crate) fn chat(&self, key: &str, body: &Value) -> Reply {
        self.post("/v1/chat/completions", key, body)
    }

    fn exchange(
        &self,
        address: SocketAddr,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Reply {
        let sent = Wire::connect(address).and_then(|mut wire| {
            // The server may answer and close before it has read a body that it refuses.
            let written = wire.request(method, path, headers, body);
            match wire.reply() {
                Ok(Some(reply)) => Ok(reply),
                Ok(None) => Err(written.err().unwrap_or(std::io::ErrorKind::UnexpectedEof.into())),
                Err(e) => Err(e),
            }
        });
        sent.unwrap_or_else(|e| {
            panic!("{method:?} {path} got no answer: {e}; the server printed:\n{}", self.printed())
        })
    }

    /// Opens a stream; an answer other than 200 is an error that holds it.
    pub(crate) fn try_events(&self, path: &str, key: &str, body: &Value) -> std::io::Result<Events> {
        let mut wire = Wire::connect(self.address)?;
        let bearer = format!("Bearer {key}");
        wire.request(Method::Post, path, &[("Authorization", &bearer)], Some(body.to_string().as_bytes()))?;
        Events::open(wire)
    }

    /// Opens a chat stream.
    pub(crate) fn events(&self, key: &str, body: &Value) -> Events {
        self.try_events("/v1/chat/completions", key, body).expect("a stream opens")
    }

    /// Reads a whole chat stream.
    pub(crate) fn stream(&self, key: &str, body: &Value) -> Transcript {
        self.events(key, body).transcript().finished()
    }

    /// A sample of the metrics page, summed over its labels; `None` where it is absent.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let page = self.admin_get("/metrics").text();
        let values = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (label, value) = line.rsplit_once(' ')?;
            (label.split('{').next() == Some(name)).then(|| value.parse::<f64>().ok()).flatten()
        });
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// Sequences in the running batch.
    pub(crate) fn running(&self) -> u64 {
        let running = self.metric("spillway_engine_running").expect("the metric of running sequences exists");
        running as u64
    }

    /// Resident memory, KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("read process status");
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("the status names VmRSS");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("VmRSS is a number")
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// kill -9 without waiting.
    pub(crate) fn kill_hard(&mut self) {
        self.child.kill().expect("kill -9 the server");
    }

    pub(crate) fn terminate(&self) {
        let status = Command::new("kill").arg("-TERM").arg(self.pid().to_string()).status();
        assert!(status.expect("run kill").success(), "kill -TERM failed");
    }

    /// Waits for the process to end by itself.
    pub(crate) fn exit_status(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the server ends", || {
            status = self.child.try_wait().expect("wait for the server");
            status.is_some()
        });
        status.expect("awaited above")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // First the watchdog, so that it cannot shoot at a number that was given away again.
        self.watchdog = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!(
                "the server printed:\n{}",
                self.log.lock().map(|l| tail(&l, 4_000)).unwrap_or_default()
            );
        }
    }
}

fn tail(text: &str, bytes: usize) -> String {
    let start = text.len().saturating_sub(bytes);
    let start = (start..=text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    text[start..].to_owned()
}

/// The program with the data folder set and no settings taken from the environment.
pub(crate) fn command(data: &Path) -> Command {
    prepared(Command::new(PROGRAM), data)
}

fn prepared(mut command: Command, data: &Path) -> Command {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SPILLWAY_")) {
        command.env_remove(name);
    }
    command.env("SPILLWAY_DATA", data).current_dir(data);
    command
}

pub(crate) fn cli(data: &Path, arguments: &[&str]) -> Output {
    command(data).args(arguments).arg("--data").arg(data).output().expect("run spillway")
}

/// Both outputs of a command, for failure messages.
pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Collects what the process prints, and hands its lines on.
fn follow(child: &mut Child, log: &Arc<Mutex<String>>) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let stdout: Box<dyn std::io::Read + Send> = Box::new(child.stdout.take().expect("stdout is piped"));
    let stderr: Box<dyn std::io::Read + Send> = Box::new(child.stderr.take().expect("stderr is piped"));
    for pipe in [stdout, stderr] {
        let (sender, log) = (sender.clone(), Arc::clone(log));
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let mut log = log.lock().expect("log");
                log.push_str(&line);
                log.push('\n');
                drop(log);
                let _ = sender.send(line);
            }
        });
    }
    receiver
}

/// Waits for `ready http://ADDRESS admin http://ADDRESS`; `None` when the process ended or stayed silent.
fn await_ready(lines: &Receiver<String>) -> Option<(SocketAddr, SocketAddr)> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let line = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()?;
        if let Some((_, rest)) = line.split_once("ready http://") {
            let (address, admin) = rest.split_once(" admin http://")?;
            let first = |text: &str| text.split(['/', ' ', '"']).next().and_then(|a| a.parse().ok());
            return Some((first(address)?, first(admin)?));
        }
    }
}

/// Polls until `holds`; fails the test after a generous deadline.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "this did not come true in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One server for the tests that leave nothing behind, and a key without limits.
pub(crate) fn shared() -> (&'static Server, &'static str) {
    static SHARED: OnceLock<(Server, String)> = OnceLock::new();
    let (server, key) = SHARED.get_or_init(|| {
        let server = Server::start(&Config::new());
        let key = server.key(KeyOptions { project: "shared", ..KeyOptions::default() });
        (server, key)
    });
    (server, key)
}
