//! A real PostgreSQL server, one for all tests, and databases in it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use postgres::{Client, NoTls};

use super::server::eventually;
use super::tools::postgres_programs;
use super::watchdog::Watchdog;

/// The server refuses to run as root; then it runs as the user that owns nothing.
const NOBODY: u32 = 65_534;

struct Postgres {
    port: u16,
    /// Kept so that the server ends with the tests.
    _child: Child,
    _watchdog: Watchdog,
}

/// Address of a new, empty database.
pub(crate) fn database() -> String {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let port = SERVER.get_or_init(start).port;
    let name = format!("ledger_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let mut client = Client::connect(&address(port, "postgres"), NoTls).expect("connect to PostgreSQL");
    client.batch_execute(&format!("CREATE DATABASE {name}")).expect("create a database");
    address(port, &name)
}

/// One number from a query.
pub(crate) fn number(url: &str, sql: &str) -> i64 {
    let mut client = Client::connect(url, NoTls).expect("connect to PostgreSQL");
    client.query_one(sql, &[]).expect("a row").get(0)
}

fn address(port: u16, database: &str) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/{database}")
}

fn start() -> Postgres {
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    let (programs, base) = reachable(&postgres_programs(), is_root);
    let folder =
        tempfile::Builder::new().prefix("postgres-").tempdir_in(base).expect("create a folder").keep();
    if is_root {
        chown(&folder, Some(NOBODY), Some(NOBODY)).expect("give the folder away");
    }
    let program = |name: &str| {
        let mut command = Command::new(programs.join(name));
        command.current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    };
    let made = program("initdb")
        .args([
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
            "--pgdata=data",
        ])
        .status();
    assert!(made.expect("run initdb").success(), "initdb failed in {}", folder.display());
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = port.expect("a free port").port();
    let child = program("postgres")
        .args(["-D", "data", "-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
        .args(["-c", "unix_socket_directories=", "-c", "max_connections=60", "-c", "shared_buffers=16MB"])
        .spawn()
        .expect("start PostgreSQL");
    let watchdog = Watchdog::over(child.id(), &folder);
    eventually("PostgreSQL answers", || Client::connect(&address(port, "postgres"), NoTls).is_ok());
    Postgres { port, _child: child, _watchdog: watchdog }
}

/// The programs and a place for data where every user can get at them.
fn reachable(programs: &Path, is_root: bool) -> (PathBuf, PathBuf) {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let is_open = |path: &Path| {
        path.ancestors()
            .all(|folder| fs::metadata(folder).is_ok_and(|found| found.permissions().mode() & 1 == 1))
    };
    if !is_root || (is_open(programs) && is_open(&target)) {
        return (programs.to_owned(), target);
    }
    let base = std::env::temp_dir().join(format!("spillway-postgres-{}", std::process::id()));
    fs::create_dir_all(&base).expect("create a folder");
    let install = programs.parent().expect("programs are in a folder");
    let copied = Command::new("cp").arg("-r").arg(install).arg(&base).status();
    assert!(copied.expect("run cp").success(), "the server's programs cannot be copied");
    (base.join(install.file_name().expect("a name")).join("bin"), base)
}
