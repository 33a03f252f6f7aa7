//! JSON-RPC messages that the bridge writes itself.

use bytes::Bytes;

use crate::json::Object;
use crate::message::Line;

/// A request of the bridge's own to a child.
pub(crate) fn request(number: u64, method: &str, params: &str) -> Line {
    let request = Object::new()
        .text("jsonrpc", "2.0")
        .raw("id", &number.to_string())
        .text("method", method)
        .raw("params", params);
    Line::new().with(request.end())
}

/// A request with raw `params` of another party, which are not copied.
pub(crate) fn request_with(number: u64, method: &str, params: Option<Bytes>) -> Line {
    let head = Object::new()
        .text("jsonrpc", "2.0")
        .raw("id", &number.to_string())
        .text("method", method);
    match params {
        Some(params) => open(head).with(r#","params":"#).with(params).with("}"),
        None => Line::new().with(head.end()),
    }
}

/// A notification.
pub(crate) fn notification(method: &str, params: Option<&str>) -> Line {
    let notification = Object::new()
        .text("jsonrpc", "2.0")
        .text("method", method)
        .raw_if("params", params);
    Line::new().with(notification.end())
}

/// A `notifications/cancelled` for the request with this raw id.
pub(crate) fn cancelled(id: &str, reason: &str) -> Line {
    let params = Object::new().raw("requestId", id).text("reason", reason);
    notification("notifications/cancelled", Some(&params.end()))
}

/// A response with a raw result, which is not copied.
pub(crate) fn response(id: &str, result: impl Into<Bytes>) -> Line {
    respond(id, r#","result":"#, result.into())
}

/// A response with a raw error, which is not copied.
pub(crate) fn refusal(id: &str, error: impl Into<Bytes>) -> Line {
    respond(id, r#","error":"#, error.into())
}

fn respond(id: &str, key: &'static str, value: Bytes) -> Line {
    let head = Object::new().text("jsonrpc", "2.0").raw("id", id);
    open(head).with(key).with(value).with("}")
}

/// The object without its end.
fn open(object: Object) -> Line {
    let mut text = object.end();
    text.pop();
    Line::new().with(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_as_json_rpc() {
        let params = Some(Bytes::from_static(b"{}"));
        let texts = [
            (
                request(7, "ping", "{}"),
                r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":{}}"#,
            ),
            (
                request_with(7, "ping", params),
                r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":{}}"#,
            ),
            (
                request_with(7, "ping", None),
                r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#,
            ),
            (notification("n", None), r#"{"jsonrpc":"2.0","method":"n"}"#),
            (
                response("\"a\"", "{}"),
                r#"{"jsonrpc":"2.0","id":"a","result":{}}"#,
            ),
            (refusal("1", "{}"), r#"{"jsonrpc":"2.0","id":1,"error":{}}"#),
        ];
        for (line, text) in texts {
            assert_eq!(line.to_string(), text);
        }
    }
}
