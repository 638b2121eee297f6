//! The load: one thread, kept-alive connections, times counted from the planned arrival.

use std::io::{Error, Result};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep_until, timeout};

/// What has not come after this time counts as an error.
const LIMIT: Duration = Duration::from_secs(20);
/// Connections at once; requests beyond them wait here, and their time runs. Descriptors end somewhere.
const CONNECTIONS: usize = 8_192;

/// Where requests go, and what they say.
pub(crate) struct Target {
    address: SocketAddr,
    key: String,
    model: String,
    idle: Mutex<Vec<Connection>>,
    places: Semaphore,
}

/// What a load saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) latencies: Vec<Duration>,
    pub(crate) errors: usize,
    /// The first of them.
    pub(crate) error: Option<String>,
    pub(crate) wall: Duration,
}

impl Seen {
    fn note(&mut self, outcome: Result<Duration>) {
        match outcome {
            Ok(latency) => self.latencies.push(latency),
            Err(error) => {
                self.errors += 1;
                self.error.get_or_insert_with(|| error.to_string());
            }
        }
    }

    /// The time within which a share `q` of the answers came, ms.
    pub(crate) fn ms(&self, q: f64) -> f64 {
        quantile(&self.latencies, q).as_secs_f64() * 1e3
    }
}

/// What readers of streams saw.
#[derive(Default)]
pub(crate) struct Streamed {
    pub(crate) events: usize,
    pub(crate) gaps: Vec<Duration>,
    pub(crate) errors: usize,
}

/// The sample below which a share `q` of them lies.
pub(crate) fn quantile(samples: &[Duration], q: f64) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    match sorted.len() {
        0 => Duration::MAX,
        n => sorted[((n - 1) as f64 * q).round() as usize],
    }
}

impl Target {
    pub(crate) fn new(address: SocketAddr, key: &str, model: &str) -> Arc<Self> {
        let (key, model) = (key.to_owned(), model.to_owned());
        Arc::new(Self { address, key, model, idle: Mutex::default(), places: Semaphore::new(CONNECTIONS) })
    }

    fn request(&self, max_tokens: u32, stream: bool) -> Vec<u8> {
        let body = json!({
            "model": self.model, "stream": stream, "max_tokens": max_tokens, "temperature": 0,
            "messages": [{"role": "user", "content": "Say one word about rivers."}],
        })
        .to_string();
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: \
             application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            self.key,
            body.len()
        )
        .into_bytes()
    }

    /// Connections kept from earlier may be closed by now; a load begins with new ones.
    pub(crate) fn forget(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// One whole answer.
    pub(crate) async fn once(&self) -> Result<()> {
        let _place = self.places.acquire().await.map_err(Error::other)?;
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match kept {
            Some(connection) => connection,
            None => Connection::open(self.address).await?,
        };
        timeout(LIMIT, connection.exchange(&self.request(1, false))).await??;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(())
    }
}

struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, buffer: Vec::new() })
    }

    async fn more(&mut self) -> Result<()> {
        match self.socket.read_buf(&mut self.buffer).await? {
            0 => Err(Error::other("the server closed the connection")),
            _ => Ok(()),
        }
    }

    /// Sends a request and reads the head of its answer; the rest stays in the buffer from the returned place on.
    async fn ask(&mut self, request: &[u8]) -> Result<usize> {
        self.buffer.clear();
        self.socket.write_all(request).await?;
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                return match self.buffer.starts_with(b"HTTP/1.1 200") {
                    true => Ok(end + 4),
                    false => Err(Error::other(String::from_utf8_lossy(&self.buffer).into_owned())),
                };
            }
            self.more().await?;
        }
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<()> {
        let body = self.ask(request).await?;
        let head = String::from_utf8_lossy(&self.buffer[..body]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| Error::other("an answer without a length"))?;
        while self.buffer.len() < body + length {
            self.more().await?;
        }
        Ok(())
    }

    /// Reads a stream to its end.
    async fn follow(&mut self, request: &[u8], seen: &mut Streamed) -> Result<()> {
        let mut from = self.ask(request).await?;
        let mut last: Option<Instant> = None;
        loop {
            while let Some(at) = find(&self.buffer[from..], b"\n\n") {
                let event = &self.buffer[from..from + at];
                if find(event, b"data: [DONE]").is_some() {
                    return Ok(());
                }
                from += at + 2;
                seen.events += 1;
                let now = Instant::now();
                seen.gaps.extend(last.replace(now).map(|last| now - last));
            }
            self.buffer.drain(..from);
            from = 0;
            self.more().await?;
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Poisson arrivals at `rate` a second for `time`; a slow server does not slow them down.
pub(crate) async fn open_loop(target: &Arc<Target>, rate: f64, time: Duration, seed: u64) -> Seen {
    let (begin, mut state) = (Instant::now(), seed);
    let (mut due, mut tasks) = (begin, Vec::new());
    loop {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let unit = ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
        due += Duration::from_secs_f64(-(1.0 - unit).ln() / rate);
        if due >= begin + time {
            break;
        }
        sleep_until(due.into()).await;
        let target = Arc::clone(target);
        let planned = due;
        tasks.push(tokio::spawn(async move { target.once().await.map(|()| planned.elapsed()) }));
    }
    let mut seen = Seen::default();
    for task in tasks {
        seen.note(task.await.unwrap_or_else(|error| Err(Error::other(error))));
    }
    seen.wall = begin.elapsed();
    seen
}

/// As many requests as `clients` that each wait for their answer can send in `time`.
pub(crate) async fn closed_loop(target: &Arc<Target>, clients: usize, time: Duration) -> Seen {
    let begin = Instant::now();
    let client = |_| {
        let target = Arc::clone(target);
        tokio::spawn(async move {
            let mut seen = Seen::default();
            while begin.elapsed() < time {
                let asked = Instant::now();
                seen.note(target.once().await.map(|()| asked.elapsed()));
            }
            seen
        })
    };
    let tasks: Vec<_> = (0..clients).map(client).collect();
    let mut all = Seen::default();
    for task in tasks {
        let seen = task.await.unwrap_or_default();
        all.latencies.extend(seen.latencies);
        all.errors += seen.errors;
        all.error = all.error.or(seen.error);
    }
    all.wall = begin.elapsed();
    all
}

/// `count` streams of `tokens` tokens each, begun over a second and read side by side.
pub(crate) async fn streams(target: &Arc<Target>, count: usize, tokens: u32) -> Streamed {
    let mut tasks = Vec::new();
    for _ in 0..count {
        let target = Arc::clone(target);
        tasks.push(tokio::spawn(async move {
            let mut seen = Streamed::default();
            let run = async {
                let mut connection = Connection::open(target.address).await?;
                connection.follow(&target.request(tokens, true), &mut seen).await
            };
            if run.await.is_err() {
                seen.errors += 1;
            }
            seen
        }));
        tokio::time::sleep(Duration::from_secs(1) / count as u32).await;
    }
    let mut all = Streamed::default();
    for task in tasks {
        let seen = task.await.unwrap_or_else(|_| Streamed { errors: 1, ..Streamed::default() });
        all.events += seen.events;
        all.errors += seen.errors;
        all.gaps.extend(seen.gaps);
    }
    all
}
