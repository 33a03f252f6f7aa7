//! JSON documents that hold URLs, such as the metadata of a resource or of an authorization server.

use serde_json::Value;

/// Longest document that a hop reads, in bytes; documents of well-known servers have 1 to 5 KiB.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// A document with `map` applied to each string in it, at any depth, with the name of the string's
/// field; `None` if nothing changed, or if the document is not JSON.
pub fn texts(document: &[u8], map: impl Fn(&str, &str) -> Option<String>) -> Option<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(document).ok()?;
    within(&mut value, "", &map).then(|| value.to_string().into_bytes())
}

/// The string in a top-level field of a document, if it has one.
#[must_use]
pub fn text(document: &[u8], field: &str) -> Option<String> {
    let value: Value = serde_json::from_slice(document).ok()?;
    value.get(field)?.as_str().map(str::to_owned)
}

/// Maps the strings in `value`; true if one changed. The parser bounds the nesting depth.
fn within(value: &mut Value, field: &str, map: &impl Fn(&str, &str) -> Option<String>) -> bool {
    match value {
        Value::String(text) => match map(field, text) {
            Some(mapped) => {
                *text = mapped;
                true
            }
            None => false,
        },
        Value::Array(values) => values
            .iter_mut()
            .fold(false, |changed, value| within(value, field, map) | changed),
        Value::Object(fields) => fields.iter_mut().fold(false, |changed, (name, value)| {
            within(value, name, map) | changed
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_mapped_by_its_field() {
        let map = |field: &str, text: &str| {
            text.starts_with("http://a")
                .then(|| format!("{field}:{text}"))
        };
        let document =
            br#"{"x": ["http://a/1", 2, {"y": "http://a/2"}], "z": "http://b", "n": 1e400}"#;
        assert_eq!(texts(document, map), None);
        let document = br#"{"x": ["http://a/1", 2, {"y": "http://a/2"}], "z": "http://b"}"#;
        let mapped = String::from_utf8(texts(document, map).unwrap()).unwrap();
        assert_eq!(
            mapped,
            r#"{"x":["x:http://a/1",2,{"y":"y:http://a/2"}],"z":"http://b"}"#
        );
        for document in [&b"{"[..], b"", b"[]", &[b'['; 100_000]] {
            assert_eq!(texts(document, map), None);
        }
        assert_eq!(text(br#"{"issuer":"x"}"#, "issuer").as_deref(), Some("x"));
    }
}
