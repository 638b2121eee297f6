//! One connection: its requests one after the other, and its clocks.

mod io;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::http::header;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tower::ServiceExt;

use super::{Options, PeerAddress};
use crate::serving::{Lifecycle, Phase, WireState};
use io::{Activity, TimedIo};

/// What a connection needs.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) router: Router,
    pub(super) options: Options,
    pub(super) lifecycle: Lifecycle,
}

impl Connection {
    /// Serves until the client leaves, a clock runs out, or the server drains.
    pub(super) async fn run(self, stream: TcpStream) {
        let Self { router, options, lifecycle } = self;
        let peer = stream.peer_addr().ok().map(PeerAddress);
        let wire = Arc::new(WireState::default());
        let activity = Arc::new(Activity::default());
        let io = TimedIo::new(stream, options, Arc::clone(&wire), Arc::clone(&activity));
        let (open, mut all_ended) = mpsc::channel(1);
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let busy = Arc::new(activity.begin());
            let mut request = request.map(Body::new);
            if request.headers().contains_key(header::UPGRADE) {
                let upgraded = Upgraded { _busy: Arc::clone(&busy), _open: open.clone() };
                request.extensions_mut().insert(upgraded);
            }
            request.extensions_mut().insert(Arc::clone(&wire));
            if let Some(peer) = peer {
                request.extensions_mut().insert(peer);
            }
            let router = router.clone();
            async move {
                let response = router.oneshot(request).await?;
                Ok::<_, Infallible>(response.map(|body| Watched { body, _busy: busy }))
            }
        });
        let connection = http1::Builder::new()
            .max_headers(options.hard_headers)
            .max_header_size(options.hard_header_bytes)
            .max_buf_size(options.hard_header_bytes + (8 << 10))
            // The clocks are in `TimedIo`: hyper's own counts idle time as header time.
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        let mut connection = Box::pin(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = lifecycle.reached(Phase::Draining) => {
                connection.as_mut().graceful_shutdown();
                connection.as_mut().await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "connection ended");
        }
        // A connection that speaks another protocol by now lives as long as whoever speaks it.
        drop(connection);
        all_ended.recv().await;
    }
}

/// Comes with requests that ask for another protocol. Whoever speaks it holds this: until then the connection counts as open
/// and busy, and none of HTTP's clocks runs.
#[derive(Clone)]
pub struct Upgraded {
    _busy: Arc<io::Busy>,
    _open: mpsc::Sender<()>,
}

/// A response body that keeps the connection busy until it is gone.
struct Watched {
    body: Body,
    _busy: Arc<io::Busy>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
