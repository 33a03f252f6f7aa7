//! Dates and time spans in words.

use std::fmt;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

const SECONDS_A_DAY: u64 = 86_400;

/// A point in time, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Date(pub(super) u64);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = i64::try_from(self.0).ok().map(Timestamp::from_second);
        match at {
            Some(Ok(at)) => write!(f, "{} UTC", at.strftime("%Y-%m-%d %H:%M:%S")),
            // The last day of year 9999: later dates have no agreed form (RFC 3339, section 1).
            _ => f.write_str("after the year 9999"),
        }
    }
}

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A length of time, in seconds, shown in its two largest units.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span(pub(crate) u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, hours) = (self.0 / SECONDS_A_DAY, self.0 / 3600 % 24);
        let (minutes, seconds) = (self.0 / 60 % 60, self.0 % 60);
        let units = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")];
        let first = units.iter().position(|(count, _)| *count > 0).unwrap_or(3);
        let (count, unit) = units[first];
        write!(f, "{count} {unit}")?;
        match units.get(first + 1) {
            Some((count, unit)) if *count > 0 => write!(f, " {count} {unit}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_799, "2000-02-29 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
            (253_402_207_200, "9999-12-30 22:00:00 UTC"),
            (u64::MAX, "after the year 9999"),
        ] {
            assert_eq!(Date(seconds).to_string(), text);
        }
    }

    #[test]
    fn spans_have_two_units_at_most() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (61, "1 min 1 s"),
            (11_520, "3 h 12 min"),
            (7_200, "2 h"),
            (90_061, "1 d 1 h"),
        ] {
            assert_eq!(Span(seconds).to_string(), text);
        }
    }
}
