//! How fast an answer comes, as far as it is the server's doing.

use std::time::{Duration, Instant};

use crate::ledger::{EndReason, Pace};

/// Measures one request. Time between an answer to its reader and the reader's next question is the reader's own.
#[derive(Debug)]
pub(super) struct Stopwatch {
    arrived: Instant,
    /// When the reader was last told something and has not asked again.
    told: Option<Instant>,
    /// Time that the reader took.
    idle: Duration,
    choices: Vec<Option<Span>>,
}

/// The pieces of one choice, by the server's own time.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: Duration,
    last: Duration,
    /// Tokens after the first piece.
    tokens: u32,
}

impl Stopwatch {
    pub(super) fn new(arrived: Instant, choices: usize) -> Self {
        Self { arrived, told: None, idle: Duration::ZERO, choices: vec![None; choices] }
    }

    /// The reader asks for more.
    pub(super) fn asked(&mut self, now: Instant) {
        if let Some(told) = self.told.take() {
            self.idle += now.saturating_duration_since(told);
        }
    }

    /// The reader got something to deal with.
    pub(super) fn told(&mut self, now: Instant) {
        self.told = Some(now);
    }

    /// Time that the reader took until now.
    pub(super) fn idle(&self) -> Duration {
        self.idle
    }

    /// A piece of `tokens` tokens of a choice is there.
    pub(super) fn piece(&mut self, choice: usize, tokens: u32, now: Instant) {
        let at = self.own(now);
        match &mut self.choices[choice] {
            Some(span) => {
                span.last = at;
                span.tokens += tokens;
            }
            first => *first = Some(Span { first: at, last: at, tokens: 0 }),
        }
    }

    /// What it comes to; `None` where there was no token yet.
    pub(super) fn pace(&self) -> Option<Pace> {
        let spans = || self.choices.iter().flatten();
        let first = spans().map(|span| span.first).min()?;
        let between: Duration = spans().map(|span| span.last - span.first).sum();
        let tokens: u32 = spans().map(|span| span.tokens).sum();
        let gap = (tokens > 0).then(|| between / tokens);
        Some(Pace { wait_ms: whole(first.as_millis()), gap_us: gap.map(|gap| whole(gap.as_micros())) })
    }

    /// What it comes to for a request that ended like this; without a token by our own fault, how long that took.
    pub(super) fn ended(&self, end: EndReason) -> Option<Pace> {
        let ours = !matches!(end, EndReason::Finished | EndReason::Disconnected | EndReason::Budget);
        self.pace().or_else(|| ours.then(|| self.in_vain(Instant::now())))
    }

    /// That of a request that is given up at `now` without a token.
    fn in_vain(&self, now: Instant) -> Pace {
        Pace { wait_ms: whole(self.own(now).as_millis()), gap_us: None }
    }

    fn own(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.arrived).saturating_sub(self.idle)
    }
}

fn whole(count: u128) -> u32 {
    // The largest number stands for none in the ledger's hash.
    u32::try_from(count).unwrap_or(u32::MAX).min(u32::MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reader_is_not_waited_for_and_choices_are_measured_apart() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut watch = Stopwatch::new(begin, 2);
        assert_eq!(watch.pace(), None);
        assert_eq!(watch.in_vain(at(70)), Pace { wait_ms: 70, gap_us: None });
        watch.piece(0, 3, at(100));
        assert_eq!(watch.pace(), Some(Pace { wait_ms: 100, gap_us: None }), "one piece has no gap");
        watch.told(at(100));
        // The reader is away for 900 ms.
        watch.asked(at(1_000));
        watch.piece(0, 1, at(1_040));
        watch.piece(0, 2, at(1_060));
        watch.piece(1, 1, at(1_100));
        watch.piece(1, 1, at(1_200));
        // 60 ms for three tokens of one choice, 100 ms for one of the other.
        assert_eq!(watch.pace(), Some(Pace { wait_ms: 100, gap_us: Some(40_000) }));
        assert_eq!(watch.idle(), Duration::from_millis(900));
    }
}
