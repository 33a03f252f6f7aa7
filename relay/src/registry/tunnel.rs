//! A tunnel, as its link knows it.

use std::sync::Arc;

use tieline_wire::{Generation, Moment, Register, Scheme, TunnelId};

use super::LinkId;
use crate::auth::{Identity, Owner};
use crate::session::Held;

/// Texts that are kept of a tunnel without an agent, in bytes; those that do not fit are dropped.
const KEPT_BYTES_MAX: usize = 256;

/// What an agent said of a tunnel's target, and whose it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TunnelInfo {
    pub(crate) scheme: Scheme,
    pub(crate) authority: String,
    pub(crate) base_path: String,
    pub(crate) dcc: String,
    pub(crate) capabilities: Vec<String>,
    /// Callers may use every path of an HTTP target, not only those under `base_path`.
    pub(crate) expose_all: bool,
    /// Nobody's without authentication.
    pub(crate) owner: Option<Arc<Owner>>,
    /// Whether agents with other keys may serve it too, if they are close to its owner and say so
    /// as well.
    pub(crate) shared: bool,
}

impl TunnelInfo {
    /// What is kept of it while no agent serves it: what a list of tunnels shows and what decides who
    /// may reach it, up to [`KEPT_BYTES_MAX`] beside the owner.
    pub(crate) fn kept(&self, owner: Option<Arc<Owner>>) -> Self {
        let mut left = KEPT_BYTES_MAX;
        let mut fits = |text: &str| {
            let is_short = text.len() <= left;
            left -= if is_short { text.len() } else { 0 };
            is_short
        };
        let mut text = |text: &String| match fits(text) {
            true => text.clone(),
            false => String::new(),
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

    /// What its target speaks, in a stable word.
    pub(crate) const fn scheme_word(&self) -> &'static str {
        match self.scheme {
            Scheme::Tcp => "tcp",
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// Whether raw callers may have it: its target is no HTTP server, or one whose every path
    /// callers may use. What they would send is theirs alone to say.
    pub(crate) fn is_open_to_raw(&self) -> bool {
        self.scheme == Scheme::Tcp || self.base_path.is_empty() || self.expose_all
    }
}

/// A tunnel, as its link knows it.
#[derive(Debug)]
pub(crate) struct TunnelEntry {
    pub(crate) info: Arc<TunnelInfo>,
    /// The agent's number of the latest registration.
    pub(crate) request: u32,
    /// Set once the name is ours.
    pub(crate) granted: Option<Grant>,
    /// The first second since 1970 at which the agent's permission is over.
    pub(crate) expires_at_seconds: Option<u64>,
    /// Who registered it; nobody without authentication.
    pub(crate) identity: Option<Arc<Identity>>,
    /// When a provider is asked again; never without one.
    pub(crate) renewal: Option<Renewal>,
    /// Its sessions on this link; kept when it is registered again.
    pub(crate) held: Held,
    /// Earlier registrations, oldest first: the one that was granted last, and those without an answer,
    /// of which a link has few (`CLAIMS_MAX`). One of them counts again where the latest is refused.
    pub(crate) earlier: Vec<Asked>,
}

/// What a registration said, and who may say it.
#[derive(Debug)]
pub(crate) struct Asked {
    request: u32,
    info: Arc<TunnelInfo>,
    expires_at_seconds: Option<u64>,
    identity: Option<Arc<Identity>>,
    renewal: Option<Renewal>,
}

/// The holder of the token with which a tunnel was registered.
fn sub(info: &TunnelInfo) -> Option<&str> {
    info.owner.as_ref().map(|owner| owner.sub.as_str())
}

impl TunnelEntry {
    /// Takes the place of an earlier registration.
    pub(super) fn follow(&mut self, before: Self) {
        self.earlier = before.earlier;
        self.earlier.push(Asked {
            request: before.request,
            info: before.info,
            expires_at_seconds: before.expires_at_seconds,
            identity: before.identity,
            renewal: before.renewal,
        });
    }

    /// The name is the link's, as `grant` says: earlier registrations do not count any more.
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

    /// A registration was refused. What was registered before it stays if the refused one was another token
    /// holder's; false if there is nothing, or if the permission of the tunnel's own holder changed.
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
        self.request = before.request;
        self.info = before.info;
        self.expires_at_seconds = before.expires_at_seconds;
        self.identity = before.identity;
        self.renewal = before.renewal;
        true
    }

    /// How long the agent's permission still lasts, as an acknowledgement says it: 0 is for ever, and
    /// so one that ends just now has a second left.
    pub(crate) fn expires_in_s(&self, now_seconds: u64) -> u32 {
        self.expires_at_seconds.map_or(0, |end| {
            let left = end.saturating_sub(now_seconds).max(1);
            u32::try_from(left).unwrap_or(u32::MAX)
        })
    }
}

/// A permission that another server gave, and has to give again.
#[derive(Debug)]
pub(crate) struct Renewal {
    /// What was asked for, token included.
    pub(crate) register: Arc<Register>,
    /// Never while an answer is awaited.
    pub(crate) next_at: Option<Moment>,
    /// Until when it lasts if no answer comes.
    pub(crate) good_until: Moment,
}

/// A tunnel whose permission is to be renewed.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) link: LinkId,
    pub(crate) tunnel: TunnelId,
    pub(crate) register: Arc<Register>,
}

/// A name that a link holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    /// The agent's number of the registration that was answered with it last.
    pub(crate) request: u32,
    pub(crate) generation: Generation,
    pub(crate) since: Moment,
}
