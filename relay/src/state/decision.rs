//! An operator's decision on the admin port, as the journal stores it.

use std::collections::{HashMap, HashSet};

use data_encoding::HEXLOWER as HEX;
use serde::{Deserialize, Serialize};
use tieline_wire::TunnelId;

use crate::config::Denied;

/// A decision that holds until it is reverted or its time is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Callers of the tunnel are turned away.
    Paused(TunnelId),
    /// Callers of the tunnel are let in again.
    Resumed(TunnelId),
    /// A token, subject or key is denied until this second since 1970.
    Revoked(Denied, u64),
}

impl Decision {
    /// Appends the decision as one line of JSON.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let line = match self {
            Self::Paused(tunnel) => Line::Pause(tunnel.as_str().to_owned()),
            Self::Resumed(tunnel) => Line::Resume(tunnel.as_str().to_owned()),
            Self::Revoked(denied, until) => Line::Revoke(Revocation::of(denied, *until)),
        };
        // Serializing texts and numbers cannot fail.
        let _ = serde_json::to_writer(&mut *out, &line);
        out.push(b'\n');
    }

    /// Parses a line; `None` if the line is not a decision.
    pub(super) fn read(line: &[u8]) -> Option<Self> {
        match serde_json::from_slice(line).ok()? {
            Line::Pause(name) => TunnelId::parse(&name).ok().map(Self::Paused),
            Line::Resume(name) => TunnelId::parse(&name).ok().map(Self::Resumed),
            Line::Revoke(it) => {
                let until = it.until;
                Some(Self::Revoked(it.denied()?, until))
            }
        }
    }
}

/// All decisions that hold.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    paused: HashSet<TunnelId>,
    revoked: HashMap<Denied, u64>,
}

impl Decisions {
    pub(super) fn add(&mut self, decision: Decision) {
        match decision {
            Decision::Paused(tunnel) => {
                self.paused.insert(tunnel);
            }
            Decision::Resumed(tunnel) => {
                self.paused.remove(&tunnel);
            }
            Decision::Revoked(denied, until) => {
                self.revoked.insert(denied, until);
            }
        }
    }

    /// Drops expired revocations.
    pub(super) fn forget(&mut self, now_seconds: u64) {
        self.revoked.retain(|_, until| *until > now_seconds);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Decision> {
        let paused = self.paused.iter().cloned().map(Decision::Paused);
        let revoked = self.revoked.iter();
        paused.chain(revoked.map(|(denied, until)| Decision::Revoked(denied.clone(), *until)))
    }

    /// The paused tunnels, and the revocations in order of their expiry.
    pub(super) fn into_parts(self) -> (HashSet<TunnelId>, Vec<(Denied, u64)>) {
        let mut revoked: Vec<_> = self.revoked.into_iter().collect();
        revoked.sort_by_key(|(_, until)| *until);
        (self.paused, revoked)
    }
}

/// A decision as a line of the journal.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Pause(String),
    Resume(String),
    Revoke(Revocation),
}

/// A revocation; exactly one of `jti`, `sub` and `key` is set.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Revocation {
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    until: u64,
}

impl Revocation {
    fn of(denied: &Denied, until: u64) -> Self {
        let mut it = Self {
            until,
            ..Self::default()
        };
        match denied {
            Denied::Number(jti) => it.jti = Some(jti.clone()),
            Denied::Subject(sub) => it.sub = Some(sub.clone()),
            Denied::Key(key) => it.key = Some(HEX.encode(key)),
        }
        it
    }

    fn denied(self) -> Option<Denied> {
        match self {
            Self { jti: Some(jti), .. } => Some(Denied::Number(jti)),
            Self { sub: Some(sub), .. } => Some(Denied::Subject(sub)),
            Self { key: Some(key), .. } => Denied::parse_key(&key),
            _ => None,
        }
    }
}
