//! Raw JSON texts: values as they stand in a message, a string with its quotes.
//!
//! An object is walked member by member and no member is kept, so that a walk needs no memory of its own.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr2;
use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The raw value of a member of `object`, the last one if several have the key, as most parsers read it.
///
/// `None` if there is no such member, or if `object` is not a JSON object.
#[must_use]
pub fn member<'a>(object: &'a str, key: &str) -> Option<&'a str> {
    let mut found = None;
    let walked = walk(object, |name, value| {
        if decoded(name).is_some_and(|name| name == key) {
            found = Some(value);
        }
    });
    walked.ok().and(found)
}

/// The text of a raw string; `None` for any other value.
#[must_use]
pub fn text(raw: &str) -> Option<String> {
    serde_json::from_str(raw).ok()
}

/// `text` as a raw string.
#[must_use]
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// True if `raw` is a JSON object.
#[must_use]
pub fn is_object(raw: &str) -> bool {
    raw.trim_start().starts_with('{') && is_json(raw)
}

/// True if there is a value, and it is `true`.
#[must_use]
pub fn is_true(raw: Option<&str>) -> bool {
    raw == Some("true")
}

/// True if `text` is one JSON value.
pub(super) fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// The text of a raw string, without a copy if nothing in it is escaped; `None` if `raw` is not a valid string.
pub(super) fn decoded(raw: &str) -> Option<Cow<'_, str>> {
    match raw.contains('\\') {
        true => text(raw).map(Cow::Owned),
        false => raw.strip_prefix('"')?.strip_suffix('"').map(Cow::Borrowed),
    }
}

/// Calls `each` with the raw key and the raw value of each member of `object`, in order.
///
/// # Errors
/// `object` is not a JSON object; `each` may have been called for members before the fault.
pub(super) fn walk<'a>(
    object: &'a str,
    each: impl FnMut(&'a str, &'a str),
) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(object);
    reader.deserialize_map(Members(each))?;
    reader.end()
}

/// True if arrays and objects in `text` are nested more than `levels` deep; `text` need not be valid.
pub(super) fn is_deeper_than(text: &[u8], levels: usize) -> bool {
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(byte) = text.get(at) {
        at += 1;
        match byte {
            b'"' => at = string_end(text, at),
            b'{' | b'[' if depth == levels => return true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// The place behind the quote that ends the string whose content begins at `at`.
fn string_end(text: &[u8], mut at: usize) -> usize {
    while let Some(found) = text.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if text[at - 1] == b'"' {
            return at;
        }
        // The escaped byte may be a quote.
        at += 1;
    }
    text.len()
}

/// Reads an object and calls the function for each member.
struct Members<F>(F);

impl<'de, F: FnMut(&'de str, &'de str)> Visitor<'de> for Members<F> {
    type Value = ();

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
            (self.0)(key.get(), value.get());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_found_by_its_decoded_key() {
        let object = r#" { "a" : 1.50, "\u0062": [ "}" ], "a": null } "#;
        assert_eq!(member(object, "b"), Some(r#"[ "}" ]"#));
        assert_eq!(member(object, "a"), Some("null"));
        assert_eq!(member(object, "c"), None);
    }

    #[test]
    fn what_is_not_an_object_has_no_members() {
        for text in [
            "",
            "7",
            "[1]",
            "{",
            r#"{"a":1"#,
            r#"{"a":1} x"#,
            r#"{"a":1}{}"#,
        ] {
            assert_eq!(member(text, "a"), None, "{text}");
            assert!(!is_object(text), "{text}");
        }
        assert!(is_object(" {}"));
    }

    #[test]
    fn strings_read_as_they_are_written() {
        for plain in ["", "a", "a\"\\\n\u{1}", "😀"] {
            assert_eq!(text(&quoted(plain)).as_deref(), Some(plain));
            assert_eq!(decoded(&quoted(plain)).as_deref(), Some(plain));
        }
        assert_eq!(text("7"), None);
        assert_eq!(decoded("7"), None);
        // A half of a surrogate pair is no text.
        assert_eq!(decoded(r#""\ud800""#), None);
    }

    #[test]
    fn only_the_value_true_is_true() {
        assert!(is_true(Some("true")));
        assert!(!is_true(Some("\"true\"")) && !is_true(None));
    }

    #[test]
    fn brackets_in_strings_are_no_levels() {
        assert!(!is_deeper_than(b"[[1],[2]]", 2));
        assert!(is_deeper_than(b"[[1],[2]]", 1));
        assert!(!is_deeper_than(br#"["[[\"[[",{}]"#, 2));
        assert!(!is_deeper_than(br#""\"#, 0));
        assert!(!is_deeper_than(b"]]]", 0));
    }
}
