//! Looks at a target once, like an MCP client: whether it is there, speaks HTTP, and speaks MCP. A program is looked
//! for and not started.
//!
//! Sends one `initialize`, which servers of every version of MCP know or answer with an error. A server that no
//! longer has this method gets one `server/discover`. A server that takes no `POST` gets one `GET`, which begins
//! MCP's older transport (SSE). A session or stream that this opens is ended at once. Time and bytes are limited,
//! and nothing else of the target is used.
//! One file because each request stands beside the meaning of its answer.

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, LOCATION, USER_AGENT};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use tieline_agent::socket::CloseMode;
use tieline_agent::targets::TargetFailure;
use tieline_agent::{ProgramError, Target, TargetConfig};

/// Time limit for the whole look.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for ending the MCP session that a look opened.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Time limit for the first event of the older transport; servers send it at once.
const EVENT_TIMEOUT: Duration = Duration::from_secs(2);

/// Limit on the bytes of an answer; the answer to `initialize` has about a hundredth of it.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// Limit on the characters that are shown of a text from the target.
const WORDS_CHARS_MAX: usize = 100;

/// Protocol version to ask for: the newest one with sessions; a server may choose an older version.
const VERSION: &str = "2025-11-25";
const VERSION_SESSIONLESS: &str = "2026-07-28";

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const MCP_METHOD: HeaderName = HeaderName::from_static("mcp-method");

const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("tieline/", env!("CARGO_PKG_VERSION"), " (look)"));
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const BOTH: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");

/// Result of a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sight {
    /// Result in one stable word, for JSON.
    pub(crate) state: &'static str,
    /// Result in a sentence that says what to do.
    pub(crate) message: String,
    /// Name that the MCP server reports.
    pub(crate) server: Option<String>,
    /// Version that the MCP server reports.
    pub(crate) version: Option<String>,
}

impl Sight {
    fn new(state: &'static str, message: impl Into<String>) -> Self {
        Self {
            state,
            message: message.into(),
            server: None,
            version: None,
        }
    }

    /// True if callers can use the target.
    pub(crate) fn is_good(&self) -> bool {
        matches!(
            self.state,
            "mcp" | "mcp_sse" | "open" | "unauthorized" | "on_demand"
        )
    }

    /// True if an MCP client can speak to the target, at least with a credential of the target's own.
    pub(crate) fn is_mcp(&self) -> bool {
        matches!(self.state, "mcp" | "mcp_sse" | "unauthorized" | "on_demand")
    }

    /// True if the target speaks MCP's older transport, which clients must be told.
    pub(crate) fn is_older(&self) -> bool {
        self.state == "mcp_sse"
    }
}

/// What is known of a program that is not started: the file that was `found` for it, and variables that it lacks.
pub(crate) fn of_program(target: &TargetConfig, found: Result<PathBuf, ProgramError>) -> Sight {
    let name = &target.target;
    let file = match found {
        Ok(file) => file,
        Err(problem) => {
            let words = format!(
                "{name} cannot be started: {problem}; callers get 503 until it can (give the program's whole path, or a \
                 PATH with --env PATH=…)"
            );
            return Sight::new("no_program", words);
        }
    };
    let mut words = format!(
        "{name} is started when a caller needs it ({})",
        file.display()
    );
    let unset = target.stdio.unset_variables();
    if !unset.is_empty() {
        let list = unset.join(", ");
        words = format!("{words}; it is to inherit {list}, which is not set here");
    }
    Sight::new("on_demand", words)
}

/// Looks at `target`.
pub(crate) async fn look(target: &Target) -> Sight {
    match timeout(LOOK_TIMEOUT, look_at(target)).await {
        Ok(sight) => sight,
        Err(_) => Sight::new(
            "timeout",
            format!(
                "{target} takes connections, but does not answer MCP's initialize within {} s",
                LOOK_TIMEOUT.as_secs()
            ),
        ),
    }
}

async fn look_at(target: &Target) -> Sight {
    let path = match target.base_path() {
        "" => "/",
        path => path,
    };
    if !target.is_http() {
        return match target.connect_within(LOOK_TIMEOUT, CloseMode::Resets).await {
            Ok(_) => Sight::new(
                "open",
                format!(
                    "{target} takes connections, and callers get its raw bytes; an MCP server over \
                     HTTP is --to http://{target}/mcp"
                ),
            ),
            Err((reason, error)) => absent(target, reason, &error),
        };
    }
    let ask = McpClient {
        target,
        path: path.to_owned(),
    };
    match ask.initialize().await {
        Ok(sight) => sight,
        Err(Trouble::Connect(failure, error)) => absent(target, failure, &error),
        Err(Trouble::Http(why)) => Sight::new(
            "not_http",
            format!(
                "{target} takes connections, but does not speak HTTP ({why}): is it another kind of \
                 server (--to host:port), or does it need https? One that speaks WebSocket alone works"
            ),
        ),
    }
}

fn absent(target: &Target, failure: TargetFailure, error: &std::io::Error) -> Sight {
    match failure {
        TargetFailure::Refused => {
            let meanwhile = match target.is_http() {
                true => "callers get 502",
                false => "callers' connections are reset",
            };
            Sight::new(
                "refused",
                format!("nothing listens at {target}: start the server; {meanwhile} until it runs"),
            )
        }
        TargetFailure::Timeout => {
            let words =
                format!("{target} does not take the connection: is it busy, or firewalled?");
            Sight::new("timeout", words)
        }
        TargetFailure::Unreachable | TargetFailure::Reset => Sight::new(
            "unreachable",
            format!("{target} cannot be reached: {error}"),
        ),
    }
}

/// Why a request got no answer.
enum Trouble {
    Connect(TargetFailure, std::io::Error),
    Http(String),
}

/// A request and the head of its answer; dropping this closes the connection.
struct Exchange {
    head: Parts,
    body: Incoming,
    _driver: JoinSet<hyper::Result<()>>,
}

impl Exchange {
    fn is_stream(&self) -> bool {
        let kind = self.head.headers.get(CONTENT_TYPE);
        kind.is_some_and(|it| it.as_bytes().starts_with(b"text/event-stream"))
    }
}

/// An answer: its head, and the first JSON-RPC message of its body, if there is one.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    message: Value,
}

/// MCP client of one target, for one look at it.
struct McpClient<'a> {
    target: &'a Target,
    path: String,
}

impl McpClient<'_> {
    async fn initialize(mut self) -> Result<Sight, Trouble> {
        let request = json!({
            "jsonrpc": "2.0", "id": 1, "method": "initialize",
            "params": {
                "protocolVersion": VERSION, "capabilities": {},
                "clientInfo": {"name": "tieline", "version": env!("CARGO_PKG_VERSION")},
            },
        });
        let mut answer = self.post(&request, &HeaderMap::new()).await?;
        if let Some(path) = self.redirect(&answer) {
            self.path = path;
            answer = self.post(&request, &HeaderMap::new()).await?;
        }
        if let Some(id) = answer.headers.get(SESSION_ID) {
            let farewell = self.end_session(id.clone(), &answer.message);
            let _ = timeout(FAREWELL_TIMEOUT, farewell).await;
        }
        if answer.message["error"].is_object() {
            // A server of the version without sessions has no `initialize`.
            let found = self.discover().await?;
            if found.message["result"].is_object() {
                answer = found;
            }
        }
        let is_mcp = answer.message.is_object() || is_denied(answer.status);
        if !is_mcp && self.is_older().await {
            return Ok(Sight::new(
                "mcp_sse",
                format!(
                    "an MCP server of the older transport (SSE) answers at {}",
                    self.target
                ),
            ));
        }
        Ok(self.judge(&answer))
    }

    /// True if a `GET` begins MCP's older transport: an event stream whose first event names the endpoint for messages
    /// (MCP 2024-11-05, "HTTP with SSE"). The stream is closed before this returns.
    async fn is_older(&self) -> bool {
        let headers = HeaderMap::from_iter([(ACCEPT, EVENTS)]);
        let first = async {
            let exchange = self.exchange(Method::GET, Bytes::new(), &headers).await;
            let stream = exchange
                .ok()
                .filter(|it| it.head.status == StatusCode::OK && it.is_stream())?;
            find_in(stream.body, |text, _| names_endpoint(text).then_some(())).await
        };
        matches!(timeout(EVENT_TIMEOUT, first).await, Ok(Some(())))
    }

    async fn discover(&self) -> Result<Answer, Trouble> {
        let request = json!({
            "jsonrpc": "2.0", "id": 1, "method": "server/discover",
            "params": { "_meta": {
                "io.modelcontextprotocol/protocolVersion": VERSION_SESSIONLESS,
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo":
                    {"name": "tieline", "version": env!("CARGO_PKG_VERSION")},
            }},
        });
        let mut headers = HeaderMap::new();
        headers.insert(
            PROTOCOL_VERSION,
            HeaderValue::from_static(VERSION_SESSIONLESS),
        );
        headers.insert(MCP_METHOD, HeaderValue::from_static("server/discover"));
        self.post(&request, &headers).await
    }

    async fn end_session(&self, id: HeaderValue, message: &Value) -> Result<Answer, Trouble> {
        let mut headers = HeaderMap::new();
        headers.insert(SESSION_ID, id);
        let version = message["result"]["protocolVersion"].as_str();
        if let Some(Ok(version)) = version.map(HeaderValue::from_str) {
            headers.insert(PROTOCOL_VERSION, version);
        }
        self.send(Method::DELETE, Bytes::new(), &headers).await
    }

    async fn post(&self, message: &Value, more: &HeaderMap) -> Result<Answer, Trouble> {
        let mut headers = more.clone();
        headers.insert(CONTENT_TYPE, JSON);
        self.send(Method::POST, Bytes::from(message.to_string()), &headers)
            .await
    }

    /// Sends one request over a connection of its own, and closes the connection.
    async fn send(&self, method: Method, body: Bytes, more: &HeaderMap) -> Result<Answer, Trouble> {
        let exchange = self.exchange(method, body, more).await?;
        let is_stream = exchange.is_stream();
        Ok(Answer {
            status: exchange.head.status,
            headers: exchange.head.headers,
            message: message_of(exchange.body, is_stream).await,
        })
    }

    async fn exchange(
        &self,
        method: Method,
        body: Bytes,
        more: &HeaderMap,
    ) -> Result<Exchange, Trouble> {
        let connected = self
            .target
            .connect_within(LOOK_TIMEOUT, CloseMode::Ends)
            .await;
        let stream = connected.map_err(|(reason, error)| Trouble::Connect(reason, error))?;
        let http = |error: &dyn std::fmt::Display| Trouble::Http(error.to_string());
        let mut request = Request::builder()
            .method(method)
            .uri(&*self.path)
            .header(HOST, self.target.authority())
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, BOTH)
            .body(Full::new(body))
            .map_err(|error| http(&error))?;
        for (name, value) in more {
            request.headers_mut().insert(name, value.clone());
        }
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| http(&error))?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let answer = sender.send_request(request).await;
        let (head, body) = answer.map_err(|error| http(&error))?.into_parts();
        Ok(Exchange {
            head,
            body,
            _driver: driver,
        })
    }

    /// Path of a redirect within the same server, such as to the path with a slash at the end.
    fn redirect(&self, answer: &Answer) -> Option<String> {
        let is_same_method = matches!(
            answer.status,
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
        );
        let location: Uri = answer.headers.get(LOCATION)?.to_str().ok()?.parse().ok()?;
        let own = self.target.authority();
        let is_here = location.authority().is_none_or(|it| it.as_str() == own);
        (is_same_method && is_here).then(|| location.path().to_owned())
    }

    fn judge(&self, answer: &Answer) -> Sight {
        let (target, status) = (self.target, answer.status);
        let result = &answer.message["result"];
        if result.is_object() {
            return known(target, result);
        }
        if is_denied(status) {
            let words = format!(
                "{target} needs authorization ({}) from its callers",
                status.as_u16()
            );
            return Sight::new("unauthorized", words);
        }
        if let Some(error) = answer.message["error"]["message"].as_str() {
            let words = format!(
                "{target} speaks MCP, and answers with an error: {}",
                short(error)
            );
            return Sight::new("mcp", words);
        }
        let advice = match target.base_path() {
            "" => format!("is it http://{}/mcp?", target.authority()),
            _ => "is the path right?".to_owned(),
        };
        let words = format!(
            "{target} answers HTTP, but not MCP ({} at {}): {advice}",
            status.as_u16(),
            self.path
        );
        Sight::new("not_mcp", words)
    }
}

fn is_denied(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// Result for a server that answered with an MCP result.
fn known(target: &Target, result: &Value) -> Sight {
    let info = match result["serverInfo"].is_object() {
        true => &result["serverInfo"],
        false => &result["_meta"]["io.modelcontextprotocol/serverInfo"],
    };
    let text = |name: &str| info[name].as_str().filter(|it| !it.is_empty()).map(short);
    let (server, version) = (text("name"), text("version"));
    let protocol = result["protocolVersion"]
        .as_str()
        .or_else(|| result["supportedVersions"][0].as_str());
    let mut words = server.clone().unwrap_or_else(|| "an MCP server".to_owned());
    if let Some(version) = &version {
        words = format!("{words} {version}");
    }
    words = format!("{words} answers at {target}");
    if let Some(protocol) = protocol {
        words = format!("{words} (MCP {})", short(protocol));
    }
    Sight {
        server,
        version,
        ..Sight::new("mcp", words)
    }
}

fn short(text: &str) -> String {
    text.chars().take(WORDS_CHARS_MAX).collect()
}

/// What `find` finds in a body, whose text so far it gets after each piece; `None` for a body that is too long. The
/// body is read no further than that. At the end of the body, the second argument of `find` is true.
async fn find_in<T>(mut body: Incoming, find: impl Fn(&[u8], bool) -> Option<T>) -> Option<T> {
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else {
            continue;
        };
        text.extend_from_slice(&data);
        if text.len() > BODY_BYTES_MAX {
            return None;
        }
        if let Some(found) = find(&text, false) {
            return Some(found);
        }
    }
    find(&text, true)
}

/// The first JSON-RPC answer in a body, or null.
async fn message_of(body: Incoming, is_stream: bool) -> Value {
    let message = find_in(body, |text, is_whole| match is_stream {
        true => message_in(text),
        false => is_whole.then(|| answer_in(text)).flatten(),
    });
    message.await.unwrap_or(Value::Null)
}

/// True if the complete lines of a stream's text name the event `endpoint`, the endpoint for messages.
fn names_endpoint(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text).replace("\r\n", "\n");
    let text = text.replace('\r', "\n");
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    complete.lines().any(|line| {
        let line = line.trim_start_matches('\u{feff}');
        line.strip_prefix("event:").map(str::trim) == Some("endpoint")
    })
}

fn answer_in(json: &[u8]) -> Option<Value> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let is_answer = value["jsonrpc"] == "2.0"
        && (value.get("result").is_some() || value.get("error").is_some());
    is_answer.then_some(value)
}

/// The first answer among the complete events of an event stream; other messages may come before the answer.
fn message_in(text: &[u8]) -> Option<Value> {
    let text = str::from_utf8(text).ok()?.replace("\r\n", "\n");
    // Text after the last empty line is not a complete event.
    let (complete, _) = text.rsplit_once("\n\n")?;
    complete.split("\n\n").find_map(|event| {
        let data: Vec<_> = event
            .lines()
            .filter_map(|line| line.strip_prefix("data:"))
            .map(|data| data.strip_prefix(' ').unwrap_or(data))
            .collect();
        answer_in(data.join("\n").as_bytes())
    })
}
