//! A bridge between simulated callers and simulated children, on simulated time.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::headers::RequestHead;
use crate::ids::{Caller, ChildId, ExchangeId};
use crate::message::{Message, raw};
use crate::{Bridge, ChildEnd, HttpMethod, Output, Request, ResponseHead, Settings, Share};

mod apart;
mod ends;
mod eras;
mod legacy;
mod limits;
mod modern;
mod rounds;
mod subscriptions;

/// What a legacy child answers to `initialize`.
const LEGACY_RESULT: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true},"logging":{},"tasks":{}},"serverInfo":{"name":"old","version":"1"}}"#;

/// What a modern child answers to `server/discover`.
const MODERN_RESULT: &str = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true}},"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"new","version":"2"}},"ttlMs":0,"cacheScope":"private"}"#;

/// Error of a child that does not know a method.
const UNKNOWN: &str = r#"{"code":-32601,"message":"method not found"}"#;

/// The caller of most tests.
const ANN: &str = "ann";

/// Another caller.
const BOB: &str = "bob";

/// One second.
const SECOND: Duration = Duration::from_secs(1);

/// A bridge with all that has come out of it.
struct Rig {
    bridge: Bridge,
    now: Instant,
    /// The raw capabilities of modern callers.
    capabilities: &'static str,
    /// More raw members of modern callers' `_meta`, each with a comma in front.
    meta: &'static str,
    answers: BTreeMap<ExchangeId, Answer>,
    written: VecDeque<(ChildId, Message)>,
    started: Vec<ChildId>,
    told_to_end: Vec<ChildId>,
    strays: Vec<Bytes>,
}

/// The answer to an HTTP request so far.
#[derive(Debug, Default)]
struct Answer {
    head: Option<ResponseHead>,
    body: String,
    end: Option<Ending>,
}

/// The moment at which a test's simulated time begins. Nothing depends on which it is.
#[expect(
    clippy::disallowed_methods,
    reason = "simulated time has to begin somewhere, and an Instant comes from nowhere else"
)]
pub(crate) fn first_moment() -> Instant {
    Instant::now()
}

/// How an answer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Done,
    Broken,
}

/// A legacy session under test.
struct Opened {
    key: String,
    child: ChildId,
}

impl Rig {
    fn new(share: Share) -> Self {
        Self::with(Settings {
            share,
            ..Settings::default()
        })
    }

    fn with(settings: Settings) -> Self {
        let mut next = 0_u64;
        let random = Box::new(move |bytes: &mut [u8]| {
            next += 1;
            for (place, byte) in bytes.iter_mut().enumerate() {
                *byte = next.to_le_bytes()[place % 8];
            }
        });
        Self {
            bridge: Bridge::new(settings, random),
            now: first_moment(),
            capabilities: "{}",
            meta: "",
            answers: BTreeMap::new(),
            written: VecDeque::new(),
            started: Vec::new(),
            told_to_end: Vec::new(),
            strays: Vec::new(),
        }
    }

    /// Sends an HTTP request with these fields beside the usual ones.
    fn send(
        &mut self,
        method: HttpMethod,
        caller: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> ExchangeId {
        let usual = [
            ("accept", "application/json, text/event-stream"),
            ("content-type", "application/json"),
        ];
        let is_given = |name: &str| fields.iter().any(|(given, _)| *given == name);
        let usual = usual.iter().filter(|(name, _)| !is_given(name));
        let all = usual
            .chain(fields)
            .map(|(name, value)| (*name, value.as_bytes()));
        let request = Request {
            method,
            head: RequestHead::read(all),
            caller: Caller::new(caller).unwrap(),
            body: Bytes::from(body.to_owned()),
        };
        let exchange = self.bridge.request(self.now, request);
        self.drain();
        exchange
    }

    /// Sends `initialize` of a legacy caller.
    fn initialize(&mut self, caller: &str, version: &str) -> ExchangeId {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":"i","method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{{"roots":{{}}}},"clientInfo":{{"name":"{caller}","version":"1"}}}}}}"#
        );
        self.send(HttpMethod::Post, caller, &[], &body)
    }

    /// Opens a session at a legacy child that is started for it.
    fn open(&mut self, caller: &str) -> Opened {
        let exchange = self.initialize(caller, "2025-11-25");
        let (child, request) = self.written();
        self.answer(child, &request, LEGACY_RESULT);
        self.opened(exchange, child)
    }

    /// The session that this answer to `initialize` has begun; it is told that the handshake is complete.
    fn opened(&mut self, exchange: ExchangeId, child: ChildId) -> Opened {
        let session = self.head(exchange).session.unwrap();
        let opened = Opened {
            key: session.as_str().to_owned(),
            child,
        };
        let body = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let exchange = self.post(&opened, body);
        assert_eq!(self.head(exchange).status, 202);
        self.written.clear();
        opened
    }

    /// Sends a message in a session of Ann.
    fn post(&mut self, session: &Opened, body: &str) -> ExchangeId {
        let fields = [("mcp-session-id", &*session.key)];
        self.send(HttpMethod::Post, ANN, &fields, body)
    }

    /// Calls a tool in a session of Ann.
    fn call(&mut self, session: &Opened, id: &str) -> ExchangeId {
        self.post(session, &tool(id))
    }

    /// Opens the stream of a session of Ann, from an event on if one is given.
    fn listen(&mut self, session: &Opened, last: Option<&str>) -> ExchangeId {
        let mut fields = vec![("mcp-session-id", &*session.key)];
        fields.extend(last.map(|last| ("last-event-id", last)));
        self.send(HttpMethod::Get, ANN, &fields, "")
    }

    /// Sends a request of a modern caller with these raw members of params.
    fn modern(&mut self, caller: &str, id: &str, method: &str, params: &str) -> ExchangeId {
        let comma = if params.is_empty() { "" } else { "," };
        let meta = format!(
            r#""_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}{}}}"#,
            self.capabilities, self.meta
        );
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}{comma}{meta}}}}}"#
        );
        let message = Message::parse(Bytes::from(body.clone())).unwrap();
        let name = message
            .param("name")
            .or(message.param("uri"))
            .and_then(raw::text);
        let mut fields = vec![
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", method),
        ];
        fields.extend(name.as_deref().map(|name| ("mcp-name", name)));
        self.send(HttpMethod::Post, caller, &fields, &body)
    }

    /// Calls a tool as a modern caller.
    fn modern_call(&mut self, caller: &str, id: &str) -> ExchangeId {
        self.modern(
            caller,
            id,
            "tools/call",
            r#""name":"t","arguments":{"a":1.50}"#,
        )
    }

    /// Starts a legacy child by a modern request that it answers, for Ann.
    fn start_legacy(&mut self) -> ChildId {
        let exchange = self.modern(ANN, "0", "tools/list", "");
        let (child, discover) = self.written();
        self.refuse(child, &discover, UNKNOWN);
        let (_, initialize) = self.written();
        self.answer(child, &initialize, LEGACY_RESULT);
        assert_eq!(self.written().1.method(), Some("notifications/initialized"));
        let (_, list) = self.written();
        self.answer(child, &list, r#"{"tools":[]}"#);
        assert_eq!(self.head(exchange).status, 200);
        child
    }

    /// Starts a modern child by a modern request that it answers, for Ann.
    fn start_modern(&mut self) -> ChildId {
        let exchange = self.modern(ANN, "0", "tools/list", "");
        let (child, discover) = self.written();
        self.answer(child, &discover, MODERN_RESULT);
        let (_, list) = self.written();
        self.answer(child, &list, r#"{"resultType":"complete","tools":[]}"#);
        assert_eq!(self.head(exchange).status, 200);
        child
    }

    /// Has a child write a line.
    fn says(&mut self, child: ChildId, text: &str) {
        self.bridge
            .line(self.now, child, Bytes::from(text.to_owned()));
        self.drain();
    }

    /// Has a child answer a request with a raw result.
    fn answer(&mut self, child: ChildId, request: &Message, result: &str) {
        let id = request.id().unwrap();
        self.says(
            child,
            &format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#),
        );
    }

    /// Has a child answer a request with a raw error.
    fn refuse(&mut self, child: ChildId, request: &Message, error: &str) {
        let id = request.id().unwrap();
        self.says(
            child,
            &format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#),
        );
    }

    /// Ends the process of a child.
    fn ends(&mut self, child: ChildId) {
        let end = ChildEnd {
            status: "exit status 3".to_owned(),
            last_words: Some("out of cheese".to_owned()),
        };
        self.bridge.child_ended(self.now, child, &end);
        self.drain();
    }

    /// Breaks the connection of a caller.
    fn leaves(&mut self, exchange: ExchangeId) {
        self.bridge.caller_left(self.now, exchange);
        self.drain();
    }

    /// Lets time pass; each moment at which the bridge wants to wake up is kept.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.bridge.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.bridge.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    /// The next message that a child gets.
    fn written(&mut self) -> (ChildId, Message) {
        self.written.pop_front().expect("a message for a child")
    }

    /// The head of an answer.
    fn head(&self, exchange: ExchangeId) -> ResponseHead {
        let head = self
            .answers
            .get(&exchange)
            .and_then(|answer| answer.head.clone());
        head.expect("an answer has a head")
    }

    /// True if no part of the answer has come.
    fn is_open(&self, exchange: ExchangeId) -> bool {
        !self.answers.contains_key(&exchange)
    }

    /// How an answer has ended, if it has.
    fn end_of(&self, exchange: ExchangeId) -> Option<Ending> {
        self.answers.get(&exchange)?.end
    }

    /// An answer that is one JSON object.
    fn object(&self, exchange: ExchangeId) -> Message {
        let answer = self.answers.get(&exchange).expect("an answer");
        let head = answer.head.as_ref().expect("an answer has a head");
        assert_eq!(head.content_type, Some("application/json"));
        assert_eq!(answer.end, Some(Ending::Done));
        Message::parse(Bytes::from(answer.body.clone())).unwrap()
    }

    /// The events of an answer that is a stream, each with its id and its data; comments are left out.
    fn events(&self, exchange: ExchangeId) -> Vec<(String, String)> {
        let answer = self.answers.get(&exchange).expect("an answer");
        let head = answer.head.as_ref().expect("an answer has a head");
        assert!(head.is_stream && head.content_type == Some("text/event-stream"));
        let blocks = answer
            .body
            .split("\n\n")
            .filter(|block| block.contains("data:"));
        let field = |block: &str, name: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        blocks
            .map(|block| (field(block, "id:"), field(block, "data:")))
            .collect()
    }

    /// The messages of an answer that is a stream.
    fn messages(&self, exchange: ExchangeId) -> Vec<Message> {
        let events = self.events(exchange).into_iter();
        let texts = events.map(|(_, data)| data).filter(|data| !data.is_empty());
        texts
            .map(|text| Message::parse(Bytes::from(text)).unwrap())
            .collect()
    }

    fn drain(&mut self) {
        while let Some(output) = self.bridge.poll_output() {
            match output {
                Output::Start(child) => self.started.push(child),
                Output::Write(child, line) => {
                    let message = Message::parse(line.to_bytes()).unwrap();
                    self.written.push_back((child, message));
                }
                Output::End(child) => self.told_to_end.push(child),
                Output::Stray(_, text) => self.strays.push(text),
                Output::Head(exchange, head) => {
                    let answer = self.answers.entry(exchange).or_default();
                    assert!(
                        answer.head.replace(head).is_none(),
                        "one head for an answer"
                    );
                }
                Output::Body(exchange, pieces) => {
                    let answer = self
                        .answers
                        .get_mut(&exchange)
                        .expect("a head before a body");
                    assert_eq!(answer.end, None, "no body after its end");
                    answer
                        .body
                        .push_str(std::str::from_utf8(&pieces.concat()).unwrap());
                }
                Output::Done(exchange) => self.end(exchange, Ending::Done),
                Output::Broken(exchange) => self.end(exchange, Ending::Broken),
            }
        }
    }

    fn end(&mut self, exchange: ExchangeId, end: Ending) {
        let answer = self
            .answers
            .get_mut(&exchange)
            .expect("a head before an end");
        assert!(answer.end.replace(end).is_none(), "one end for an answer");
    }
}

/// A call of a tool in a legacy session, with a progress token.
fn tool(id: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"t","_meta":{{"progressToken":"p"}}}}}}"#
    )
}

/// A notification of a child with raw params.
fn notification(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#)
}

/// A request of a child with raw params.
fn request(id: &str, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}
