//! Calls of modern callers: what the child is to see of them, and what they are to see of its answer.

use serde_json::value::RawValue;

use crate::error::{INTERNAL_ERROR, INVALID_PARAMS};
use crate::greeting::cache_hints;
use crate::headers::{META_PREFIX, META_SUBSCRIPTION_ID};
use crate::json::Object;
use crate::message::{Line, Message, raw};
use crate::own;

/// The request that opens a stream of notifications.
pub(crate) const LISTEN: &str = "subscriptions/listen";

/// Code with which legacy servers say that there is no such resource; the modern era uses the code of invalid params.
const RESOURCE_NOT_FOUND: i64 = -32002;

/// Code with which legacy servers want the caller to open a URL first; the modern era does not know it.
const URL_REQUIRED: i64 = -32042;

/// A request for a legacy child, which knows nothing of the modern members; `number` is its id and its progress token.
pub(crate) fn for_legacy_child(message: &Message, number: u64) -> Line {
    let edit = message
        .edit()
        .id(number.to_string())
        .remove_meta_prefix(META_PREFIX)
        .remove_param("inputResponses")
        .remove_param("requestState");
    match message.progress_token() {
        Some(_) => edit.progress_token(number.to_string()).line(),
        None => edit.line(),
    }
}

/// A request for a child of the caller's own era; `number` is its id and its progress token.
pub(crate) fn for_same_era(message: &Message, number: u64) -> Line {
    let edit = message.edit().id(number.to_string());
    match message.progress_token() {
        Some(_) => edit.progress_token(number.to_string()).line(),
        None => edit.line(),
    }
}

/// A legacy child's answer to a call of `method`, with the status of an answer that is one JSON object.
pub(crate) fn of_legacy_child(message: &Message, method: &str, id: &str) -> (u16, Line) {
    let Some(code) = message.error_code() else {
        let mut edit = message.edit().id(id.to_owned());
        if message.result_member("resultType").is_none() {
            edit = edit.set_result("resultType", "\"complete\"");
        }
        for (key, value) in cache_hints(method) {
            edit = edit.set_result(key, value);
        }
        return (200, edit.line());
    };
    let code = match code {
        RESOURCE_NOT_FOUND => i64::from(INVALID_PARAMS),
        URL_REQUIRED => match urls_required(message, id) {
            Some(line) => return (200, line),
            None => i64::from(INTERNAL_ERROR),
        },
        code => return (status_of(code), message.with_id(id)),
    };
    let error = Object::new()
        .raw("code", &code.to_string())
        .raw_if("message", message.error_member("message"))
        .raw_if("data", message.error_member("data"));
    (status_of(code), own::refusal(id, error.end()))
}

/// True if the caller must be able to open a URL before the call can succeed.
pub(crate) fn needs_url(message: &Message) -> bool {
    message.error_code() == Some(URL_REQUIRED)
}

/// The result that asks a modern caller to open the URLs which a legacy child wants it to open before it calls again.
fn urls_required(message: &Message, id: &str) -> Option<Line> {
    let wanted = raw::member(message.error_member("data")?, "elicitations")?;
    let wanted: Vec<&RawValue> = serde_json::from_str(wanted).ok()?;
    let mut requests = Object::new();
    for (place, params) in wanted.iter().enumerate() {
        let request = Object::new()
            .text("method", "elicitation/create")
            .raw("params", params.get());
        requests = requests.raw(&format!("url-{place}"), &request.end());
    }
    let result = Object::new()
        .text("resultType", "input_required")
        .raw("inputRequests", &requests.end());
    (!wanted.is_empty()).then(|| own::response(id, result.end()))
}

/// A modern child's answer to a call of `method`, with the status of an answer that is one JSON object.
pub(crate) fn of_modern_child(message: &Message, method: &str, id: &str) -> (u16, Line) {
    let status = message.error_code().map_or(200, status_of);
    match method == LISTEN && message.result().is_some() {
        true => {
            let edit = message.edit().id(id.to_owned());
            let edit = edit.set_result_meta(META_SUBSCRIPTION_ID, id.to_owned());
            (status, edit.line())
        }
        false => (status, message.with_id(id)),
    }
}

/// The HTTP status of an error (streamable-http.mdx, Request Metadata).
fn status_of(code: i64) -> u16 {
    match code {
        -32601 => 404,
        -32022..=-32020 => 400,
        _ => 200,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(text: &'static str) -> Message {
        Message::parse(Bytes::from_static(text.as_bytes())).unwrap()
    }

    #[test]
    fn a_legacy_child_sees_no_modern_member() {
        let call = message(
            r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"n","requestState":"s","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","progressToken":"p","x":1}}}"#,
        );
        let line = for_legacy_child(&call, 7).to_string();
        assert_eq!(
            line,
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"n","_meta":{"progressToken":7,"x":1}}}"#
        );
    }

    #[test]
    fn a_legacy_result_gets_what_the_modern_era_requires() {
        let answer = message(r#"{"jsonrpc":"2.0","id":7,"result":{"tools":[]}}"#);
        let (status, line) = of_legacy_child(&answer, "tools/list", "\"a\"");
        let line = Message::parse(line.to_bytes()).unwrap();
        assert_eq!((status, line.id()), (200, Some("\"a\"")));
        assert_eq!(line.result_member("resultType"), Some("\"complete\""));
        assert_eq!(line.result_member("ttlMs"), Some("0"));
        assert_eq!(line.result_member("cacheScope"), Some("\"private\""));
        assert_eq!(line.result_member("tools"), Some("[]"));
    }

    #[test]
    fn legacy_codes_are_not_passed_on() {
        let error =
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32002,"message":"no","data":{"uri":"a"}}}"#;
        let (status, line) = of_legacy_child(&message(error), "resources/read", "1");
        let text =
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no","data":{"uri":"a"}}}"#;
        assert_eq!((status, line.to_string().as_str()), (200, text));
    }

    #[test]
    fn an_unknown_method_is_not_found() {
        let error = message(r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"message":"no"}}"#);
        assert_eq!(of_legacy_child(&error, "x", "1").0, 404);
        assert_eq!(of_modern_child(&error, "x", "1").0, 404);
    }

    #[test]
    fn the_end_of_a_subscription_names_it_as_the_caller_does() {
        let end = message(
            r#"{"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":7}}}"#,
        );
        let (_, line) = of_modern_child(&end, LISTEN, "\"a\"");
        let line = Message::parse(line.to_bytes()).unwrap();
        assert_eq!(line.result_meta(META_SUBSCRIPTION_ID), Some("\"a\""));
    }
}
