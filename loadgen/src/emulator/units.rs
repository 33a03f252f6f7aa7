//! Units of the emulator's flags: shares of packets, rates, and the limits of its queue.

use std::str::FromStr;
use std::time::Duration;

/// Bits per second that a rate may have.
const RATE_BITS_MIN: f64 = 1e3;
const RATE_BITS_MAX: f64 = 1e11;

/// Largest queue in bytes, packets, bandwidth-delay products and time.
const QUEUE_BYTES_MAX: f64 = 1e9;
const QUEUE_PACKETS_MAX: f64 = 1e6;
const QUEUE_PRODUCTS_MAX: f64 = 1e3;
const QUEUE_SECONDS_MAX: f64 = 60.0;

/// A value of a flag that cannot be read.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum UnitError {
    /// Not a share of packets.
    #[error("`{0}` is not a percentage: write 0% to 100%, such as 1% or 0.05%")]
    Share(String),
    /// Not a rate.
    #[error("`{0}` is not a rate: write 1kbit to 100gbit per second, such as 200mbit or 1.5gbit")]
    Rate(String),
    /// Not a limit of the queue.
    #[error(
        "`{0}` is not a limit of a queue: write bandwidth-delay products (1bdp), bytes (64kb, 1mb, 256kib), time at \
         the rate (20ms) or packets (1000p); one of the first three and packets may be combined (1bdp,1000p)"
    )]
    Queue(String),
    /// Two limits of the queue for the same thing.
    #[error(
        "`{0}` has two limits of one kind: at most one of products, bytes or time, and one of packets"
    )]
    QueueTwice(String),
}

/// A share of packets, from 0 to 1; written as a percentage.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Share(f64);

impl Share {
    /// The share, from 0 to 1.
    pub(crate) fn value(self) -> f64 {
        self.0
    }
}

impl FromStr for Share {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError::Share(text.to_owned());
        match split(text).ok_or_else(error)? {
            (percent @ 0.0..=100.0, "%") => Ok(Self(percent / 100.0)),
            _ => Err(error()),
        }
    }
}

/// A rate in bits per second.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Rate(u64);

impl Rate {
    /// Bits per second.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError::Rate(text.to_owned());
        let (number, unit) = split(text).ok_or_else(error)?;
        let unit_bits = match unit {
            "bit" => 1.0,
            "kbit" => 1e3,
            "mbit" => 1e6,
            "gbit" => 1e9,
            _ => return Err(error()),
        };
        let bits = number * unit_bits;
        if !(RATE_BITS_MIN..=RATE_BITS_MAX).contains(&bits) {
            return Err(error());
        }
        Ok(Self(whole(bits)))
    }
}

/// Limits of the queue in front of the bottleneck.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct QueueLimit {
    /// Limit of the bytes that wait.
    pub(crate) size: Option<QueueSize>,
    /// Limit of the packets that wait.
    pub(crate) packets: Option<usize>,
}

/// The bytes that may wait, in one of three units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum QueueSize {
    /// Products of rate and round trip.
    Products(f64),
    Bytes(u64),
    /// What the bottleneck sends in this time.
    Time(Duration),
}

impl FromStr for QueueLimit {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError::Queue(text.to_owned());
        let mut limit = Self::default();
        for part in text.split(',') {
            let (number, unit) = split(part).ok_or_else(error)?;
            let at_most = |max: f64| match number <= max {
                true => Ok(number),
                false => Err(error()),
            };
            let bytes = |unit_bytes: f64| match number * unit_bytes <= QUEUE_BYTES_MAX {
                true => Ok(QueueSize::Bytes(whole(number * unit_bytes))),
                false => Err(error()),
            };
            let time = |unit_s: f64| match number * unit_s <= QUEUE_SECONDS_MAX {
                true => Ok(QueueSize::Time(Duration::from_secs_f64(number * unit_s))),
                false => Err(error()),
            };
            let size = match unit {
                "p" => {
                    let packets = whole(at_most(QUEUE_PACKETS_MAX)?);
                    let packets = usize::try_from(packets).map_err(|_| error())?;
                    if packets == 0 {
                        return Err(error());
                    }
                    if limit.packets.replace(packets).is_some() {
                        return Err(UnitError::QueueTwice(text.to_owned()));
                    }
                    continue;
                }
                "bdp" => QueueSize::Products(at_most(QUEUE_PRODUCTS_MAX)?),
                "b" => bytes(1.0)?,
                "kb" => bytes(1e3)?,
                "mb" => bytes(1e6)?,
                "kib" => bytes(1024.0)?,
                "mib" => bytes(1024.0 * 1024.0)?,
                "ms" => time(1e-3)?,
                "s" => time(1.0)?,
                _ => return Err(error()),
            };
            if limit.size.replace(size).is_some() {
                return Err(UnitError::QueueTwice(text.to_owned()));
            }
        }
        Ok(limit)
    }
}

/// Number and unit of a text such as `1.5gbit`; `None` without a number.
fn split(text: &str) -> Option<(f64, &str)> {
    let is_of_number = |c: char| c.is_ascii_digit() || c == '.';
    let at = text.find(|c| !is_of_number(c)).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    Some((number.parse().ok()?, unit))
}

/// The nearest whole number. The callers have checked that `value` is not negative and far below 2^53.
#[expect(
    clippy::cast_possible_truncation,
    reason = "every caller checks a bound"
)]
pub(crate) fn whole(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percentages() {
        for (text, share) in [("0%", 0.0), ("1%", 0.01), ("0.05%", 0.0005), ("100%", 1.0)] {
            assert!(
                (text.parse::<Share>().unwrap().value() - share).abs() < 1e-12,
                "{text}"
            );
        }
        for text in ["", "%", "1", "0.01", "101%", "-1%", "1 %", "1%%", "NaN%"] {
            let error = text.parse::<Share>().unwrap_err();
            assert_eq!(error, UnitError::Share(text.to_owned()));
            assert!(error.to_string().contains("0.05%"), "{error}");
        }
    }

    #[test]
    fn rates_have_a_unit() {
        for (text, bits) in [
            ("1kbit", 1_000),
            ("200mbit", 200_000_000),
            ("1.5gbit", 1_500_000_000),
            ("64000bit", 64_000),
            ("100gbit", 100_000_000_000),
        ] {
            assert_eq!(text.parse::<Rate>(), Ok(Rate(bits)), "{text}");
        }
        for text in ["", "200", "200mb", "0mbit", "200Mbit", "101gbit", "fast"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_queue_has_a_size_packets_or_both() {
        let read = |text: &str| text.parse::<QueueLimit>().unwrap();
        let size = |size| QueueLimit {
            size: Some(size),
            packets: None,
        };
        assert_eq!(read("1bdp"), size(QueueSize::Products(1.0)));
        assert_eq!(read("0.5bdp"), size(QueueSize::Products(0.5)));
        assert_eq!(read("64kb"), size(QueueSize::Bytes(64_000)));
        assert_eq!(read("256kib"), size(QueueSize::Bytes(262_144)));
        assert_eq!(read("1500b"), size(QueueSize::Bytes(1_500)));
        assert_eq!(
            read("20ms"),
            size(QueueSize::Time(Duration::from_millis(20)))
        );
        let both = QueueLimit {
            size: Some(QueueSize::Products(2.0)),
            packets: Some(100),
        };
        assert_eq!(read("2bdp,100p"), both);
        assert_eq!(read("100p,2bdp"), both);
    }

    #[test]
    fn a_wrong_queue_is_named() {
        for text in ["", "1", "0p", "1bdp,", "2000000p", "2gb", "61s", "2000bdp"] {
            let error = text.parse::<QueueLimit>().unwrap_err();
            assert_eq!(error, UnitError::Queue(text.to_owned()));
        }
        for text in ["1bdp,64kb", "10p,20p", "20ms,1s"] {
            let error = text.parse::<QueueLimit>().unwrap_err();
            assert_eq!(error, UnitError::QueueTwice(text.to_owned()));
        }
    }
}
