use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn head(fields: &[(&str, &str)]) -> RequestHead {
    RequestHead::read(fields.iter().map(|(name, value)| (*name, value.as_bytes())))
}

fn message(text: &str) -> Message {
    Message::parse(Bytes::from(text.to_owned())).unwrap()
}

/// A call of a tool of this raw name, with a version in `_meta`.
fn call(name: &str) -> Message {
    message(&format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":{name},
            "_meta":{{"{META_VERSION}":"2026-07-28"}}}}}}"#
    ))
}

/// The fields of a call of a tool; the name as in the header.
fn call_head(name: &str) -> RequestHead {
    head(&[
        ("mcp-protocol-version", MODERN_VERSION),
        ("mcp-method", "tools/call"),
        ("mcp-name", name),
    ])
}

#[test]
fn the_era_of_a_version_is_that_of_its_date() {
    for modern in ["2026-07-28", "2026-08-01", "2027-01-01"] {
        assert_eq!(Era::of_version(modern), Era::Modern, "{modern}");
    }
    for legacy in [
        "2025-11-25",
        "2026-07-27",
        "",
        "draft",
        "9999",
        "2026-07-28x",
        "9999/99/99",
    ] {
        assert_eq!(Era::of_version(legacy), Era::Legacy, "{legacy}");
    }
    assert!(
        LEGACY_VERSIONS
            .iter()
            .all(|it| Era::of_version(it) == Era::Legacy)
    );
    assert_eq!(Era::of_version(MODERN_VERSION), Era::Modern);
}

#[test]
fn fields_are_read_by_names_in_any_case() {
    let fields = [
        ("ACCEPT", "text/event-stream"),
        ("Mcp-Session-ID", "5"),
        ("last-event-id", "1-2"),
        ("accept", "application/json"),
        ("cookie", "\u{7f}"),
    ];
    let head = head(&fields);
    assert_eq!(
        head.accept.as_deref(),
        Some("text/event-stream, application/json")
    );
    assert_eq!(head.session.as_deref(), Some("5"));
    assert_eq!(head.last_event_id.as_deref(), Some("1-2"));
    assert_eq!(head.fault, None);
}

#[test]
fn the_first_fault_is_kept() {
    use HeaderError::*;
    let long = "x".repeat(VALUE_BYTES_MAX + 1);
    let half = "x".repeat(VALUE_BYTES_MAX / 2);
    for (fields, fault) in [
        (vec![("Mcp-Name", &*long), ("Accept", "ü")], TooLong(NAME)),
        (
            vec![("Accept", "ü"), ("Mcp-Name", &*long)],
            BadBytes(ACCEPT),
        ),
        (vec![("Mcp-Method", "a\u{1}")], BadBytes(METHOD)),
        (
            vec![("Mcp-Method", "a"), ("mcp-method", "a")],
            Repeated(METHOD),
        ),
        (
            vec![("Accept", &*half), ("Accept", &*half)],
            TooLong(ACCEPT),
        ),
    ] {
        let head = head(&fields);
        assert_eq!(head.fault.as_ref(), Some(&fault));
        assert_eq!(head.check_modern(&call("\"a\"")), Err(fault));
    }
}

#[test]
fn the_most_specific_range_decides_what_is_accepted() {
    for (accept, takes) in [
        ("", (true, true)),
        ("*/*", (true, true)),
        ("application/json", (true, false)),
        ("text/event-stream", (false, true)),
        ("Application/JSON;v=1, text/*;q=0.5", (true, true)),
        ("*/*, text/event-stream;q=0", (true, false)),
        ("application/*;q=0.0, */*", (false, true)),
        ("text/html", (false, false)),
    ] {
        let head = head(&[("accept", accept)]);
        assert_eq!(
            (head.accepts_json(), head.accepts_events()),
            takes,
            "{accept}"
        );
    }
    let head = head(&[]);
    assert!(head.accepts_json() && head.accepts_events());
}

#[test]
fn a_body_of_json_is_named_as_such() {
    for json in ["application/json", "Application/JSON; charset=utf-8"] {
        assert!(head(&[("content-type", json)]).has_json_body(), "{json}");
    }
    for other in [
        "text/plain",
        "application/jsonp",
        "text/plain;application/json",
        "",
    ] {
        assert!(!head(&[("content-type", other)]).has_json_body(), "{other}");
    }
    assert!(!head(&[]).has_json_body());
}

#[test]
fn the_era_shows_in_the_metadata_the_method_and_the_version() {
    let modern = head(&[("mcp-protocol-version", MODERN_VERSION)]);
    let legacy = head(&[("mcp-protocol-version", "2025-06-18")]);
    let initialize = message(r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#);
    let ping = message(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    assert_eq!(legacy.era(Some(&call("\"a\""))), Era::Modern);
    assert_eq!(modern.era(Some(&initialize)), Era::Legacy);
    assert_eq!(modern.era(Some(&ping)), Era::Modern);
    assert_eq!(legacy.era(Some(&ping)), Era::Legacy);
    assert_eq!(
        (modern.era(None), head(&[]).era(None)),
        (Era::Modern, Era::Legacy)
    );
}

#[test]
fn the_head_of_a_modern_request_agrees_with_its_body() {
    use HeaderError::*;
    assert_eq!(call_head("a").check_modern(&call("\"a\"")), Ok(()));
    assert_eq!(call_head("a").check_modern(&call("\"\\u0061\"")), Ok(()));
    assert_eq!(
        call_head("b").check_modern(&call("\"a\"")),
        Err(Mismatch(NAME))
    );
    assert_eq!(call_head("a").check_modern(&call("7")), Err(Mismatch(NAME)));
    let without = |change: fn(&mut RequestHead)| {
        let mut head = call_head("a");
        change(&mut head);
        head.check_modern(&call("\"a\""))
    };
    assert_eq!(without(|it| it.name = None), Err(Missing(NAME)));
    assert_eq!(without(|it| it.method = None), Err(Missing(METHOD)));
    assert_eq!(
        without(|it| it.protocol_version = None),
        Err(Missing(PROTOCOL_VERSION))
    );
    let other = without(|it| it.method = Some("Tools/call".into()));
    assert_eq!(other, Err(Mismatch(METHOD)));
    let other = without(|it| it.protocol_version = Some("2026-07-29".into()));
    assert_eq!(other, Err(Mismatch(PROTOCOL_VERSION)));
}

#[test]
fn a_request_without_a_name_needs_none() {
    let list = message(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
    let fields = [
        ("mcp-protocol-version", MODERN_VERSION),
        ("mcp-method", "tools/list"),
    ];
    assert_eq!(head(&fields).check_modern(&list), Ok(()));
    let read =
        message(r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"a:b"}}"#);
    let fields = [
        ("mcp-protocol-version", MODERN_VERSION),
        ("mcp-method", "resources/read"),
        ("mcp-name", "a:b"),
    ];
    assert_eq!(head(&fields).check_modern(&read), Ok(()));
    let notification = message(r#"{"jsonrpc":"2.0","method":"n"}"#);
    assert_eq!(head(&fields[..1]).check_modern(&notification), Ok(()));
}

#[test]
fn names_may_be_encoded() {
    // The examples of the specification (streamable-http.mdx, Value Encoding).
    for (value, text) in [
        ("us-west1", "us-west1"),
        ("=?base64?SGVsbG8sIOS4lueVjA==?=", "Hello, 世界"),
        ("=?base64?IHBhZGRlZCA=?=", " padded "),
        ("=?base64?bGluZTEKbGluZTI=?=", "line1\nline2"),
        ("=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?=", "=?base64?literal?="),
        ("=?BASE64?YQ==?=", "=?BASE64?YQ==?="),
        ("=?base64?=", "=?base64?="),
    ] {
        let call = call(&raw::quoted(text));
        assert_eq!(call_head(value).check_modern(&call), Ok(()), "{value}");
    }
    for value in ["=?base64?*?=", "=?base64?YQ?=", "=?base64?/w==?="] {
        let result = call_head(value).check_modern(&call("\"a\""));
        assert_eq!(result, Err(HeaderError::BadEncoding(NAME)), "{value}");
    }
}

proptest! {
    #[test]
    fn any_name_passes_in_its_encoding(name in any::<String>()) {
        let value = format!("=?base64?{}?=", BASE64.encode(name.as_bytes()));
        prop_assume!(value.len() <= VALUE_BYTES_MAX);
        let call = call(&raw::quoted(&name));
        prop_assert_eq!(call_head(&value).check_modern(&call), Ok(()));
    }

    #[test]
    fn any_fields_are_read(
        name in prop::sample::select(vec!["Accept", "MCP-NAME", "content-type"]),
        value in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let head = RequestHead::read([(name, &value[..])]);
        let _ = (head.accepts_json(), head.has_json_body());
        let _ = head.check_modern(&call("\"a\""));
    }
}
