//! The callers of a shard: who they are, which limits hold for them, and what serving them takes.
//!
//! Which agent serves a caller is decided elsewhere: the shard joins a caller and a session.

mod served;

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tieline_wire::{CallerRefusal, NoSession, TunnelId};
use tracing::{debug, warn};

pub(super) use self::served::Caller;
use self::served::Served;
use super::arrived::Arrived;
use super::kit::Kit;
use super::peers::Peers;
use crate::audit::{Entry, Kind};
use crate::auth::{AccessEnd, Identity, Snapshot, TokenRefusal, verify_caller};
use crate::clock::now_seconds;
use crate::config::{Auth, CallerAuth};
use crate::io::Stream;
use crate::limits::{Limited, RatePass};
use crate::listen::proxied::{self, NoSource, Source};
use crate::listen::{Refusals, http, tcp};
use crate::quic::Windows;
use crate::session::SessionAudit;
use crate::splice::ReadBlock;

/// The callers of one shard.
pub(super) struct Callers {
    kit: Rc<Kit>,
    served: Rc<Served>,
    /// Block that raw frontends are read into.
    pub(super) read_block: Rc<ReadBlock>,
    /// Room for what callers over QUIC have sent and not been sent.
    pub(super) quic_windows: Rc<Windows>,
    pub(super) http_settings: Rc<http::Settings>,
    pub(super) mark_key: Rc<http::MarkKey>,
    /// Connections of trusted proxies that began with something other than the header that they must send.
    without_header: RefCell<Refusals>,
}

impl Callers {
    pub(super) fn new(kit: &Rc<Kit>) -> Self {
        Self {
            served: Rc::default(),
            read_block: Rc::default(),
            quic_windows: Windows::new(kit.peers.config.shard_budget_bytes),
            http_settings: Rc::new(http_settings(&kit.peers)),
            mark_key: Rc::new(kit.peers.mark_key.clone()),
            without_header: RefCell::default(),
            kit: Rc::clone(kit),
        }
    }

    /// Authenticates the caller that presents `token`.
    pub(super) fn caller(&self, token: Option<&str>) -> Result<Caller, TokenRefusal> {
        if self.kit.peers.config.caller_auth == CallerAuth::None {
            return Ok(Caller::ANONYMOUS);
        }
        let token = token.unwrap_or_default();
        let verified = verify_caller(&self.kit.auth.borrow(), token, now_seconds());
        if let Err(TokenRefusal::Unavailable(_)) = verified {
            self.kit.peers.asks.newer_keys();
        }
        let identity = verified?;
        Ok(self.served.enter(Arc::new(identity)))
    }

    /// Registers a caller that another shard authenticated. This shard's auth snapshot may be newer.
    pub(super) fn caller_from(&self, identity: Option<Arc<Identity>>) -> Result<Caller, NoSession> {
        let Some(identity) = identity else {
            return Ok(Caller::ANONYMOUS);
        };
        let auth = self.kit.auth.borrow();
        let allowed = auth.still_allows(Some(&identity), None, now_seconds());
        match allowed.err().and_then(AccessEnd::of_callers) {
            Some(end) => Err(end),
            None => Ok(self.served.enter(identity)),
        }
    }

    /// Revokes the callers that the auth snapshot no longer allows.
    pub(super) fn recheck(&self, snapshot: &Snapshot) {
        let now_seconds = now_seconds();
        let revoked = self.served.recheck(|identity| {
            let allowed = snapshot.still_allows(Some(identity), None, now_seconds);
            allowed.err().and_then(AccessEnd::of_callers)
        });
        self.kit.metrics.callers_revoked.add(revoked as u64);
    }

    /// Admits a caller by its address, if the limits of the address allow.
    pub(super) fn arrive(&self, address: IpAddr) -> Result<RatePass, Limited> {
        self.kit
            .counted(RatePass::arrive(self.kit.peers.limits.as_ref(), address))
    }

    /// Counts an admitted caller for its token's holder too, if the limits of the holder allow.
    pub(super) fn identify(&self, pass: &mut RatePass, caller: &Caller) -> Result<(), Limited> {
        match caller.identity() {
            Some(identity) => self.kit.counted(pass.identify(identity.sub())),
            None => Ok(()),
        }
    }

    /// Whether a PROXY protocol header must come first on a connection of which `known` is the source so far.
    pub(super) fn awaits_header(&self, stream: &Stream, known: Source) -> bool {
        // Over TLS the header came in front of the handshake, where it was read.
        !stream.is_tls()
            && self.kit.peers.config.callers.proxy_protocol
            && self.kit.is_trusted_proxy(known.address().ip())
    }

    /// The source of a connection. It is `known`, the source so far, unless that is a trusted proxy which must send a
    /// PROXY protocol header: then it is the source in the header. `None` if no valid header comes in time.
    pub(super) async fn source(&self, stream: &Stream, known: Source) -> Option<Source> {
        if !self.awaits_header(stream, known) {
            return Some(known);
        }
        let peer = known.address();
        let config = &self.kit.peers.config;
        let source = proxied::source(stream, peer);
        let source = self.kit.in_time(config.preamble_timeout, false, source);
        match source.await.unwrap_or(Err(NoSource::Ended)) {
            Ok(source) => Some(source),
            Err(problem) => {
                self.no_source(peer, problem);
                None
            }
        }
    }

    /// Logs why a connection of the trusted proxy `peer` is closed. A proxy that sends the wrong bytes is set up wrong;
    /// one that sends none may only look whether the relay listens.
    fn no_source(&self, peer: SocketAddr, problem: NoSource) {
        let (sent, remedy) = problem.texts();
        debug!(%peer, "closed: this trusted proxy sent {sent}; {remedy}");
        if problem == NoSource::Ended {
            return;
        }
        let due = self.without_header.borrow_mut().count(Instant::now());
        if let Some(refused) = due {
            warn!(%peer, refused, "a trusted proxy sent {sent}; {remedy}");
        }
    }

    /// The authenticated caller of a raw frontend.
    ///
    /// # Errors
    /// Why the caller is refused, which is counted and noted: the token or a limit refuses it, or the caller sent a token in
    /// the name's place.
    pub(super) fn raw_caller(
        &self,
        preamble: &tcp::Preamble,
        peer: SocketAddr,
        pass: &mut RatePass,
    ) -> Result<Caller, CallerRefusal> {
        let tunnel = (!self.kit.is_token(&preamble.name)).then_some(&preamble.tunnel);
        let caller = match self.caller(preamble.token.as_deref()) {
            Ok(caller) => caller,
            Err(refusal) => {
                let shown = tunnel.map(tracing::field::display);
                debug!(tunnel = shown, %refusal, "frontend refused");
                let reason = reason(&refusal);
                self.raw_refused(peer, tunnel, None, reason);
                return Err(reason);
            }
        };
        let refusal = if self.identify(pass, &caller).is_err() {
            CallerRefusal::Limited
        } else if tunnel.is_none() {
            NoSession::UnknownTunnel.into()
        } else {
            return Ok(caller);
        };
        self.raw_refused(peer, tunnel, Some(&caller), refusal);
        Err(refusal)
    }

    /// Counts and notes a raw frontend that is turned away.
    pub(super) fn raw_refused(
        &self,
        peer: SocketAddr,
        tunnel: Option<&TunnelId>,
        caller: Option<&Caller>,
        reason: CallerRefusal,
    ) {
        self.kit.metrics.frontend_refused(reason);
        self.kit.peers.audit.note_refused(|| {
            let identity = caller.and_then(Caller::identity);
            let entry = Entry::new(Kind::SessionRefused).of(identity.map(|it| &**it));
            let entry = entry.from(peer).reason(reason.word());
            match tunnel {
                Some(tunnel) => entry.tunnel(tunnel.clone()),
                None => entry,
            }
        });
    }

    /// The record that notes the end of a session which carries no HTTP requests; `None` if there is no audit log.
    pub(super) fn noted(&self, peer: SocketAddr, tunnel: &TunnelId) -> Option<Box<SessionAudit>> {
        let audit = &self.kit.peers.audit;
        audit.is_on().then(|| {
            Box::new(SessionAudit {
                audit: audit.clone(),
                tunnel: tunnel.clone(),
                peer,
                before: (0, 0),
            })
        })
    }

    /// Counts a frontend that the shard serves.
    pub(super) fn count(&self, arrived: Arrived) -> FrontendCount {
        self.kit.metrics.frontends.inc();
        FrontendCount {
            kit: Rc::clone(&self.kit),
            _arrived: arrived,
        }
    }
}

/// Counts one frontend while it lives.
pub(super) struct FrontendCount {
    kit: Rc<Kit>,
    _arrived: Arrived,
}

impl Drop for FrontendCount {
    fn drop(&mut self) {
        self.kit.metrics.frontends.dec();
    }
}

/// Settings of the HTTP front, from the relay's configuration. Names every field, so that a new setting cannot be
/// forgotten here.
fn http_settings(peers: &Peers) -> http::Settings {
    let config = &peers.config;
    let callers = &config.callers;
    let fixed = http::Settings::default();
    http::Settings {
        domain: config.domain.clone(),
        public_url: config.public_url.clone(),
        public_authority: config.public_url.as_ref().map(|url| url.authority().into()),
        are_agents_certified: config.tls.agent_ca.is_some(),
        redirect: peers
            .public_urls
            .base()
            .filter(|_| callers.redirect_http)
            .cloned(),
        origins: http::Origins(callers.allow_origins.clone()),
        trusted_proxies: callers.trusted_proxies.clone(),
        challenges: peers.challenges.clone(),
        sse_keepalive: callers.sse_keepalive,
        takes_tokens: config.caller_auth == CallerAuth::Token,
        trusts_this_machine: matches!(config.auth, Auth::Open { anywhere: false }),
        target_authorization: callers.target_authorization.clone(),
        // Not configurable: enough for any head; more would only help callers that send slowly on purpose.
        head_timeout: fixed.head_timeout,
        // Not configurable: a caller whose idle connection was closed opens another one.
        idle_timeout: fixed.idle_timeout,
        // Not configurable: limits the memory that stalled streams take (ADR 38).
        stall_timeout: fixed.stall_timeout,
        // Not configurable: an agent gives up a dial to its target after 10 s, so this covers a try at a second agent.
        open_timeout: fixed.open_timeout,
        // Not configurable: afterwards the body is sent without the target's consent, so no request fails.
        continue_timeout: fixed.continue_timeout,
    }
}

/// The reason for the counters when a raw caller's token is refused.
const fn reason(refusal: &TokenRefusal) -> CallerRefusal {
    match refusal {
        TokenRefusal::Expired(_) => CallerRefusal::TokenExpired,
        TokenRefusal::NotYet(_) => CallerRefusal::TokenNotYet,
        TokenRefusal::Revoked => CallerRefusal::Revoked,
        TokenRefusal::Unavailable(_) => CallerRefusal::AuthUnavailable,
        TokenRefusal::Missing
        | TokenRefusal::Bad(_)
        | TokenRefusal::Scope(_)
        | TokenRefusal::NoTokens => CallerRefusal::BadToken,
    }
}
