//! Instants as Unix milliseconds, and their text form (RFC 3339, always UTC on output).
//!
//! Only what reports and rate cards need: whole days and offsets, the proleptic Gregorian calendar, no zones by name.

/// Milliseconds of an hour.
pub const HOUR_MS: u64 = 3_600_000;
/// Milliseconds of a day.
pub const DAY_MS: u64 = 86_400_000;
/// The last instant with a year of four digits.
const LAST_MS: u64 = 253_402_300_799_999;

/// Why a text is not an instant.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a date (YYYY-MM-DD) or an RFC 3339 time between 1970 and 9999")]
pub struct CivilError {
    /// The refused text, cut to 40 characters.
    pub text: String,
}

/// Parses `YYYY-MM-DD` (midnight UTC) or an RFC 3339 time into Unix milliseconds. Digits below a millisecond are dropped.
pub fn parse_ms(text: &str) -> Result<u64, CivilError> {
    parse(text.trim()).ok_or_else(|| CivilError { text: text.chars().take(40).collect() })
}

/// Formats Unix milliseconds as `2026-01-31T23:59:59.123Z`; later than year 9999 is shown as that year's last instant.
pub fn format_ms(ms: u64) -> String {
    let ms = ms.min(LAST_MS);
    let (year, month, day) = civil_from_days(days_of(ms));
    let rest = ms % DAY_MS;
    let (hour, minute, second, milli) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60, rest % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// As [`format_ms`] without milliseconds, which are dropped: `2026-01-31T23:59:59Z`.
pub fn format_s(ms: u64) -> String {
    let text = format_ms(ms);
    text.get(..19).map_or(text.clone(), |seconds| format!("{seconds}Z"))
}

/// The date of an instant: `2026-01-31`.
pub fn format_date(ms: u64) -> String {
    format_ms(ms).chars().take(10).collect()
}

/// First instants of the calendar month (UTC) that `ms` is in, and of the month after it.
pub fn month_of(ms: u64) -> (u64, u64) {
    let (year, month, _) = civil_from_days(days_of(ms.min(LAST_MS)));
    let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    let midnight = |year, month| days_from_civil(year, month, 1).unsigned_abs() * DAY_MS;
    (midnight(year, month), midnight(next_year, next_month))
}

/// Parses `YYYY-MM` into the bounds that [`month_of`] gives.
pub fn parse_month(text: &str) -> Result<(u64, u64), CivilError> {
    let first = parse(&format!("{}-01", text.trim())).filter(|_| text.trim().len() == 7);
    first.map(month_of).ok_or_else(|| CivilError { text: text.chars().take(40).collect() })
}

fn days_of(ms: u64) -> i64 {
    (ms / DAY_MS).cast_signed()
}

fn parse(text: &str) -> Option<u64> {
    if !text.is_ascii() {
        return None;
    }
    let date = text.get(..10)?;
    let (year, month, day) = (number(date, 0, 4)?, number(date, 5, 2)?, number(date, 8, 2)?);
    let separators = date.as_bytes();
    if separators[4] != b'-' || separators[7] != b'-' || !valid_date(year, month, day) {
        return None;
    }
    let midnight = days_from_civil(year, month, day) * DAY_MS.cast_signed();
    let ms = match text.get(10..)? {
        "" => midnight,
        clock => midnight + clock_ms(clock)?,
    };
    u64::try_from(ms).ok().filter(|_| year <= 9999)
}

/// Milliseconds since UTC midnight of `THH:MM:SS[.fff](Z|±HH:MM)`; negative or above a day where the offset says so.
fn clock_ms(clock: &str) -> Option<i64> {
    let bytes = clock.as_bytes();
    if !matches!(bytes.first()?, b'T' | b't' | b' ')
        || bytes.get(3) != Some(&b':')
        || bytes.get(6) != Some(&b':')
    {
        return None;
    }
    let (hour, minute, second) = (number(clock, 1, 2)?, number(clock, 4, 2)?, number(clock, 7, 2)?);
    // A leap second counts as the last second of its minute, so that no row moves to the next day.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = clock.get(9..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(digits) => {
            let end = digits.find(|c: char| !c.is_ascii_digit())?;
            (digits.get(..end).filter(|d| !d.is_empty())?, digits.get(end..)?)
        }
        None => ("", rest),
    };
    let milli = fraction.bytes().chain(*b"000").take(3).fold(0, |sum, d| sum * 10 + i64::from(d - b'0'));
    let local = ((hour * 60 + minute) * 60 + second.min(59)) * 1000 + milli;
    Some(local - offset_ms(zone)?)
}

fn offset_ms(zone: &str) -> Option<i64> {
    let sign = match zone.as_bytes().first()? {
        b'Z' | b'z' if zone.len() == 1 => return Some(0),
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hour, minute) = (number(zone, 1, 2)?, number(zone, 4, 2)?);
    let well_formed = zone.len() == 6 && zone.as_bytes()[3] == b':' && hour <= 23 && minute <= 59;
    well_formed.then_some(sign * (hour * 60 + minute) * 60_000)
}

fn number(text: &str, at: usize, len: usize) -> Option<i64> {
    let digits = text.get(at..at + len)?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn valid_date(year: i64, month: i64, day: i64) -> bool {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    (1..=days).contains(&day)
}

/// Days since 1970-01-01, with years that begin in March so that the leap day is the last of its year.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn months() {
        for (text, from, to) in [
            ("2026-11", "2026-11-01", "2026-12-01"),
            ("2026-12", "2026-12-01", "2027-01-01"),
            ("2024-02", "2024-02-01", "2024-03-01"),
            ("1970-01", "1970-01-01", "1970-02-01"),
        ] {
            let bounds = (parse_ms(from).unwrap(), parse_ms(to).unwrap());
            assert_eq!(parse_month(text), Ok(bounds), "{text}");
            assert_eq!((month_of(bounds.0), month_of(bounds.1 - 1)), (bounds, bounds), "{text}");
        }
        for bad in ["", "2026", "2026-13", "2026-1", "2026-11-01", "26-11"] {
            assert!(parse_month(bad).is_err(), "{bad}");
        }
        assert_eq!(format_s(1_795_499_167_999), "2026-11-24T05:46:07Z");
        assert_eq!(format_date(1_795_499_167_999), "2026-11-24");
    }

    #[test]
    fn known_instants() {
        for (text, ms) in [
            ("1970-01-01", 0),
            ("2000-02-29", 951_782_400_000),
            ("2026-11-24T05:46:07Z", 1_795_499_167_000),
            ("2026-11-24T06:46:07.5+01:00", 1_795_499_167_500),
            ("2026-11-23T23:46:07.123456-06:00", 1_795_499_167_123),
            ("2016-12-31T23:59:60Z", 1_483_228_799_000),
            ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ] {
            assert_eq!(parse_ms(text), Ok(ms), "{text}");
        }
        assert_eq!(format_ms(1_795_499_167_123), "2026-11-24T05:46:07.123Z");
        assert_eq!(format_ms(u64::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn refused_texts() {
        for text in [
            "",
            "2026",
            "2026-13-01",
            "2026-02-29",
            "1900-02-29",
            "2026-1-1",
            "2026-01-01T",
            "2026-01-01T10:00",
            "2026-01-01T10:00:00",
            "2026-01-01T24:00:00Z",
            "2026-01-01T10:00:00+1:00",
            "2026-01-01T10:00:00.Z",
            "1969-12-31",
            "２026-01-01",
            "2026-01-01T10:00:00Zz",
            "now",
        ] {
            assert!(parse_ms(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn format_then_parse_is_identity(ms in 0_u64..=253_402_300_799_999) {
            prop_assert_eq!(parse_ms(&format_ms(ms)), Ok(ms));
        }

        #[test]
        fn any_text_is_answered(text in ".{0,40}") {
            let _ = parse_ms(&text);
        }
    }
}
