//! A tunnel in its link's registry entry.

use std::mem;
use std::sync::Arc;

use tieline_wire::{Generation, Moment, Register, Scheme, TunnelId};

use super::LinkId;
use crate::auth::{Identity, Owner};
use crate::session::TunnelSessions;

/// Bytes of text that are kept of a tunnel without an agent; texts beyond the limit are dropped.
const KEPT_BYTES_MAX: usize = 256;

/// An agent's description of a tunnel's target, and the tunnel's owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TunnelInfo {
    pub(crate) scheme: Scheme,
    pub(crate) authority: String,
    pub(crate) base_path: String,
    pub(crate) dcc: String,
    pub(crate) capabilities: Vec<String>,
    /// Whether callers may use every path of an HTTP target, not only those under `base_path`.
    pub(crate) expose_all: bool,
    /// The tunnel's owner; `None` without authentication.
    pub(crate) owner: Option<Arc<Owner>>,
    /// Whether agents with other keys may serve the tunnel too. They must name the same kind of application, and their
    /// tokens must allow sharing and have the owner's subject or one of the owner's groups.
    pub(crate) shared: bool,
}

impl TunnelInfo {
    /// The part that is kept while no agent serves the tunnel: what listings show and what access checks need, up to
    /// [`KEPT_BYTES_MAX`] beside the owner.
    pub(crate) fn kept(&self, owner: Option<Arc<Owner>>) -> Self {
        let mut left = KEPT_BYTES_MAX;
        let mut text = |text: &String| match left.checked_sub(text.len()) {
            Some(rest) => {
                left = rest;
                text.clone()
            }
            None => String::new(),
        };
        let (dcc, base_path) = (text(&self.dcc), text(&self.base_path));
        let words = self.capabilities.iter().map(String::len).sum::<usize>();
        let words_cost = words + self.capabilities.len() * size_of::<String>();
        Self {
            scheme: self.scheme,
            authority: String::new(),
            base_path,
            dcc,
            capabilities: match words_cost <= KEPT_BYTES_MAX {
                true => self.capabilities.clone(),
                false => Vec::new(),
            },
            expose_all: self.expose_all,
            owner,
            shared: self.shared,
        }
    }

    /// The protocol of the target, as a stable word.
    pub(crate) const fn scheme_word(&self) -> &'static str {
        match self.scheme {
            Scheme::Tcp => "tcp",
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Stdio => "stdio",
        }
    }

    /// Whether raw callers may use the tunnel: its target is not an HTTP server, or is one whose every path callers may
    /// use, since the relay does not check what a raw caller sends. The agent of a `stdio` target trusts the caller's
    /// name in a request, where a raw caller could write any name.
    pub(crate) fn is_open_to_raw(&self) -> bool {
        match self.scheme {
            Scheme::Tcp => true,
            Scheme::Http | Scheme::Https => self.base_path.is_empty() || self.expose_all,
            Scheme::Stdio => false,
        }
    }
}

/// A tunnel in its link's registry entry.
#[derive(Debug)]
pub(crate) struct TunnelEntry {
    pub(crate) info: Arc<TunnelInfo>,
    /// The agent's number for the latest registration.
    pub(crate) request: u32,
    /// Set once the link holds the name.
    pub(crate) granted: Option<Grant>,
    /// The first second since 1970 at which the agent's permission has expired.
    pub(crate) expires_at_seconds: Option<u64>,
    /// The identity that registered the tunnel; `None` without authentication.
    pub(crate) identity: Option<Arc<Identity>>,
    /// The next renewal by a provider; `None` without a provider.
    pub(crate) renewal: Option<Renewal>,
    /// The tunnel's sessions on this link; kept when the tunnel is registered again.
    pub(crate) sessions: TunnelSessions,
    /// Earlier registrations, oldest first: the one granted last, and those without an answer (at most
    /// `OPEN_REGISTRATIONS_MAX`). The latest of them counts again if the newest registration is refused.
    pub(crate) earlier: Vec<Self>,
}

/// Subject of the token that a tunnel was registered with.
fn sub(info: &TunnelInfo) -> Option<&str> {
    info.owner.as_ref().map(|owner| owner.sub.as_str())
}

impl TunnelEntry {
    /// Replaces an earlier registration, and keeps it.
    pub(super) fn follow(&mut self, mut before: Self) {
        self.earlier = mem::take(&mut before.earlier);
        self.earlier.push(before);
    }

    /// Notes that the link holds the name; drops registrations older than the granted one.
    pub(crate) fn grant(&mut self, grant: Grant) {
        match self.request == grant.request {
            true => self.earlier = Vec::new(),
            false => {
                let mut earlier = self.earlier.iter();
                let at = earlier.position(|it| it.request == grant.request);
                self.earlier.drain(..at.unwrap_or_default());
            }
        }
        self.granted = Some(grant);
    }

    /// Undoes a refused registration. The one before it counts again if the refused one was another token holder's;
    /// false if there is none before it, or if the permission of the tunnel's own holder changed.
    pub(super) fn refuse(&mut self, request: u32) -> bool {
        if self.request != request {
            self.earlier.retain(|it| it.request != request);
            return true;
        }
        let granted = self.earlier.first().map(|it| sub(&it.info));
        if granted.is_none_or(|granted| granted == sub(&self.info)) {
            return false;
        }
        let Some(before) = self.earlier.pop() else {
            return false;
        };
        *self = Self {
            granted: self.granted,
            sessions: self.sessions.clone(),
            earlier: mem::take(&mut self.earlier),
            ..before
        };
        true
    }

    /// Seconds until the agent's permission expires, as an acknowledgement has it: 0 stands for no expiry, so a
    /// permission that expires now has 1 left.
    pub(crate) fn expires_in_s(&self, now_seconds: u64) -> u32 {
        self.expires_at_seconds.map_or(0, |end| {
            let left = end.saturating_sub(now_seconds).max(1);
            u32::try_from(left).unwrap_or(u32::MAX)
        })
    }
}

/// A permission by a provider, which must be renewed.
#[derive(Debug)]
pub(crate) struct Renewal {
    /// The registration, with its token.
    pub(crate) register: Arc<Register>,
    /// Time of the next question; `None` while an answer is awaited.
    pub(crate) next_at: Option<Moment>,
    /// End of the permission if no answer comes.
    pub(crate) good_until: Moment,
}

/// A tunnel whose permission is due for renewal.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) link: LinkId,
    pub(crate) tunnel: TunnelId,
    pub(crate) register: Arc<Register>,
}

/// A name that a link holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    /// The agent's number for the registration that was acknowledged last.
    pub(crate) request: u32,
    pub(crate) generation: Generation,
    pub(crate) since: Moment,
}
