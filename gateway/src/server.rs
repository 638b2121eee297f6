//! The HTTP server: hyper with the timers and bounds that it does not have by itself.

mod connection;
mod signals;

pub use connection::Upgraded;
pub use signals::Signals;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;

use crate::config;
use crate::serving::{Lifecycle, Phase};
use connection::Connection;

/// Connections that the kernel keeps until we accept them.
const BACKLOG: u32 = 1024;
/// What the kernel keeps of a stream whose client reads slowly; the rest waits unsent in the engine, unbilled.
const SEND_BUFFER_BYTES: u32 = 64 << 10;
/// Time for streams to say goodbye after they were cut.
const CUT_GRACE: Duration = Duration::from_secs(5);

/// Deadlines and bounds of connections.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// From the first byte (or the connect) to the end of the header.
    pub header_deadline: Duration,
    /// Between requests.
    pub idle_deadline: Duration,
    /// One write to a client that does not read.
    pub write_deadline: Duration,
    /// Open connections.
    pub max_connections: usize,
    /// Beyond this many header bytes hyper itself answers 431; the precise limit is checked with the request.
    pub hard_header_bytes: usize,
    /// The same for header lines.
    pub hard_headers: usize,
}

impl Options {
    /// The configured values.
    pub fn of(server: &config::Server) -> Self {
        Self {
            header_deadline: Duration::from_secs(server.header_deadline_s),
            idle_deadline: Duration::from_secs(server.idle_deadline_s),
            write_deadline: Duration::from_secs(server.write_deadline_s),
            max_connections: server.max_connections,
            // Above hyper's own bound for the request target, so that a long one gets its 414.
            hard_header_bytes: server.max_header_bytes.max(72 << 10),
            hard_headers: server.max_headers * 2,
        }
    }
}

/// Where a request comes from: the other end of its connection. What proxies say is not believed.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub SocketAddr);

/// Binds a listener.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    // Accepted sockets inherit it.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `router` until `lifecycle` leaves [`Phase::Serving`], then until the last connection has ended or, some
/// time after [`Phase::Cut`], whatever still hangs is dropped.
pub async fn serve(listener: TcpListener, router: Router, options: Options, lifecycle: Lifecycle) {
    let permits = Arc::new(Semaphore::new(options.max_connections));
    let mut tasks = tokio::task::JoinSet::new();
    let connection = Connection { router, options, lifecycle: lifecycle.clone() };
    loop {
        while tasks.try_join_next().is_some() {}
        let next = async {
            // A place first: further clients wait in the kernel's queue.
            let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
            (accept(&listener).await, permit)
        };
        let (stream, permit) = tokio::select! {
            () = lifecycle.reached(Phase::Draining) => break,
            accepted = next => accepted,
        };
        let connection = connection.clone();
        tasks.spawn(async move {
            connection.run(stream).await;
            drop(permit);
        });
    }
    drop(listener);
    let all_ended = async { while tasks.join_next().await.is_some() {} };
    let cut = async {
        lifecycle.reached(Phase::Cut).await;
        tokio::time::sleep(CUT_GRACE).await;
    };
    tokio::select! {
        () = all_ended => {}
        () = cut => tracing::warn!("connections were dropped at the end of the drain"),
    }
}

/// The next connection. Errors of one connection, or a shortage of files, are no reason to stop.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without it the last small write of a stream waits for the client's delayed acknowledgement.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) => {
                let reset = matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::Interrupted
                );
                if !reset {
                    tracing::error!(%error, "cannot accept connections");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}
