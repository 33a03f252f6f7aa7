//! Tests of the HTTP front between scripted callers and targets, on simulated time.
//! Long because it holds the scripted shard that all tests of the front share.

mod bound;
mod caller_names;
mod callers;
mod early;
mod endings;
mod forwarding;
mod http2;
mod hygiene;
mod lives;
mod login;
mod pages;
mod peer;
mod quiet_streams;
mod redirect;
mod refused_head;
mod rest;
mod site;
mod streams;
mod url_forms;
mod websocket;
mod withheld;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use hyper_util::rt::TokioIo;
use tieline_token::Scope;
use tieline_wire::{Generation, Scheme, SessionEnd, TunnelId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet};

use self::peer::{CallerStream, Peer, Session, SessionState, without_forwarded};
use super::gateway::ended::Ended;
use super::gateway::settings::HTTP_BUFFER_BYTES_MAX;
use super::*;
use crate::audit::Call;
use crate::auth::{OwnTokens, Snapshot, TokenRefusal};
use crate::directory::{Served, TunnelSelector};
use crate::listen::proxied::Source;
use crate::registry::{AgentTag, TunnelInfo};

/// Capacity of a simulated socket in each direction.
const SOCKET_BYTES: usize = 64 * 1024;

/// Authority of the target.
const AUTHORITY: &str = "127.0.0.1:8765";

/// Current time in the tests, in seconds since 1970.
const NOW_SECONDS: u64 = 1_800_000_000;

/// Runs a test in one thread; when all its tasks wait, time jumps to the next timer.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let limited = async {
        let day = Duration::from_secs(24 * 3600);
        tokio::time::timeout(day, test)
            .await
            .expect("the test waits for an event that never comes");
    };
    LocalSet::new().block_on(&runtime.unwrap(), limited);
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// Outcome of opening a session to a tunnel.
#[derive(Clone, Copy)]
enum Opens {
    To(Generation),
    /// Fails once, and then opens under a newer generation.
    Once(SessionEnd, Generation),
    /// Fails this often, each time under a newer generation, and then opens.
    Often(SessionEnd, usize, Generation),
    Not(SessionEnd),
    Never,
}

/// A target of the tunnel `maya`; the route's revision equals the generation.
pub(super) fn target_at(authority: &str, base_path: &str, generation: Generation) -> Target {
    let info = TunnelInfo {
        scheme: Scheme::Http,
        authority: authority.to_owned(),
        base_path: base_path.to_owned(),
        ..TunnelInfo::default()
    };
    let maya = TunnelId::parse("maya").unwrap();
    let served = Served {
        tunnel: &maya,
        agent: AgentTag::default(),
        generation,
        revision: generation.0,
        info: &info,
    };
    Target::new(&served).unwrap()
}

/// A caller, identified by its token.
#[derive(Clone)]
struct TestCaller(Option<String>);

struct Shared {
    wants_tokens: Cell<bool>,
    mark_key: Rc<MarkKey>,
    /// Whether tunnels may have several agents, and the tag of the connected agent.
    is_shared: Cell<bool>,
    agent: Cell<AgentTag>,
    /// Number of calls of `authenticate`.
    admitted: Cell<usize>,
    /// Number of calls of `find`, `list` and `is_kind`.
    looked_up: Cell<usize>,
    /// Token of the revoked caller, and the task to wake when it is revoked.
    revoked: RefCell<Option<String>>,
    waiter: RefCell<Option<Waker>>,
    authority: RefCell<String>,
    /// Authority of the targets after `Opens::Once`.
    moves_to: Cell<Option<&'static str>>,
    /// Base path of the targets.
    base_path: RefCell<String>,
    /// Whether the targets take bytes, and are no HTTP servers.
    is_tcp: Cell<bool>,
    /// Whether the targets are programs, and whether those after `Opens::Once` are.
    is_stdio: Cell<bool>,
    becomes_stdio: Cell<Option<bool>>,
    tunnels: RefCell<HashMap<String, Opens>>,
    opened: mpsc::Sender<Peer>,
    answered: RefCell<Vec<(u16, Option<&'static str>)>>,
    /// Entries of the audit log: status and error code.
    noted: RefCell<Vec<(Option<u16>, Option<&'static str>)>>,
    draining: Cell<bool>,
    /// Credentials that the relay recognizes; `None` if the relay cannot recognize any.
    known: RefCell<Option<Snapshot>>,
}

impl Shared {
    fn is_revoked(&self, caller: &TestCaller) -> bool {
        caller.0.is_some() && caller.0 == *self.revoked.borrow()
    }

    fn revoke(&self, name: &str) {
        *self.revoked.borrow_mut() = Some(name.to_owned());
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }
}

#[derive(Clone)]
struct Shard(Rc<Shared>);

impl Gateway for Shard {
    type Stream = Session;
    type Caller = TestCaller;

    fn authenticate(&self, token: Option<&str>) -> Result<TestCaller, TokenRefusal> {
        self.0.admitted.set(self.0.admitted.get() + 1);
        match token {
            None if self.0.wants_tokens.get() => Err(TokenRefusal::Missing),
            None => Ok(TestCaller(None)),
            Some("revoked") => Err(TokenRefusal::Revoked),
            Some("an agent's") => Err(TokenRefusal::Scope(Scope::Caller)),
            Some("early") => Err(TokenRefusal::Unavailable("no keys yet".to_owned())),
            Some(name) => Ok(TestCaller(Some(name.to_owned()))),
        }
    }

    fn own_tokens(&self) -> Option<OwnTokens> {
        OwnTokens::of(self.0.known.borrow().as_ref()?, NOW_SECONDS)
    }

    fn is_current(&self, caller: &TestCaller) -> bool {
        !self.0.is_revoked(caller)
    }

    fn poll_revoked(&self, cx: &mut Context<'_>, caller: &TestCaller) -> Poll<()> {
        if self.0.is_revoked(caller) {
            return Poll::Ready(());
        }
        *self.0.waiter.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    fn subject<'a>(&self, caller: &'a TestCaller) -> Option<&'a str> {
        caller.0.as_deref()
    }

    fn mark_key(&self) -> &Rc<MarkKey> {
        &self.0.mark_key
    }

    async fn find(
        &self,
        caller: &TestCaller,
        wanted: &TargetQuery,
        stale: Option<&Target>,
        _: impl Fn(&TunnelId, AgentTag) -> bool,
    ) -> Result<Rc<Target>, NoTarget> {
        self.0.looked_up.set(self.0.looked_up.get() + 1);
        let refused = |reason| Err(NoTarget::Refused(reason));
        // A kind has one tunnel here, with the same name.
        let tunnel = match &wanted.selector {
            TunnelSelector::Tunnel(tunnel) => tunnel.clone(),
            TunnelSelector::Kind(kind) => TunnelId::parse(kind).unwrap(),
        };
        // A caller may reach only the tunnel that is named like its token, up to a `/`.
        let is_named = |token: &str| token.split('/').next() == Some(tunnel.as_str());
        let is_theirs = caller.0.as_deref().is_none_or(is_named);
        let known = self.0.tunnels.borrow().get(tunnel.as_str()).copied();
        let generation = match known.filter(|_| is_theirs) {
            None => return refused(SessionEnd::UnknownTunnel),
            Some(Opens::Not(SessionEnd::TunnelOffline)) => {
                return refused(SessionEnd::TunnelOffline);
            }
            Some(Opens::To(generation) | Opens::Often(_, _, generation)) => generation,
            Some(_) => Generation(1),
        };
        let target = Target {
            is_shared: self.0.is_shared.get(),
            tunnel,
            agent: self.0.agent.get(),
            is_tcp: self.0.is_tcp.get(),
            is_stdio: self.0.is_stdio.get(),
            ..target_at(
                &self.0.authority.borrow(),
                &self.0.base_path.borrow(),
                generation,
            )
        };
        if wanted
            .binding
            .as_ref()
            .is_some_and(|binding| *binding != target.binding())
        {
            return Err(NoTarget::AgentGone);
        }
        if stale.is_some_and(|stale| stale.revision >= target.revision) {
            return refused(SessionEnd::TunnelOffline);
        }
        Ok(Rc::new(target))
    }

    async fn list(&self, caller: &TestCaller, after: &str) -> Listing {
        self.0.looked_up.set(self.0.looked_up.get() + 1);
        let tunnels = self.0.tunnels.borrow();
        let is_theirs = |name: &str| caller.0.as_deref().is_none_or(|it| it == name);
        let mut names: Vec<_> = tunnels.keys().filter(|name| is_theirs(name)).collect();
        names.retain(|name| name.as_str() > after);
        names.sort_unstable();
        let tunnel = |name: &String| TunnelId::parse(name).unwrap();
        let listed = |name: &&String| Listed::new(&tunnel(name), &TunnelInfo::default(), true);
        Listing {
            tunnels: names.iter().map(listed).collect(),
            next: None,
        }
    }

    fn is_kind(&self, _: &TestCaller, tunnel: &TunnelId, dcc: &str) -> bool {
        self.0.looked_up.set(self.0.looked_up.get() + 1);
        tunnel.as_str() == dcc && self.0.tunnels.borrow().contains_key(dcc)
    }

    async fn open(
        &self,
        _: &TestCaller,
        target: &Target,
        _: Option<&Arc<str>>,
    ) -> Result<Session, SessionEnd> {
        let tunnel = &target.tunnel;
        let opens = self.0.tunnels.borrow()[tunnel.as_str()];
        match opens {
            Opens::Never => std::future::pending().await,
            Opens::Not(reason) => Err(reason),
            Opens::Once(reason, newer) => {
                if let Some(authority) = self.0.moves_to.take() {
                    authority.clone_into(&mut self.0.authority.borrow_mut());
                }
                if let Some(is_stdio) = self.0.becomes_stdio.take() {
                    self.0.is_stdio.set(is_stdio);
                }
                let newer = Opens::To(newer);
                self.0
                    .tunnels
                    .borrow_mut()
                    .insert(tunnel.as_str().to_owned(), newer);
                Err(reason)
            }
            Opens::Often(reason, left, generation) => {
                let newer = Generation(generation.0 + 1);
                let next = match left {
                    ..2 => Opens::To(newer),
                    _ => Opens::Often(reason, left - 1, newer),
                };
                let mut tunnels = self.0.tunnels.borrow_mut();
                tunnels.insert(tunnel.as_str().to_owned(), next);
                Err(reason)
            }
            Opens::To(_) => {
                let (near, far) = tokio::io::duplex(SOCKET_BYTES);
                let end = Rc::new(SessionState::default());
                let peer = Peer {
                    io: Some(far),
                    end: Rc::clone(&end),
                };
                self.0
                    .opened
                    .try_send(peer)
                    .map_err(|_| SessionEnd::ShuttingDown)?;
                Ok(Session { io: near, end })
            }
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(task);
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        tokio::time::sleep(duration)
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn is_draining(&self) -> bool {
        self.0.draining.get()
    }

    fn is_audited(&self) -> bool {
        true
    }

    fn note(
        &self,
        _: Call,
        _: Option<&TestCaller>,
        status: Option<StatusCode>,
        problem: Option<&'static str>,
    ) {
        let status = status.map(|it| it.as_u16());
        self.0.noted.borrow_mut().push((status, problem));
    }

    fn answered(&self, status: StatusCode, problem: Option<&'static str>) {
        self.0
            .answered
            .borrow_mut()
            .push((status.as_u16(), problem));
    }
}

/// A scripted shard with some tunnels, and the target ends of its sessions.
struct Relay {
    shard: Shard,
    settings: Rc<Settings>,
    /// Remote end of the callers' connections.
    peer: super::Peer,
    opened: mpsc::Receiver<Peer>,
}

impl Relay {
    /// A relay with the tunnels `maya` and `comfy`.
    fn new() -> Self {
        let (opened, receiver) = mpsc::channel(16);
        let tunnels = ["maya", "comfy"].map(|t| (t.to_owned(), Opens::To(Generation(1))));
        let tunnels = RefCell::new(HashMap::from(tunnels));
        let answered = RefCell::default();
        Self {
            shard: Shard(Rc::new(Shared {
                wants_tokens: Cell::default(),
                mark_key: Rc::new(MarkKey::of(&std::array::from_fn(|_| fastrand::u8(..)))),
                is_shared: Cell::default(),
                agent: Cell::default(),
                admitted: Cell::default(),
                looked_up: Cell::default(),
                revoked: RefCell::default(),
                waiter: RefCell::default(),
                authority: RefCell::new(AUTHORITY.to_owned()),
                moves_to: Cell::default(),
                base_path: RefCell::default(),
                is_tcp: Cell::default(),
                is_stdio: Cell::default(),
                becomes_stdio: Cell::default(),
                tunnels,
                opened,
                answered,
                noted: RefCell::default(),
                draining: Cell::new(false),
                known: RefCell::default(),
            })),
            settings: Rc::default(),
            peer: super::Peer {
                source: Source::Peer("192.0.2.7:40000".parse().unwrap()),
                https: false,
            },
            opened: receiver,
        }
    }

    /// Settings of later connections.
    fn settings(&mut self) -> &mut Settings {
        Rc::make_mut(&mut self.settings)
    }

    fn set(&self, tunnel: &str, opens: Opens) {
        self.shard
            .0
            .tunnels
            .borrow_mut()
            .insert(tunnel.to_owned(), opens);
    }

    /// A new caller's end of a connection, and the task that resolves to the connection's end.
    fn connect(&self) -> (Peer, JoinHandle<Ended>) {
        let (near, far) = tokio::io::duplex(SOCKET_BYTES);
        let (gateway, settings) = (self.shard.clone(), Rc::clone(&self.settings));
        let peer = Peer {
            io: Some(far),
            end: Rc::default(),
        };
        let stream = CallerStream {
            io: TokioIo::new(near),
            end: Rc::clone(&peer.end),
        };
        let serving = serve(stream, gateway, self.peer, settings);
        let task = tokio::task::spawn_local(async { serving.await.1 });
        (peer, task)
    }

    fn caller(&self) -> Peer {
        self.connect().0
    }

    /// The target's end of the next session.
    async fn target(&mut self) -> Peer {
        self.opened.recv().await.unwrap()
    }

    fn has_opened(&mut self) -> bool {
        self.opened.try_recv().is_ok()
    }

    /// Sends `request` from a new caller, answers it with `answer`, and reads what the caller gets, up to `end`.
    async fn answer_to(&mut self, request: &str, answer: &str, end: &str) -> String {
        let mut caller = self.caller();
        caller.send(request).await;
        let mut target = self.target().await;
        target.head().await;
        target.send(answer).await;
        caller.until(end).await
    }
}

const GET: &str = "GET /w/maya/mcp HTTP/1.1\r\nHost: relay.example\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn post(body: &str) -> String {
    let length = body.len();
    format!(
        "POST /w/maya/mcp HTTP/1.1\r\nHost: relay.example\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}
