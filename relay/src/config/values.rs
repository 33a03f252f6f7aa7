//! Parsers of values, for the settings of all groups. Their errors say what is wrong, worded to follow the value.

use std::convert::Infallible;
use std::str::FromStr;
use std::time::Duration;

/// Why a setting takes no value, whatever the value is.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum Never {
    /// Later versions lack the setting; the text says what replaces it.
    #[error("is gone: {0}")]
    Gone(&'static str),
}

/// The value parser of a setting that takes no value.
pub(super) fn never(
    why: Never,
) -> impl Fn(&str) -> Result<Infallible, Never> + Clone + Send + Sync {
    move |_| Err(why)
}

/// A value parser made from `parse`; its error says that the value is not `what`.
pub(super) fn expected<T>(
    what: &'static str,
    parse: fn(&str) -> Option<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync {
    move |text| parse(text).ok_or_else(|| format!("is not {what}"))
}

pub(super) fn number<T: FromStr>(text: &str) -> Result<T, &'static str> {
    text.parse().map_err(|_| "is not a whole number in range")
}

pub(super) fn time(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text).ok_or("is not a time such as 500ms, 45s or 1h30m")
}

pub(super) fn switch(text: &str) -> Result<bool, &'static str> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("is not true or false"),
    }
}

pub(super) fn name(text: &str) -> Result<String, &'static str> {
    match text {
        "" => Err("is not a name"),
        _ => Ok(text.to_owned()),
    }
}

/// Parses a time such as `500ms`, `45s`, `5m`, `8h`, `7d` or `1h30m`; the unit is required.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (count, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        let ms = count.parse::<u64>().ok()?.checked_mul(unit_ms)?;
        total = total.checked_add(Duration::from_millis(ms))?;
        rest = tail;
    }
    Some(total)
}

/// Replaces a default by the value that is given, if there is one.
pub(super) fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}
