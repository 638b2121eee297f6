//! The engine streams of one request, merged.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use engine::{Event, TokenStream};

/// One stream per choice; an ended or dropped one is `None`.
#[derive(Default)]
pub(super) struct Streams {
    open: Vec<Option<TokenStream>>,
    // Where the next look begins, so that no choice starves the others.
    turn: usize,
}

impl Streams {
    pub(super) fn push(&mut self, stream: TokenStream) {
        self.open.push(Some(stream));
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn is_done(&self) -> bool {
        self.open.iter().all(Option::is_none)
    }

    /// Choices whose end was not seen yet.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = usize> {
        self.open.iter().enumerate().filter(|(_, stream)| stream.is_some()).map(|(choice, _)| choice)
    }

    pub(super) fn close(&mut self, choice: usize) {
        self.open[choice] = None;
    }

    /// Cancels everything that still runs.
    pub(super) fn cancel(&mut self) {
        self.open.iter_mut().for_each(|stream| *stream = None);
    }

    /// The next event of any stream; `None` when a stream broke off without its end. Cancel safe, as the streams are.
    pub(super) async fn next(&mut self) -> (usize, Option<Event>) {
        let count = self.open.len();
        let start = self.turn;
        let (choice, event) = poll_fn(|cx| {
            for choice in (start..start + count).map(|i| i % count) {
                let Some(stream) = self.open[choice].as_mut() else { continue };
                if let Poll::Ready(event) = pin!(stream.next()).poll(cx) {
                    return Poll::Ready((choice, event));
                }
            }
            Poll::Pending
        })
        .await;
        self.turn = choice + 1;
        (choice, event)
    }
}
