//! What is said over HTTP: requests as an MCP client sends them, and what answers them.
//!
//! Client and target make an answer from the same table. A call carries the beginning of its
//! message, and the answer brings that back with the rest of the message: a byte that was changed
//! on the way up or down, or that belongs to another call, does not compare equal.

use std::fmt::Write;

/// Bytes of a call's message that go up: a few short arguments.
pub(crate) const TEXT_UP_BYTES: usize = 200;

/// Bytes of the whole message, which come back: a tool's answer in text.
pub(crate) const TEXT_BYTES: usize = 1024;

/// Bytes of the message in an event that tells of progress.
pub(crate) const EVENT_TEXT_BYTES: usize = 120;

/// Longest head of a request or an answer.
pub(crate) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Longest body of a request.
pub(crate) const BODY_BYTES_MAX: usize = 16 * 1024;

/// Header fields of a head, at most.
pub(crate) const FIELDS_MAX: usize = 64;

/// The part of a page's query that numbers a stream.
pub(crate) const STREAM_QUERY: &str = "stream=";

/// What a request asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ask {
    /// A tool's answer as JSON.
    Call,
    /// A tool's progress as one event at once, its answer as another one a little later.
    Report,
    /// One more event on every stream that is open.
    Publish,
    /// A stream that stays open: one event at once, one for each [`Publish`](Self::Publish).
    Stream,
}

impl Ask {
    /// Name of the tool that is called; a stream is no call.
    pub(crate) fn tool(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Report => "report",
            Self::Publish => "publish",
            Self::Stream => "",
        }
    }

    /// The tool of this name.
    pub(crate) fn of_tool(name: &str) -> Option<Self> {
        let tools = [Self::Call, Self::Report, Self::Publish];
        tools.into_iter().find(|ask| ask.tool() == name)
    }
}

/// The JSON-RPC id of a request: each of a run has its own, below 2^53, as JSON asks for.
pub(crate) fn number(connection: u64, sequence: u64) -> u64 {
    (connection << 32) | (sequence & 0xffff_ffff)
}

/// Appends a whole request. `text` is what a call carries.
pub(crate) fn request(
    ask: Ask,
    (host, page): (&str, &str),
    number: u64,
    text: &str,
    out: &mut Vec<u8>,
) {
    if ask == Ask::Stream {
        let head = format!(
            "GET {page}?{STREAM_QUERY}{number} HTTP/1.1\r\nHost: {host}\r\n\
             User-Agent: tieline-loadgen\r\nAccept: text/event-stream\r\n\
             MCP-Protocol-Version: 2025-11-25\r\n\r\n"
        );
        out.extend_from_slice(head.as_bytes());
        return;
    }
    let mut body = String::with_capacity(TEXT_UP_BYTES + 128);
    // A String takes everything.
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

/// Appends the JSON that answers a call. Its text is in two parts: what came up, and the rest.
pub(crate) fn answer(number: u64, up: &[u8], rest: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(number.to_string().as_bytes());
    out.extend_from_slice(b",\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"");
    out.extend_from_slice(up);
    out.extend_from_slice(rest);
    out.extend_from_slice(b"\"}],\"isError\":false}}");
}

/// Appends an event that tells of progress: number `place` of this request or stream.
pub(crate) fn progress(number: u64, place: u64, text: &[u8], out: &mut Vec<u8>) {
    let head = format!(
        "id: {place}\nevent: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\
         \"params\":{{\"progressToken\":{number},\"progress\":{place},\"message\":\""
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(&text[..text.len().min(EVENT_TEXT_BYTES)]);
    out.extend_from_slice(b"\"}}\n\n");
}

/// Appends the last event of a report: the answer of the call.
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
        request(Ask::Call, ("host", "/mcp"), id, text, &mut bytes);
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
        for ask in [Ask::Call, Ask::Report, Ask::Publish] {
            assert_eq!(Ask::of_tool(ask.tool()), Some(ask));
        }
        assert_eq!(Ask::of_tool(""), None);
    }

    #[test]
    fn each_request_has_a_number_of_its_own() {
        assert_ne!(number(1, 0), number(0, 1));
        assert!(number(25_000, u64::from(u32::MAX)) < 1 << 53);
    }
}
