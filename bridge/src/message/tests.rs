use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

fn parsed(text: &str) -> Message {
    Message::parse(Bytes::from(text.to_owned())).unwrap()
}

fn refused(text: &str) -> MessageError {
    Message::parse(Bytes::from(text.to_owned())).unwrap_err()
}

/// A request with this member besides version, id and method.
fn request_with(member: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m",{member}}}"#)
}

#[test]
fn the_parts_of_a_request_are_found() {
    let request = parsed(
        r#" {"id" : "a\u0062", "params":{"_meta":{"progressToken": 7, "x":[1]},"name":"n"},
            "method":"tools\/call","jsonrpc":"2.0","other":{"id":3}}"#,
    );
    assert_eq!(request.kind(), Kind::Request);
    assert_eq!(request.id(), Some(r#""a\u0062""#));
    assert_eq!(request.method(), Some("tools/call"));
    assert_eq!(request.param("name"), Some("\"n\""));
    assert_eq!(request.meta("x"), Some("[1]"));
    assert_eq!(request.progress_token(), Some("7"));
    let params = r#"{"_meta":{"progressToken": 7, "x":[1]},"name":"n"}"#;
    assert_eq!(request.params(), Some(params));
    assert_eq!((request.result(), request.error()), (None, None));
    assert_eq!((request.param("x"), request.meta("name")), (None, None));
}

#[test]
fn the_parts_of_a_notification_are_found() {
    let text =
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t"}}"#;
    let notification = parsed(text);
    assert_eq!(notification.kind(), Kind::Notification);
    assert_eq!(notification.id(), None);
    assert_eq!(notification.progress_token(), Some("\"t\""));
    assert_eq!(notification.line().to_string(), text);
}

#[test]
fn the_parts_of_a_response_are_found() {
    let meta = r#"{"k":true}"#;
    let response = parsed(
        r#"{"jsonrpc":"2.0","id":-4,"result":{"resultType":"complete","_meta":{"k":true}}}"#,
    );
    assert_eq!(response.kind(), Kind::Response);
    assert_eq!((response.id(), response.method()), (Some("-4"), None));
    assert_eq!(response.result_member("resultType"), Some("\"complete\""));
    assert_eq!(response.result_member(META), Some(meta));
    assert_eq!(response.result_meta("k"), Some("true"));
    assert_eq!(response.error_code(), None);
    let error =
        parsed(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no","data":[1]}}"#);
    assert_eq!(error.error_code(), Some(-32601));
    assert_eq!(error.error_member("data"), Some("[1]"));
    assert_eq!(error.result(), None);
}

#[test]
fn an_error_may_lack_its_id() {
    for id in ["", r#","id":null"#] {
        let error = parsed(&format!(
            r#"{{"jsonrpc":"2.0"{id},"error":{{"code":-32700}}}}"#
        ));
        assert_eq!((error.kind(), error.id()), (Kind::Response, None));
        let line = error.with_id("5").to_string();
        assert_eq!(parsed(&line).id(), Some("5"));
    }
    let result = r#"{"jsonrpc":"2.0","result":{}}"#;
    assert_eq!(refused(result), MessageError::MissingId);
}

#[test]
fn an_outcome_that_is_null_beside_another_does_not_count() {
    let result = parsed(r#"{"jsonrpc":"2.0","id":1,"result":{},"error":null}"#);
    assert_eq!((result.result(), result.error()), (Some("{}"), None));
    let error = parsed(r#"{"jsonrpc":"2.0","id":1,"result":null,"error":{}}"#);
    assert_eq!((error.result(), error.error()), (None, Some("{}")));
    let null = parsed(r#"{"jsonrpc":"2.0","id":1,"result":null}"#);
    assert_eq!(null.result(), Some("null"));
}

#[test]
fn what_is_not_a_message_is_refused() {
    use MessageError::*;
    for (text, error) in [
        ("", NotJson),
        ("{", NotJson),
        ("{} {}", NotJson),
        (r#"{"jsonrpc":"2.0","id":01,"method":"m"}"#, NotJson),
        ("[]", Batch),
        (r#" [{"jsonrpc":"2.0","id":1,"method":"m"}]"#, Batch),
        ("7", NotObject),
        ("null", NotObject),
        (r#"{"id":1,"method":"m"}"#, NotVersion2),
        (r#"{"jsonrpc":2.0,"id":1,"method":"m"}"#, NotVersion2),
        (r#"{"jsonrpc":"1.0","id":1,"method":"m"}"#, NotVersion2),
        (r#"{"jsonrpc":"2.0","id":1}"#, NoKind),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"m","result":{}}"#,
            MixedKinds,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#,
            MixedKinds,
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, BadMethod),
        (r#"{"jsonrpc":"2.0","id":1,"method":"\ud800"}"#, BadMethod),
        (
            r#"{"jsonrpc":"2.0","id":1,"i\u0064":2,"method":"m"}"#,
            Duplicate("id"),
        ),
        (
            r#"{"jsonrpc":"2.0","method":"m","method":"n"}"#,
            Duplicate("method"),
        ),
    ] {
        assert_eq!(refused(text), error, "{text}");
    }
    let not_utf8 = Bytes::from_static(b"{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}");
    assert_eq!(Message::parse(not_utf8).unwrap_err(), NotUtf8);
}

#[test]
fn ids_are_strings_or_integers() {
    for id in ["null", "1.5", "1e3", "true", "{}", "[]"] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#);
        assert_eq!(refused(&text), MessageError::BadId, "{id}");
    }
    for id in ["0", "-7", "123456789012345678901234567890", "\"\"", "\"1\""] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#);
        assert_eq!(parsed(&text).id(), Some(id));
    }
}

#[test]
fn params_and_meta_are_objects_of_different_members() {
    use MessageError::*;
    for (member, error) in [
        (r#""params":[1]"#, ParamsNotObject),
        (r#""params":"a""#, ParamsNotObject),
        (r#""params":{"_meta":7}"#, MetaNotObject),
        (
            r#""params":{"name":1,"\u006eame":2}"#,
            DuplicateIn("params"),
        ),
        (r#""params":{"_meta":{"a":1,"a":1}}"#, DuplicateIn(META)),
    ] {
        assert_eq!(refused(&request_with(member)), error, "{member}");
    }
    let null = parsed(&request_with(r#""params":null"#));
    assert_eq!((null.params(), null.param("a")), (None, None));
    let null = parsed(&request_with(r#""params":{"_meta":null}"#));
    assert_eq!(null.meta("a"), None);
}

#[test]
fn messages_have_limits() {
    let levels = |count: usize| {
        let (open, close) = ("[".repeat(count), "]".repeat(count));
        request_with(&format!(r#""params":{{"a":{open}{close}}}"#))
    };
    parsed(&levels(DEPTH_MAX - 2));
    assert_eq!(refused(&levels(DEPTH_MAX - 1)), MessageError::TooDeep);
    let deep = "[".repeat(1_000_000);
    assert_eq!(refused(&deep), MessageError::TooDeep);

    let with_id = |len: usize| {
        let id = "x".repeat(len - 2);
        format!(r#"{{"jsonrpc":"2.0","id":"{id}","method":"m"}}"#)
    };
    parsed(&with_id(ID_BYTES_MAX));
    assert_eq!(refused(&with_id(ID_BYTES_MAX + 1)), MessageError::LongId);

    let with_method = |len: usize| format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, "m".repeat(len));
    parsed(&with_method(METHOD_BYTES_MAX));
    let long = with_method(METHOD_BYTES_MAX + 1);
    assert_eq!(refused(&long), MessageError::BadMethod);

    let with_members = |count: usize| {
        let members: Vec<_> = (0..count).map(|index| format!("\"{index}\":0")).collect();
        request_with(&format!(r#""params":{{{}}}"#, members.join(",")))
    };
    parsed(&with_members(MEMBERS_MAX));
    let many = with_members(MEMBERS_MAX + 1);
    assert_eq!(refused(&many), MessageError::TooManyMembers("params"));

    let long = Bytes::from(vec![b' '; MESSAGE_BYTES_MAX + 1]);
    assert_eq!(Message::parse(long).unwrap_err(), MessageError::TooLong);
}

#[test]
fn a_message_becomes_one_line_in_its_own_memory() {
    let text = "{\"jsonrpc\":\"2.0\",\r\n\"id\":1,\n\"method\":\"m\\n\"}\n";
    let line = "{\"jsonrpc\":\"2.0\",  \"id\":1, \"method\":\"m\\n\"} ";
    let bytes = Bytes::from(text.to_owned());
    let place = bytes.as_ptr();
    let message = Message::parse(bytes).unwrap();
    assert_eq!(message.text(), line.as_bytes());
    assert_eq!(message.text().as_ptr(), place);
    let shared = Bytes::from(text.to_owned());
    let message = Message::parse(shared.clone()).unwrap();
    assert_eq!(message.text(), line.as_bytes());
    assert_eq!(shared, text.as_bytes());
}

#[test]
fn another_id_shares_the_rest_of_the_message() {
    let message = parsed(r#"{"jsonrpc":"2.0","id": 1 ,"method":"m","params":{"id":1}}"#);
    let line = message.with_id("\"long\"");
    let text = r#"{"jsonrpc":"2.0","id": "long" ,"method":"m","params":{"id":1}}"#;
    assert_eq!(line.to_string(), text);
    let [front, _, back] = line.pieces() else {
        panic!("{line:?}");
    };
    assert_eq!(front.as_ptr(), message.text().as_ptr());
    assert_eq!(
        back[..],
        message.text()[message.text().len() - back.len()..]
    );
    let end = message.text().as_ptr_range().end;
    assert_eq!(back.as_ptr_range().end, end);
}

#[test]
fn a_part_of_a_message_shares_its_memory() {
    let message = parsed(&request_with(r#""params":{"a":[1]}"#));
    let part = message.param("a").unwrap();
    assert_eq!(message.piece(part).as_ptr(), part.as_ptr());
    assert_eq!(message.piece(part), "[1]");
    assert_eq!(message.piece("other"), "other");
    assert_eq!(message.piece(""), "");
}

/// The text of `edit` on a request with this member.
fn edited(member: &str, edit: impl FnOnce(Edit<'_>) -> Edit<'_>) -> String {
    let line = edit(parsed(&request_with(member)).edit())
        .line()
        .to_string();
    let member = line.strip_prefix(r#"{"jsonrpc":"2.0","id":1,"method":"m","#);
    let member = member.and_then(|rest| rest.strip_suffix('}'));
    member.map(str::to_owned).unwrap_or(line)
}

#[test]
fn members_are_set_in_their_place_or_in_front() {
    let set = |edit: Edit<'_>| {
        edit.set_param("a", "1")
            .set_param("b", "2")
            .line()
            .to_string()
    };
    for (params, expected) in [
        (r#"{}"#, r#"{"a":1,"b":2}"#),
        (r#"{ }"#, r#"{"a":1,"b":2 }"#),
        (r#"{ "c":0 }"#, r#"{"a":1,"b":2, "c":0 }"#),
        (r#"{"b":[0], "c":0}"#, r#"{"a":1,"b":2, "c":0}"#),
        (r#"{"\u0061":0,"b":0}"#, r#"{"\u0061":1,"b":2}"#),
        ("null", r#"{"a":1,"b":2}"#),
    ] {
        let before = request_with(&format!(r#""params":{params}"#));
        let after = request_with(&format!(r#""params":{expected}"#));
        assert_eq!(set(parsed(&before).edit()), after);
    }
    let bare = parsed(r#" {"jsonrpc":"2.0","method":"m"}"#);
    let line = bare.edit().id("9").set_param("a", "1").line();
    assert_eq!(
        line.to_string(),
        r#" {"id":9,"params":{"a":1},"jsonrpc":"2.0","method":"m"}"#
    );
}

#[test]
fn members_are_removed_with_their_commas() {
    for (removed, expected) in [
        ("a", r#"{ "b":2 , "c":3 }"#),
        ("b", r#"{ "a":1, "c":3 }"#),
        ("c", r#"{ "a":1, "b":2 }"#),
        ("ab", r#"{ "c":3 }"#),
        ("bc", r#"{ "a":1 }"#),
        ("ac", r#"{ "b":2 }"#),
        ("abc", "{  }"),
        ("d", r#"{ "a":1, "b":2 , "c":3 }"#),
    ] {
        let member = r#""params":{ "a":1, "b":2 , "c":3 }"#;
        let line = edited(member, |edit| {
            removed
                .chars()
                .fold(edit, |edit, key| edit.remove_param(&key.to_string()))
        });
        assert_eq!(line, format!(r#""params":{expected}"#), "{removed}");
    }
}

#[test]
fn members_of_meta_are_changed_or_made() {
    let line = |params: &str| {
        let message = parsed(&request_with(&format!(r#""params":{params}"#)));
        let edit = message.edit().remove_meta_prefix("x/").remove_meta("u");
        edit.set_meta("x/n", "9").line().to_string()
    };
    for (params, expected) in [
        (r#"{}"#, r#"{"_meta":{"x/n":9}}"#),
        ("null", r#"{"_meta":{"x/n":9}}"#),
        (r#"{"_meta":null,"a":1}"#, r#"{"_meta":{"x/n":9},"a":1}"#),
        (
            r#"{"a":1,"_meta":{"x/a":1,"k":2,"u":3}}"#,
            r#"{"a":1,"_meta":{"x/n":9,"k":2}}"#,
        ),
        (r#"{"_meta":{"x/n":1,"x/b":{}}}"#, r#"{"_meta":{"x/n":9}}"#),
    ] {
        assert_eq!(
            line(params),
            request_with(&format!(r#""params":{expected}"#))
        );
    }
}

#[test]
fn removals_alone_make_no_objects() {
    let text = r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#;
    let line = parsed(text)
        .edit()
        .remove_meta("a")
        .remove_param("b")
        .line();
    assert_eq!(line.to_string(), text);
    let member = r#""params":{"a":{"x":1}}"#;
    let line = edited(member, |edit| edit.remove_meta_prefix("x"));
    assert_eq!(line, member);
}

#[test]
fn tokens_and_request_ids_are_replaced_where_they_stand() {
    let member = r#""params":{"_meta":{"progressToken":"old"}}"#;
    let line = edited(member, |edit| edit.progress_token("7"));
    assert_eq!(line, r#""params":{"_meta":{"progressToken":7}}"#);
    let progress = r#"{"jsonrpc":"2.0","method":"m","params":{"progressToken":7,"requestId":1}}"#;
    let line = parsed(progress)
        .edit()
        .progress_token("\"old\"")
        .request_id("2")
        .line();
    let text = r#"{"jsonrpc":"2.0","method":"m","params":{"progressToken":"old","requestId":2}}"#;
    assert_eq!(line.to_string(), text);
}

#[test]
fn members_are_set_in_results() {
    let line = |result: &str| {
        let message = parsed(&format!(r#"{{"jsonrpc":"2.0","result":{result},"id":1}}"#));
        let edit = message
            .edit()
            .id("2")
            .set_result("t", "\"c\"")
            .set_result_meta("s", "1");
        edit.line().to_string()
    };
    for (result, expected) in [
        (r#"{}"#, r#"{"t":"c","_meta":{"s":1}}"#),
        (r#"{"a":1}"#, r#"{"t":"c","_meta":{"s":1},"a":1}"#),
        (
            r#"{"a":1,"t":"d","_meta":{"s":0}}"#,
            r#"{"a":1,"t":"c","_meta":{"s":1}}"#,
        ),
        (r#"{"_meta":{"r":0}}"#, r#"{"t":"c","_meta":{"s":1,"r":0}}"#),
        (r#"{"_meta":null}"#, r#"{"t":"c","_meta":{"s":1}}"#),
        ("[1]", "[1]"),
        ("null", "null"),
    ] {
        let expected = format!(r#"{{"jsonrpc":"2.0","result":{expected},"id":2}}"#);
        assert_eq!(line(result), expected);
    }
}

#[test]
fn a_large_payload_is_not_copied() {
    let payload = "x".repeat(1_000_000);
    let message = parsed(&request_with(&format!(
        r#""params":{{"data":"{payload}"}}"#
    )));
    let line = message.edit().id("7").set_meta("k", "1").line();
    let memory = message.text().as_ptr_range();
    let is_own = |piece: &&Bytes| !memory.contains(&piece.as_ptr());
    let own: usize = line.pieces().iter().filter(is_own).map(Bytes::len).sum();
    assert!(own < 100, "{own}");
}

/// Any JSON value of a few levels.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-e\"]{1,2}", inner, 0..4).prop_map(object),
        ]
    })
}

fn object(members: std::collections::BTreeMap<String, Value>) -> Value {
    Value::Object(members.into_iter().collect())
}

/// An object with keys that the edits of the tests meet.
fn members() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::btree_map("[a-e]", value(), 0..6).prop_map(|it| it.into_iter().collect())
}

/// Sets and removals, as an edit carries them out.
fn apply(object: &mut Map<String, Value>, set: &Map<String, Value>, removed: &[String]) {
    object.retain(|key, _| !removed.contains(key));
    object.extend(set.clone());
}

/// The text of a value, on one line or on several.
fn written(value: &Value, is_pretty: bool) -> String {
    match is_pretty {
        true => serde_json::to_string_pretty(value).unwrap(),
        false => value.to_string(),
    }
}

fn read(line: &Line) -> Value {
    let text = line.to_string();
    assert!(!text.contains(['\r', '\n']), "{text}");
    Message::parse(line.to_bytes()).unwrap();
    serde_json::from_str(&text).unwrap()
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Message::parse(Bytes::from(bytes));
    }

    #[test]
    fn any_text_of_json_marks_is_parsed_or_refused(text in r#"[{}\[\]",:\\0-9a-e. \r\n]{0,60}"#) {
        let _ = Message::parse(Bytes::from(text.clone()));
        let _ = Message::parse(Bytes::from(request_with(&text)));
        let _ = raw::member(&text, "a");
    }

    #[test]
    fn another_id_changes_nothing_else(
        params in members(),
        id in any::<String>(),
        other in any::<i64>(),
        is_pretty in any::<bool>(),
    ) {
        let mut message = json!({"jsonrpc": "2.0", "id": id, "method": "m", "params": params});
        let line = parsed(&written(&message, is_pretty)).with_id(&other.to_string());
        message["id"] = other.into();
        prop_assert_eq!(read(&line), message);
    }

    #[test]
    fn edits_of_params_change_what_they_name(
        mut params in members(),
        mut meta in members(),
        has_meta in any::<bool>(),
        set in members(),
        removed in prop::collection::vec("[a-e]", 0..4),
        is_pretty in any::<bool>(),
    ) {
        if has_meta {
            params.insert(META.into(), Value::Object(meta.clone()));
        } else {
            meta.clear();
        }
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "m", "params": &params});
        let message = parsed(&written(&message, is_pretty));
        let mut edit = message.edit();
        for (key, value) in &set {
            edit = edit.set_param(key, value.to_string()).set_meta(key, value.to_string());
        }
        for key in &removed {
            edit = edit.remove_param(key).remove_meta(key);
        }
        let after = read(&edit.line());
        apply(&mut params, &set, &removed);
        apply(&mut meta, &set, &removed);
        if has_meta || !set.is_empty() {
            params.insert(META.into(), Value::Object(meta));
        }
        prop_assert_eq!(&after["params"], &Value::Object(params));
    }

    #[test]
    fn edits_of_results_change_what_they_name(
        mut result in members(),
        set in members(),
        is_pretty in any::<bool>(),
    ) {
        let message = json!({"jsonrpc": "2.0", "id": 1, "result": &result});
        let message = parsed(&written(&message, is_pretty));
        let edit = set.iter().fold(message.edit(), |edit, (key, value)| {
            edit.set_result(key, value.to_string())
        });
        let after = read(&edit.line());
        apply(&mut result, &set, &[]);
        prop_assert_eq!(&after["result"], &Value::Object(result));
    }
}
