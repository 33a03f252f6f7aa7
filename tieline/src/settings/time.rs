//! Time values in flags and files: `500ms`, `30s`, `2m`, `1h`.

use std::time::Duration;

/// Parses a whole number with its unit.
///
/// # Errors
/// A message for the line that names the setting.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let count: Option<u64> = count.parse().ok();
    let ms = count
        .zip(unit_ms)
        .and_then(|(count, unit_ms)| count.checked_mul(unit_ms));
    ms.map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is not a time such as 30s, 500ms or 2m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_with_its_unit() {
        for (text, ms) in [("0s", 0), ("500ms", 500), ("30s", 30_000), ("2m", 120_000)] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "1.5s",
            "1 s",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
