//! Entries of the audit log, and their form as JSON.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Method;
use serde::{Serialize, Serializer};
use tieline_wire::{AgentKey, TunnelId};

use crate::auth::{Identity, Owner};
use crate::config::rfc3339;

/// Longest path in an entry, in bytes; longer paths are cut.
const PATH_BYTES_MAX: usize = 256;

/// Replaces each path segment that holds a token.
const TOKEN_LEFT_OUT: &str = "[token]";

/// Leading bytes of an agent's key that an entry shows.
const KEY_BYTES: usize = 16;

/// The event that an entry reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The relay started.
    Started,
    /// The relay is stopping.
    Stopped,
    /// An agent got a tunnel.
    Registered,
    /// An agent did not get a tunnel.
    RegistrationRefused,
    /// An agent lost a tunnel while its link goes on.
    Withdrawn,
    /// An agent's connection was refused before it became a link.
    LinkRefused,
    /// A link ended.
    LinkEnded,
    /// An HTTP request was answered, by a target or by the relay itself.
    Request,
    /// A raw session began.
    Session,
    /// A raw session ended.
    SessionEnded,
    /// A raw caller was refused.
    SessionRefused,
    /// An operator revoked access.
    Revoked,
    /// An operator took a tunnel from its agents.
    Kicked,
    /// An operator paused a tunnel: its callers are refused.
    Paused,
    /// An operator resumed a paused tunnel.
    Resumed,
    /// An operator unbound a name.
    Forgotten,
    /// Entries were lost before this one; the queue or the disk did not take them.
    Lost,
    /// Refusals were left out before this entry, because there were too many.
    RefusalsLeftOut,
}

/// One line of the audit log. Unknown fields are left out.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    #[serde(serialize_with = "as_time")]
    time: SystemTime,
    event: Kind,
    /// Owner of the token that was shown; absent without a token.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_sub")]
    sub: Option<Arc<Owner>>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_hex")]
    agent: Option<AgentKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_name")]
    tunnel: Option<TunnelId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dcc: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_method")]
    method: Option<Method>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// Why it was refused or ended: the code used in metrics and answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_to_target: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_to_frontend: Option<u64>,
    /// The object of an operator's order, such as the revoked subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    /// For a count: time of the first event counted.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_since")]
    since: Option<SystemTime>,
}

impl Entry {
    /// An entry with the current time and no other field.
    pub(crate) fn new(event: Kind) -> Self {
        Self {
            time: SystemTime::now(),
            event,
            sub: None,
            agent: None,
            address: None,
            port: None,
            tunnel: None,
            dcc: None,
            method: None,
            path: None,
            status: None,
            reason: None,
            bytes_to_target: None,
            bytes_to_frontend: None,
            what: None,
            count: None,
            since: None,
        }
    }

    /// Sets the owner; `None` for an event without a verified token.
    pub(crate) fn of(mut self, identity: Option<&Identity>) -> Self {
        self.sub = identity.map(|it| Arc::clone(&it.owner));
        self
    }

    pub(crate) fn agent(mut self, key: AgentKey) -> Self {
        self.agent = Some(key);
        self
    }

    pub(crate) fn from(mut self, peer: SocketAddr) -> Self {
        (self.address, self.port) = (Some(peer.ip().to_canonical()), Some(peer.port()));
        self
    }

    pub(crate) fn tunnel(mut self, tunnel: TunnelId) -> Self {
        self.tunnel = Some(tunnel);
        self
    }

    pub(crate) fn dcc(mut self, dcc: &str) -> Self {
        self.dcc = (!dcc.is_empty()).then(|| dcc.to_owned());
        self
    }

    pub(crate) const fn reason(mut self, word: &'static str) -> Self {
        self.reason = Some(word);
        self
    }

    pub(crate) const fn bytes(mut self, to_target: u64, to_frontend: u64) -> Self {
        (self.bytes_to_target, self.bytes_to_frontend) = (Some(to_target), Some(to_frontend));
        self
    }

    pub(crate) fn what(mut self, what: String) -> Self {
        self.what = Some(what);
        self
    }

    pub(crate) const fn count(mut self, count: u64) -> Self {
        self.count = Some(count);
        self
    }

    /// Sets the time of the first counted event to `ago` before the entry.
    pub(crate) fn since(mut self, ago: Duration) -> Self {
        self.since = self.time.checked_sub(ago);
        self
    }
}

/// An HTTP request whose answer is not known yet.
#[derive(Debug)]
pub(crate) struct Call {
    method: Option<Method>,
    path: Option<String>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) tunnel: Option<TunnelId>,
    /// Method, path and tunnel were searched for tokens already.
    is_searched: bool,
}

impl Call {
    /// A call for `path`, which has no query string.
    pub(crate) fn new(method: Method, path: &str) -> Self {
        Self {
            method: Some(method),
            path: Some(path.to_owned()),
            address: None,
            tunnel: None,
            is_searched: false,
        }
    }

    /// Marks method and path as searched and free of tokens.
    pub(crate) fn searched(&mut self) {
        self.path = self.path.take().map(cut);
        self.is_searched = true;
    }

    /// Removes parts for which `holds` finds a token, unless the call was searched already.
    pub(crate) fn hide(&mut self, holds: impl Fn(&[u8]) -> bool) {
        if self.is_searched {
            return;
        }
        self.method
            .take_if(|method| holds(method.as_str().as_bytes()));
        self.tunnel
            .take_if(|tunnel| holds(tunnel.as_str().as_bytes()));
        if let Some(path) = self.path.take_if(|path| holds(path.as_bytes())) {
            let mut parts: Vec<_> = path.split('/').collect();
            for part in &mut parts {
                if holds(part.as_bytes()) {
                    // A tunnel's name is lower case; the token in its place may have capitals.
                    self.tunnel
                        .take_if(|tunnel| tunnel.as_str().eq_ignore_ascii_case(part));
                    *part = TOKEN_LEFT_OUT;
                }
            }
            let left = parts.join("/");
            // A token may span several segments.
            self.path = Some(match holds(left.as_bytes()) {
                true => format!("/{TOKEN_LEFT_OUT}"),
                false => left,
            });
        }
        self.searched();
    }

    /// A call from `address` whose request head could not be read.
    pub(crate) fn with_refused_head(address: IpAddr) -> Self {
        Self {
            method: None,
            path: None,
            address: Some(address.to_canonical()),
            tunnel: None,
            is_searched: true,
        }
    }

    /// The call's entry. `reason` is the relay's code if the relay answered, or tells why there is no status.
    pub(crate) fn answered(
        self,
        identity: Option<&Identity>,
        status: Option<u16>,
        reason: Option<&'static str>,
    ) -> Entry {
        Entry {
            address: self.address,
            tunnel: self.tunnel,
            method: self.method,
            path: self.path.map(cut),
            status,
            reason,
            ..Entry::new(Kind::Request).of(identity)
        }
    }
}

/// Cuts `path` to the longest noted length, at a character boundary.
fn cut(mut path: String) -> String {
    if path.len() > PATH_BYTES_MAX {
        let ends = path.char_indices().map(|(at, _)| at);
        let end = ends.take_while(|at| *at <= PATH_BYTES_MAX).last();
        path.truncate(end.unwrap_or(0));
        path.shrink_to_fit();
    }
    path
}

fn as_time<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let whole = rfc3339(since.as_secs());
    let text = format!(
        "{}.{:03}Z",
        whole.trim_end_matches('Z'),
        since.subsec_millis()
    );
    serializer.serialize_str(&text)
}

fn as_since<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    as_time(&time.unwrap_or(UNIX_EPOCH), serializer)
}

fn as_sub<S: Serializer>(owner: &Option<Arc<Owner>>, serializer: S) -> Result<S::Ok, S::Error> {
    owner.as_ref().map(|it| &it.sub).serialize(serializer)
}

fn as_name<S: Serializer>(tunnel: &Option<TunnelId>, serializer: S) -> Result<S::Ok, S::Error> {
    let name = tunnel.as_ref().map(TunnelId::as_str);
    name.serialize(serializer)
}

fn as_method<S: Serializer>(method: &Option<Method>, serializer: S) -> Result<S::Ok, S::Error> {
    let word = method.as_ref().map(Method::as_str);
    word.serialize(serializer)
}

fn as_hex<S: Serializer>(key: &Option<AgentKey>, serializer: S) -> Result<S::Ok, S::Error> {
    let start = |key: &AgentKey| data_encoding::HEXLOWER.encode(&key.as_bytes()[..KEY_BYTES]);
    key.as_ref().map(start).serialize(serializer)
}
