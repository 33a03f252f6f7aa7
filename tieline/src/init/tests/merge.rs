//! Tests of the merge: example by example, and with arbitrary files.

use proptest::prelude::*;

use super::super::client::{Client, Transport};
use super::*;

const URL: &str = "http://localhost:51822/w/maya/mcp";

fn cursor(text: &str) -> Result<Merged, MergeError> {
    merge(
        text,
        "mcpServers",
        "maya",
        &Client::Cursor.entry(URL, Transport::Http),
        false,
    )
}

fn added(text: &str) -> String {
    match cursor(text) {
        Ok(Merged::Added(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// Puts `URL` in place of each dollar sign.
fn expected(text: &str) -> String {
    text.replace('$', URL)
}

#[test]
fn an_empty_file_gets_a_whole_configuration() {
    let whole =
        expected("{\n  \"mcpServers\": {\n    \"maya\": {\n      \"url\": \"$\"\n    }\n  }\n}\n");
    assert_eq!(added(""), whole);
    assert_eq!(added(" \n\n"), whole);
    assert_eq!(added("// mine\n"), format!("// mine\n{whole}"));
}

#[test]
fn an_entry_stands_behind_the_others_in_their_style() {
    for (before, after) in [
        (
            "{\n\t\"mcpServers\": {\n\t\t\"a\": {}\n\t}\n}",
            "{\n\t\"mcpServers\": {\n\t\t\"a\": {},\n\t\t\"maya\": {\n\t\t\t\"url\": \"$\"\n\t\t}\n\t}\n}",
        ),
        (
            "{\r\n    \"mcpServers\": {},\r\n    \"z\": 1\r\n}\r\n",
            "{\r\n    \"mcpServers\": {\r\n        \"maya\": {\r\n            \"url\": \"$\"\r\n        }\r\n    },\r\n    \"z\": 1\r\n}\r\n",
        ),
        (
            "\u{feff}{\n  \"mcpServers\": {\n    \"a\": {}, // the first\n    // and this\n  },\n}\n",
            "\u{feff}{\n  \"mcpServers\": {\n    \"a\": {}, // the first\n    // and this\n    \"maya\": {\n      \"url\": \"$\"\n    },\n  },\n}\n",
        ),
        (
            "{\n  \"mcpServers\": {\n    \"a\": 1 // no comma, yet\n  }\n}\n",
            "{\n  \"mcpServers\": {\n    \"a\": 1, // no comma, yet\n    \"maya\": {\n      \"url\": \"$\"\n    }\n  }\n}\n",
        ),
        (
            "{\n  \"other\": [1,\n 2]\n\n}\n",
            "{\n  \"other\": [1,\n 2],\n  \"mcpServers\": {\n    \"maya\": {\n      \"url\": \"$\"\n    }\n  }\n\n}\n",
        ),
        (
            "{ \"mcpServers\": { \"a\": {} } }",
            "{ \"mcpServers\": { \"a\": {}, \"maya\": {\n    \"url\": \"$\"\n  } } }",
        ),
        (
            "{}",
            "{\n  \"mcpServers\": {\n    \"maya\": {\n      \"url\": \"$\"\n    }\n  }\n}",
        ),
    ] {
        assert_eq!(added(before), expected(after), "{before}");
    }
}

#[test]
fn an_entry_that_is_there_is_left_alone_and_another_one_only_replaced_when_told() {
    let entry = Client::Vscode.entry(URL, Transport::Http);
    let run = |text: &str, force| merge(text, "servers", "maya", &entry, force);
    let same = expected(
        "{\"servers\": {\"maya\": {\"url\": \"$\", \"type\": \"http\", \"headers\": {}}}}",
    );
    assert_eq!(run(&same, false), Ok(Merged::Unchanged));
    assert_eq!(run(&same, true), Ok(Merged::Unchanged));
    let other = "{\n  \"servers\": {\n    \"maya\": 7, // mine\n    \"b\": {}\n  }\n}\n";
    assert_eq!(
        run(other, false),
        Err(MergeError::Differs("maya".to_owned()))
    );
    let replaced = expected(
        "{\n  \"servers\": {\n    \"maya\": {\n      \"type\": \"http\",\n      \"url\": \"$\"\n    }, // mine\n    \"b\": {}\n  }\n}\n",
    );
    assert_eq!(run(other, true), Ok(Merged::Replaced(replaced)));
}

#[test]
fn a_forced_entry_keeps_its_headers_and_comments() {
    let run = |text: &str| {
        merge(
            text,
            "servers",
            "maya",
            &Client::Vscode.entry(URL, Transport::Http),
            true,
        )
    };
    let old = "{\n  \"servers\": {\n    \"maya\": {\n      // ours\n      \"url\": \"http://old/mcp\", // was here\n      \"headers\": { \"X\": \"1\" }\n    }\n  }\n}\n";
    let Ok(Merged::Replaced(text)) = run(old) else {
        panic!("the entry must be replaced");
    };
    let new = expected(
        "{\n  \"servers\": {\n    \"maya\": {\n      // ours\n      \"url\": \"$\", // was here\n      \"headers\": { \"X\": \"1\" },\n      \"type\": \"http\"\n    }\n  }\n}\n",
    );
    assert_eq!(text, new);
    assert_eq!(run(&text), Ok(Merged::Unchanged));

    let started = "{\"servers\": {\"maya\": {\"command\": \"maya\", \"url\": \"x\", \"env\": {}}}}";
    let Ok(Merged::Replaced(text)) = run(started) else {
        panic!("the entry must be replaced");
    };
    assert!(!text.contains("command") && !text.contains("env"), "{text}");
}

#[test]
fn an_entry_in_other_words_is_left_alone_unless_forced() {
    let entry = Client::Vscode.entry(URL, Transport::Http);
    let text =
        expected("{\"servers\": {\"maya\": {\"type\": \"streamable-http\", \"url\": \"$/\"}}}");
    let run = |force| merge(&text, "servers", "maya", &entry, force);
    assert_eq!(run(false), Ok(Merged::Unchanged));
    let exact = text
        .replace("streamable-http", "http")
        .replace("mcp/", "mcp");
    assert_eq!(run(true), Ok(Merged::Replaced(exact)));
}

#[test]
fn what_is_no_configuration_is_told_with_its_place() {
    assert_eq!(
        cursor("{\n  \"mcpServers\": {\n    oops\n"),
        Err(MergeError::Syntax {
            line: 3,
            column: 5,
            problem: "Expected string for object property".to_owned()
        })
    );
    for text in [
        "{} {}",
        "{\"a\": }",
        "{'a': 1}",
        "{\"a\": 1",
        "// only\n[1",
        "{\"a\" 1}",
    ] {
        assert!(
            matches!(cursor(text), Err(MergeError::Syntax { .. })),
            "{text}"
        );
    }
    for text in ["[]", "7", "{\"mcpServers\": []}", "{\"mcpServers\": null}"] {
        assert!(
            matches!(cursor(text), Err(MergeError::NoObject(_))),
            "{text}"
        );
    }
    let deep = "[".repeat(100_000);
    assert!(matches!(cursor(&deep), Err(MergeError::Syntax { .. })));
}

/// Blanks and comments that may stand between two tokens.
fn trivia() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => Just(String::new()),
        2 => Just(" ".to_owned()),
        1 => Just("\t".to_owned()),
        2 => Just("\n  ".to_owned()),
        1 => Just("\r\n".to_owned()),
        1 => "// [a-z\"{},:/]{0,6}\n",
        1 => "/\\*[ a-z][a-z\"{},/\n]{0,6} ?\\*/",
    ];
    proptest::collection::vec(piece, 0..3).prop_map(|pieces| pieces.concat())
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-e]{1,2}",
        1 => Just("mcpServers".to_owned()),
        1 => Just("{,}//".to_owned()),
        1 => Just("\\\"\u{e9}".to_owned()),
    ]
}

fn scalar() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("-1.5e3".to_owned()),
        Just("\"/* no , comment */ \\\" // }\"".to_owned()),
    ]
}

/// Joins members with commas; `comma` adds one after the last member.
fn members(
    open: &str,
    members: Vec<(String, String, String)>,
    end: &str,
    comma: bool,
    close: &str,
) -> String {
    let count = members.len();
    let mut text = open.to_owned();
    for (index, (before, member, after)) in members.into_iter().enumerate() {
        let comma = if index + 1 < count || comma { "," } else { "" };
        text += &[&before, &member, &after, comma].concat();
    }
    text + end + close
}

fn object(value: impl Strategy<Value = String> + Clone) -> impl Strategy<Value = String> {
    let property = (name(), trivia(), trivia(), value)
        .prop_map(|(name, a, b, value)| format!("\"{name}\"{a}:{b}{value}"));
    let list = proptest::collection::vec((trivia(), property, trivia()), 0..4);
    (list, trivia(), any::<bool>())
        .prop_map(|(list, end, comma)| members("{", list, &end, comma, "}"))
}

fn value() -> impl Strategy<Value = String> + Clone {
    scalar()
        .prop_recursive(3, 24, 4, |inner| {
            let list = proptest::collection::vec((trivia(), inner.clone(), trivia()), 0..4);
            let array = (list, trivia(), any::<bool>())
                .prop_map(|(list, end, comma)| members("[", list, &end, comma, "]"));
            prop_oneof![array, object(inner)]
        })
        .boxed()
}

fn document() -> impl Strategy<Value = String> {
    (any::<bool>(), trivia(), object(value()), trivia()).prop_map(
        |(mark, before, object, after)| {
            let mark = if mark { BYTE_ORDER_MARK } else { "" };
            [mark, &before, &object, &after].concat()
        },
    )
}

fn read(text: &str) -> Value {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    value_of(&parse(text).unwrap().unwrap())
}

/// True if `text` results from `longer` by deleting characters.
fn is_kept_in(text: &str, longer: &str) -> bool {
    let mut left = longer.chars();
    text.chars().all(|wanted| left.any(|found| found == wanted))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_merge_adds_its_entry_and_keeps_every_other_byte_and_value(text in document()) {
        let before = read(&text);
        match cursor(&text) {
            Ok(Merged::Added(merged)) => {
                prop_assert!(is_kept_in(&text, &merged), "{merged}");
                let mut expected = before;
                let list = &mut expected["mcpServers"];
                if list.is_null() {
                    *list = serde_json::json!({});
                }
                list["maya"] = serde_json::json!({ "url": URL });
                prop_assert_eq!(read(&merged), expected, "{}", merged);
                prop_assert_eq!(cursor(&merged), Ok(Merged::Unchanged));
            }
            Err(MergeError::NoObject(_)) => {
                prop_assert!(before.get("mcpServers").is_some_and(|list| !list.is_object()));
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn a_replacement_keeps_what_stands_around_it(text in document(), old in value()) {
        let with = |value: &str| format!("{{ \"mcpServers\": {{ /* a */ \"maya\": {value} // b\n }}, \"z\": {text}}}",
            text = text.trim_start_matches(BYTE_ORDER_MARK));
        let entry = Client::Cursor.entry(URL, Transport::Http);
        match merge(&with(&old), "mcpServers", "maya", &entry, true) {
            Ok(Merged::Replaced(merged)) => {
                let layout = Layout::of(&with(&old));
                let own = entry.render(&layout, &layout.unit);
                prop_assert_eq!(merged, with(&own));
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn no_text_makes_the_merge_panic(text in "[\\[\\]{}:,\"/* \n\\\\a1\u{e9}\u{feff}]{0,40}") {
        let _ = cursor(&text);
    }
}
