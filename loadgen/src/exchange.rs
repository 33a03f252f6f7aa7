//! HTTP messages of the load: requests as an MCP client sends them, and the target's answers.
//!
//! Client and target build an answer from the same table of bytes. A call carries the start of its
//! message, and the answer returns that start plus the rest of the message. A byte that was changed in
//! either direction, or that belongs to another call, therefore does not compare equal.

use std::fmt::Write;

/// Bytes of a message that the call sends up: the size of a few short arguments.
pub(crate) const TEXT_UP_BYTES: usize = 200;

/// Bytes of the whole message that the answer returns: the size of a tool's text result.
pub(crate) const TEXT_BYTES: usize = 1024;

/// Bytes of text in a progress event.
pub(crate) const EVENT_TEXT_BYTES: usize = 120;

/// Longest accepted head of a request or an answer, in bytes.
pub(crate) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Longest accepted body of a request, in bytes.
pub(crate) const BODY_BYTES_MAX: usize = 16 * 1024;

/// Most header fields accepted in one head.
pub(crate) const FIELDS_MAX: usize = 64;

/// Query parameter of a stream's URL that holds the stream's number.
pub(crate) const STREAM_QUERY: &str = "stream=";

/// Kind of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum RequestKind {
    /// Tool call that is answered with JSON.
    Call,
    /// Tool call that is answered with a stream: a progress event at once, the result a little later.
    Report,
    /// Tool call that makes the target send one more event on every open stream.
    Publish,
    /// GET that opens a stream: one event at once, then one for each [`Publish`](Self::Publish).
    Stream,
}

impl RequestKind {
    /// Name of the called tool; empty for a stream, which is not a call.
    pub(crate) fn tool(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Report => "report",
            Self::Publish => "publish",
            Self::Stream => "",
        }
    }

    /// Kind of request for a tool name.
    pub(crate) fn of_tool(name: &str) -> Option<Self> {
        let tools = [Self::Call, Self::Report, Self::Publish];
        tools.into_iter().find(|ask| ask.tool() == name)
    }
}

/// JSON-RPC id of a request: unique within a run and below 2^53, the largest integer safe in JSON.
pub(crate) fn number(connection: u64, sequence: u64) -> u64 {
    (connection << 32) | (sequence & 0xffff_ffff)
}

/// Appends a whole request to `out`. `text` is the argument of a call.
pub(crate) fn request(
    ask: RequestKind,
    (host, page): (&str, &str),
    number: u64,
    text: &str,
    out: &mut Vec<u8>,
) {
    if ask == RequestKind::Stream {
        let head = format!(
            "GET {page}?{STREAM_QUERY}{number} HTTP/1.1\r\nHost: {host}\r\n\
             User-Agent: tieline-loadgen\r\nAccept: text/event-stream\r\n\
             MCP-Protocol-Version: 2025-11-25\r\n\r\n"
        );
        out.extend_from_slice(head.as_bytes());
        return;
    }
    let mut body = String::with_capacity(TEXT_UP_BYTES + 128);
    // Writing to a String cannot fail.
    let _ = write!(
        body,
        "{{\"jsonrpc\":\"2.0\",\"id\":{number},\"method\":\"tools/call\",\"params\":\
         {{\"name\":\"{}\",\"arguments\":{{\"text\":\"{text}\"}}}}}}",
        ask.tool()
    );
    let head = format!(
        "POST {page} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tieline-loadgen\r\n\
         Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n\
         MCP-Protocol-Version: 2025-11-25\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body.as_bytes());
}

/// Appends the JSON answer of a call. Its text is `up`, the part that the call sent, then `rest`.
pub(crate) fn answer(number: u64, up: &[u8], rest: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(number.to_string().as_bytes());
    out.extend_from_slice(b",\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"");
    out.extend_from_slice(up);
    out.extend_from_slice(rest);
    out.extend_from_slice(b"\"}],\"isError\":false}}");
}

/// Appends progress event number `place` of request or stream `number`.
pub(crate) fn progress(number: u64, place: u64, text: &[u8], out: &mut Vec<u8>) {
    let head = format!(
        "id: {place}\nevent: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\
         \"params\":{{\"progressToken\":{number},\"progress\":{place},\"message\":\""
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(&text[..text.len().min(EVENT_TEXT_BYTES)]);
    out.extend_from_slice(b"\"}}\n\n");
}

/// Appends the last event of a report: the result of the call.
pub(crate) fn result(number: u64, place: u64, up: &[u8], rest: &[u8], out: &mut Vec<u8>) {
    let head = format!("id: {place}\nevent: message\ndata: ");
    out.extend_from_slice(head.as_bytes());
    answer(number, up, rest, out);
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Pattern;
    use serde_json::Value;

    #[test]
    fn a_call_and_its_answer_are_json_rpc_of_a_real_size() {
        let pattern = Pattern::printable(TEXT_BYTES);
        let message = pattern.message(7, 9);
        let (up, rest) = message.split_at(TEXT_UP_BYTES);
        let mut bytes = Vec::new();
        let id = number(7, 9);
        let text = std::str::from_utf8(up).unwrap();
        request(RequestKind::Call, ("host", "/mcp"), id, text, &mut bytes);
        let request = String::from_utf8(bytes).unwrap();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())));
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["method"], "tools/call");
        assert_eq!(body["params"]["arguments"]["text"], text);
        assert_eq!(body["id"], id);

        let mut bytes = Vec::new();
        answer(id, up, rest, &mut bytes);
        let answer: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            answer["result"]["content"][0]["text"],
            std::str::from_utf8(message).unwrap()
        );
        assert!((1_000..2_000).contains(&bytes.len()));
    }

    #[test]
    fn an_event_is_one_line_of_json_between_borders() {
        let pattern = Pattern::printable(TEXT_BYTES);
        let mut bytes = Vec::new();
        progress(5, 0, pattern.message(1, 1), &mut bytes);
        let event = String::from_utf8(bytes).unwrap();
        let data = event.split_once("data: ").unwrap().1;
        assert_eq!(data.find("\n\n"), Some(data.len() - 2));
        let data: Value = serde_json::from_str(data.trim_end()).unwrap();
        assert_eq!(data["params"]["progressToken"], 5);
    }

    #[test]
    fn tools_are_known_by_their_names() {
        for ask in [RequestKind::Call, RequestKind::Report, RequestKind::Publish] {
            assert_eq!(RequestKind::of_tool(ask.tool()), Some(ask));
        }
        assert_eq!(RequestKind::of_tool(""), None);
    }

    #[test]
    fn each_request_has_a_number_of_its_own() {
        assert_ne!(number(1, 0), number(0, 1));
        assert!(number(25_000, u64::from(u32::MAX)) < 1 << 53);
    }
}
