//! Answers of the demo's MCP server, without I/O.
//!
//! Supports both protocol eras: the sessionless version 2026-07-28, in which every request carries its version,
//! and the older versions, which begin with `initialize`.

use serde_json::{Value, json};

/// Header names, in lower case as hyper keeps them.
pub(super) const VERSION_HEADER: &str = "mcp-protocol-version";
pub(super) const METHOD_HEADER: &str = "mcp-method";
pub(super) const NAME_HEADER: &str = "mcp-name";
pub(super) const SESSION_HEADER: &str = "mcp-session-id";

/// Protocol version without MCP sessions.
pub(super) const VERSION_SESSIONLESS: &str = "2026-07-28";

/// Protocol versions with MCP sessions, newest first.
pub(super) const VERSIONS: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];

/// Keys in the `_meta` object of a sessionless request.
pub(super) const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";
pub(super) const CLIENT_CAPABILITIES_KEY: &str = "io.modelcontextprotocol/clientCapabilities";
const SERVER_INFO_KEY: &str = "io.modelcontextprotocol/serverInfo";

/// Names of the tools, in the order of `tools/list`.
pub(super) const TOOLS: [&str; 2] = ["echo", "add"];

const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;
// Error codes of the specification of 2026-07-28.
const HEADER_MISMATCH: i64 = -32020;
const UNSUPPORTED_VERSION: i64 = -32022;

/// MCP headers of one HTTP request.
#[derive(Debug, Default)]
pub(super) struct Headers<'a> {
    pub(super) version: Option<&'a str>,
    pub(super) method: Option<&'a str>,
    pub(super) name: Option<&'a str>,
}

/// Answer to one message.
#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    /// A JSON-RPC answer under an HTTP status.
    Answer { status: u16, body: Value },
    /// The answer to `initialize`, which begins an MCP session.
    Welcome { body: Value },
    /// The acceptance of a notification.
    Accepted,
}

/// HTTP status, JSON-RPC error code, message and optional data of a failed request.
struct Failure {
    status: u16,
    code: i64,
    message: String,
    data: Option<Value>,
}

/// True if a message belongs to the era without MCP sessions.
pub(super) fn is_sessionless(headers: &Headers<'_>, message: &Value) -> bool {
    headers.version == Some(VERSION_SESSIONLESS)
        || message["params"]["_meta"].get(VERSION_KEY).is_some()
}

/// Answers one JSON-RPC message.
pub(super) fn respond(headers: &Headers<'_>, message: &Value) -> Reply {
    let Some(method) = message["method"]
        .as_str()
        .filter(|_| message["jsonrpc"] == "2.0")
    else {
        return failed(
            message,
            failure(400, INVALID_REQUEST, "not a JSON-RPC request"),
        );
    };
    if message.get("id").is_none() {
        return Reply::Accepted;
    }
    let params = &message["params"];
    let result = if is_sessionless(headers, message) {
        check_envelope(headers, method, params).and_then(|()| sessionless(method, params))
    } else {
        with_session(method, params)
    };
    match result {
        Ok(result) => {
            let body = json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
            match method {
                "initialize" => Reply::Welcome { body },
                _ => Reply::Answer { status: 200, body },
            }
        }
        Err(failure) => failed(message, failure),
    }
}

/// Answer to a body that is not JSON.
pub(super) fn unreadable(message: &str) -> Reply {
    failed(&Value::Null, failure(400, -32700, message))
}

fn failed(message: &Value, failure: Failure) -> Reply {
    let mut error = json!({"code": failure.code, "message": failure.message});
    if let Some(data) = failure.data {
        error["data"] = data;
    }
    let body = json!({"jsonrpc": "2.0", "id": message["id"], "error": error});
    Reply::Answer {
        status: failure.status,
        body,
    }
}

fn failure(status: u16, code: i64, message: impl Into<String>) -> Failure {
    Failure {
        status,
        code,
        message: message.into(),
        data: None,
    }
}

/// Checks that a sessionless request's headers match its body: proxies on the way rely on the headers.
fn check_envelope(headers: &Headers<'_>, method: &str, params: &Value) -> Result<(), Failure> {
    let meta = &params["_meta"];
    for key in [VERSION_KEY, CLIENT_CAPABILITIES_KEY] {
        if meta.get(key).is_none() {
            return Err(failure(400, INVALID_PARAMS, format!("_meta lacks {key}")));
        }
    }
    let name = if method == "tools/call" {
        params["name"].as_str()
    } else {
        None
    };
    for (header, given, meant) in [
        (VERSION_HEADER, headers.version, meta[VERSION_KEY].as_str()),
        (METHOD_HEADER, headers.method, Some(method)),
        (NAME_HEADER, headers.name.filter(|_| name.is_some()), name),
    ] {
        if given != meant {
            let message = format!("the header {header} does not match the body");
            return Err(failure(400, HEADER_MISMATCH, message));
        }
    }
    if headers.version != Some(VERSION_SESSIONLESS) {
        let data = json!({"supported": [VERSION_SESSIONLESS], "requested": headers.version});
        let failure = failure(400, UNSUPPORTED_VERSION, "unsupported protocol version");
        return Err(Failure {
            data: Some(data),
            ..failure
        });
    }
    Ok(())
}

fn sessionless(method: &str, params: &Value) -> Result<Value, Failure> {
    let mut result = match method {
        "server/discover" => json!({
            "supportedVersions": [VERSION_SESSIONLESS],
            "capabilities": {"tools": {}},
            "instructions": INSTRUCTIONS,
            "ttlMs": 0,
            "cacheScope": "private",
        }),
        "tools/list" => json!({"tools": tools(), "ttlMs": 0, "cacheScope": "private"}),
        "tools/call" => call(params)?,
        // 404 in this era alone: a client with an MCP session reads 404 as the end of its session.
        _ => return Err(failure(404, METHOD_NOT_FOUND, "no such method")),
    };
    result["resultType"] = "complete".into();
    result["_meta"] = json!({SERVER_INFO_KEY: server_info()});
    Ok(result)
}

fn with_session(method: &str, params: &Value) -> Result<Value, Failure> {
    match method {
        "initialize" => {
            let wanted = params["protocolVersion"].as_str().unwrap_or_default();
            let version = VERSIONS.iter().find(|version| **version == wanted);
            Ok(json!({
                "protocolVersion": version.unwrap_or(&VERSIONS[0]),
                "capabilities": {"tools": {}},
                "serverInfo": server_info(),
                "instructions": INSTRUCTIONS,
            }))
        }
        "ping" => Ok(json!({})),
        "tools/list" => Ok(json!({"tools": tools()})),
        "tools/call" => call(params),
        _ => Err(failure(200, METHOD_NOT_FOUND, "no such method")),
    }
}

const INSTRUCTIONS: &str = "Tieline's demo: two tools to see that the tunnel works.";

fn server_info() -> Value {
    json!({"name": "tieline-demo", "version": env!("CARGO_PKG_VERSION")})
}

fn tools() -> Value {
    json!([
        {
            "name": TOOLS[0],
            "description": "Sends the message back",
            "inputSchema": {
                "type": "object",
                "properties": {"message": {"type": "string"}},
                "required": ["message"],
            },
        },
        {
            "name": TOOLS[1],
            "description": "Adds two numbers",
            "inputSchema": {
                "type": "object",
                "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
                "required": ["a", "b"],
            },
        },
    ])
}

fn call(params: &Value) -> Result<Value, Failure> {
    let arguments = &params["arguments"];
    let text = match params["name"].as_str() {
        Some("echo") => arguments["message"].as_str().map(str::to_owned),
        Some("add") => add(&arguments["a"], &arguments["b"]),
        _ => return Err(failure(200, INVALID_PARAMS, "no such tool")),
    };
    // A tool that fails is an answer for the model, not a failure of the protocol.
    let (text, failed) = match text {
        Some(text) => (text, false),
        None => (
            "an argument is missing or of the wrong type".to_owned(),
            true,
        ),
    };
    Ok(json!({"content": [{"type": "text", "text": text}], "isError": failed}))
}

fn add(a: &Value, b: &Value) -> Option<String> {
    if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64())
        && let Some(sum) = a.checked_add(b)
    {
        return Some(sum.to_string());
    }
    Some((a.as_f64()? + b.as_f64()?).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, params: Value) -> Value {
        json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    }

    fn old(method: &str, params: Value) -> Value {
        match respond(&Headers::default(), &request(method, params)) {
            Reply::Answer { status: 200, body } | Reply::Welcome { body } => body,
            other => panic!("{other:?}"),
        }
    }

    fn new(headers: &Headers<'_>, method: &str, mut params: Value) -> (u16, Value) {
        params["_meta"] = json!({VERSION_KEY: VERSION_SESSIONLESS, CLIENT_CAPABILITIES_KEY: {}});
        match respond(headers, &request(method, params)) {
            Reply::Answer { status, body } => (status, body),
            other => panic!("{other:?}"),
        }
    }

    fn headers<'a>(method: &'a str, name: Option<&'a str>) -> Headers<'a> {
        Headers {
            version: Some(VERSION_SESSIONLESS),
            method: Some(method),
            name,
        }
    }

    #[test]
    fn an_old_client_gets_the_version_it_asks_for_or_the_newest_with_sessions() {
        for (wanted, given) in [
            ("2025-06-18", "2025-06-18"),
            ("2024-11-05", "2025-11-25"),
            ("", "2025-11-25"),
        ] {
            let answer = old("initialize", json!({"protocolVersion": wanted}));
            assert_eq!(answer["result"]["protocolVersion"], given);
        }
        assert_eq!(old("ping", json!({}))["result"], json!({}));
        assert_eq!(
            old("resources/list", json!({}))["error"]["code"],
            METHOD_NOT_FOUND
        );
    }

    #[test]
    fn both_eras_list_and_call_the_tools() {
        let sum = json!({"name": "add", "arguments": {"a": 19, "b": 23}});
        assert_eq!(
            old("tools/list", json!({}))["result"]["tools"][1]["name"],
            "add"
        );
        assert_eq!(
            old("tools/call", sum.clone())["result"]["content"][0]["text"],
            "42"
        );
        let (status, body) = new(&headers("tools/list", None), "tools/list", json!({}));
        assert_eq!(
            (status, &body["result"]["resultType"]),
            (200, &json!("complete"))
        );
        let (_, body) = new(&headers("tools/call", Some("add")), "tools/call", sum);
        assert_eq!(body["result"]["content"][0]["text"], "42");
        let wrong = old(
            "tools/call",
            json!({"name": "add", "arguments": {"a": "x"}}),
        );
        assert_eq!(wrong["result"]["isError"], true);
    }

    #[test]
    fn a_header_that_disagrees_with_the_body_is_refused() {
        let call = json!({"name": "echo", "arguments": {"message": "x"}});
        for headers in [
            headers("tools/list", Some("echo")),
            headers("tools/call", Some("add")),
            headers("tools/call", None),
            Headers {
                version: None,
                ..headers("tools/call", Some("echo"))
            },
        ] {
            let (status, body) = new(&headers, "tools/call", call.clone());
            assert_eq!(
                (status, &body["error"]["code"]),
                (400, &json!(HEADER_MISMATCH))
            );
        }
    }

    #[test]
    fn an_unknown_version_is_answered_with_the_known_ones() {
        let message = request(
            "tools/list",
            json!({"_meta": {VERSION_KEY: "2030-01-01", CLIENT_CAPABILITIES_KEY: {}}}),
        );
        let headers = Headers {
            version: Some("2030-01-01"),
            method: Some("tools/list"),
            name: None,
        };
        let Reply::Answer { status, body } = respond(&headers, &message) else {
            panic!()
        };
        assert_eq!(status, 400);
        assert_eq!(
            body["error"]["data"]["supported"],
            json!([VERSION_SESSIONLESS])
        );
    }

    #[test]
    fn notifications_are_accepted_and_nonsense_is_not() {
        let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(respond(&Headers::default(), &note), Reply::Accepted);
        for nonsense in [
            json!([]),
            json!({"id": 1}),
            json!({"jsonrpc": "1.0", "method": "x"}),
        ] {
            let reply = respond(&Headers::default(), &nonsense);
            assert!(
                matches!(reply, Reply::Answer { status: 400, .. }),
                "{reply:?}"
            );
        }
    }
}
