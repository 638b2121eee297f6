//! The stretch of time that a report covers.

use crate::civil::{self, CivilError};

/// From `from_ms` up to but not including `to_ms`, by when a request was settled; Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// First instant in it.
    pub from_ms: u64,
    /// First instant after it.
    pub to_ms: u64,
}

/// Why a period is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PeriodError {
    /// One of its ends is no instant.
    #[error(transparent)]
    Instant(#[from] CivilError),
    /// It ends before it begins.
    #[error("the period ends ({to}) before it begins ({from})")]
    Reversed {
        /// Begin.
        from: String,
        /// End.
        to: String,
    },
}

impl Period {
    /// All time.
    pub const ALL: Period = Period { from_ms: 0, to_ms: i64::MAX as u64 };

    /// From dates (midnight UTC) or RFC 3339 times; an end left out is open. `to` itself is outside.
    pub fn parse(from: Option<&str>, to: Option<&str>) -> Result<Period, PeriodError> {
        let from_ms = from.map_or(Ok(Self::ALL.from_ms), civil::parse_ms)?;
        let to_ms = to.map_or(Ok(Self::ALL.to_ms), civil::parse_ms)?;
        if from_ms > to_ms {
            let (from, to) = (civil::format_ms(from_ms), civil::format_ms(to_ms));
            return Err(PeriodError::Reversed { from, to });
        }
        Ok(Period { from_ms, to_ms })
    }
}
