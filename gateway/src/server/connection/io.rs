//! A socket with clocks: for a header that does not come, and for a client that does not read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::server::Options;
use crate::serving::WireState;

/// What is expected of the client.
#[derive(Debug, Default)]
pub(super) struct Activity(AtomicU8);

/// Nothing of the next request has come.
const IDLE: u8 = 1;
/// A header is on its way; also the state of a new connection.
const HEADER: u8 = 0;
/// A request is being served; it has clocks of its own.
const BUSY: u8 = 2;

impl Activity {
    /// A request is served until the returned value is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.0.store(BUSY, Ordering::Release);
        Busy(Arc::clone(self))
    }
}

/// A request in service.
pub(super) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.store(IDLE, Ordering::Release);
    }
}

/// See the module.
pub(super) struct TimedIo<T> {
    io: T,
    options: Options,
    wire: Arc<WireState>,
    activity: Arc<Activity>,
    /// What the read clock was set for.
    clocked: u8,
    read_clock: Pin<Box<Sleep>>,
    /// Runs while the socket takes nothing.
    write_clock: Option<Pin<Box<Sleep>>>,
}

impl<T> TimedIo<T> {
    pub(super) fn new(io: T, options: Options, wire: Arc<WireState>, activity: Arc<Activity>) -> Self {
        let read_clock = Box::pin(sleep(options.header_deadline));
        Self { io, options, wire, activity, clocked: HEADER, read_clock, write_clock: None }
    }

    /// Fails when the client is late with what is expected of it.
    fn poll_read_clock(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let state = self.activity.0.load(Ordering::Acquire);
        if state != self.clocked {
            self.clocked = state;
            let limit = if state == IDLE { self.options.idle_deadline } else { self.options.header_deadline };
            self.read_clock.as_mut().reset(Instant::now() + limit);
        }
        if state == BUSY {
            return Poll::Pending;
        }
        ready!(self.read_clock.as_mut().poll(cx));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "no request in time"))
    }

    /// Notes whether the socket takes bytes, and fails when it has not for too long.
    fn after_write(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Pending => {
                self.wire.set_blocked(true);
                let limit = self.options.write_deadline;
                let clock = self.write_clock.get_or_insert_with(|| Box::pin(sleep(limit)));
                ready!(clock.as_mut().poll(cx));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
            }
            Poll::Ready(Ok(_)) => {
                self.write_clock = None;
                if self.wire.set_blocked(false) {
                    // A body may wait for this: let the connection ask it again.
                    cx.waker().wake_by_ref();
                }
                result
            }
            Poll::Ready(Err(_)) => {
                self.wire.set_blocked(true);
                result
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for TimedIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Pending => self.poll_read_clock(cx).map(Err),
            Poll::Ready(result) => {
                if buf.filled().len() > before {
                    // The first bytes of a request start its header's clock.
                    let _ =
                        self.activity.0.compare_exchange(IDLE, HEADER, Ordering::AcqRel, Ordering::Acquire);
                } else if buf.remaining() > 0 {
                    self.wire.set_gone();
                }
                Poll::Ready(result)
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for TimedIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.after_write(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.after_write(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    fn options() -> Options {
        let short = Duration::from_millis(5);
        Options {
            header_deadline: short,
            idle_deadline: short,
            write_deadline: short,
            max_connections: 1,
            hard_header_bytes: 8192,
            hard_headers: 8,
        }
    }

    #[tokio::test]
    async fn late_headers_and_stuck_writes_fail_but_a_served_request_has_time() {
        let (near, mut far) = duplex(16);
        let (wire, activity) = (Arc::new(WireState::default()), Arc::new(Activity::default()));
        let mut io = TimedIo::new(near, options(), Arc::clone(&wire), Arc::clone(&activity));
        let mut buf = [0; 8];
        assert_eq!(io.read(&mut buf).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let busy = activity.begin();
        let patient = tokio::time::timeout(Duration::from_millis(50), io.read(&mut buf));
        assert!(patient.await.is_err(), "no clock runs while a request is served");
        drop(busy);
        assert_eq!(io.read(&mut buf).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(io.write_all(&[0; 64]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(wire.is_blocked());
        far.read_exact(&mut [0; 16]).await.unwrap();
        io.write_all(&[1; 4]).await.unwrap();
        assert!(!wire.is_blocked());
    }
}
