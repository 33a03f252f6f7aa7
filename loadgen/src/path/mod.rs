//! The ways from the client to the target that are compared.

mod cores;
pub(crate) mod fleet;
pub(crate) mod forwarder;
pub(crate) mod peer;
pub(crate) mod relay;
pub(crate) mod set;

use std::fmt;
use std::net::SocketAddr;

use serde::ser::{Serialize, Serializer};

/// Longest tunnel name that fits the preamble and a DNS label.
const TUNNEL_BYTES_MAX: usize = 63;

/// Which way the bytes take.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum PathKind {
    /// Client to target, nothing between.
    Direct,
    /// Two bare forwarders in a row, on tokio.
    ForwarderTokio,
    /// Two bare forwarders in a row, on tokio-uring.
    ForwarderTokioUring,
    /// Another program that does the same job. A run has a handful of names, kept for its life.
    Peer(&'static str),
    /// Relay and agent with their defaults.
    Relay,
    /// The same, but for `--driver epoll`.
    RelayEpoll,
}

impl PathKind {
    /// Whether this is our own relay, on whatever driver.
    pub(crate) fn is_relay(self) -> bool {
        matches!(self, Self::Relay | Self::RelayEpoll)
    }

    /// Whether this is one of the bare forwarders.
    pub(crate) fn is_forwarder(self) -> bool {
        matches!(self, Self::ForwarderTokio | Self::ForwarderTokioUring)
    }

    /// Another program of this name.
    pub(crate) fn peer(name: &str) -> Self {
        Self::Peer(Box::leak(name.to_owned().into_boxed_str()))
    }

    /// Whether this is another program.
    pub(crate) fn is_peer(self) -> bool {
        matches!(self, Self::Peer(_))
    }
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::ForwarderTokio => "forwarder-tokio",
            Self::ForwarderTokioUring => "forwarder-tokio-uring",
            Self::Peer(name) => name,
            Self::Relay => "relay",
            Self::RelayEpoll => "relay-epoll",
        })
    }
}

impl Serialize for PathKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A process whose CPU time is counted.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// This program.
    Client,
    /// The server at the end.
    Target,
    /// The hop next to the client: a forwarder, or the relay.
    NearHop,
    /// The hop next to the target: a forwarder, or the agent.
    FarHop,
}

/// One way to the target, ready to be used.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    /// Which.
    pub(crate) kind: PathKind,
    /// Where the client connects to.
    pub(crate) address: SocketAddr,
    /// Bytes that the client sends first and that nobody answers. With several, one for each
    /// tunnel, connections take turns.
    pub(crate) preambles: Vec<Vec<u8>>,
    /// Path of the target's URL as seen from here, for loads over HTTP; with several tunnels,
    /// connections take turns.
    pub(crate) pages: Vec<String>,
    /// Processes that carry this path; one that is unknown is left out.
    pub(crate) processes: Vec<(Role, u32)>,
    /// Whether every process between client and target is among them.
    pub(crate) hops_known: bool,
    /// Most connections that its hops are set up for, where that is known.
    pub(crate) connections_max: Option<usize>,
}

impl Path {
    /// What connection `id` sends first.
    pub(crate) fn preamble(&self, id: u64) -> &[u8] {
        in_turn(&self.preambles, id).map_or(&[], Vec::as_slice)
    }

    /// What connection `id` asks for over HTTP.
    pub(crate) fn page(&self, id: u64) -> &str {
        in_turn(&self.pages, id).map_or("/", String::as_str)
    }
}

fn in_turn<T>(list: &[T], id: u64) -> Option<&T> {
    let count = list.len().max(1) as u64;
    list.get(usize::try_from(id % count).unwrap_or(0))
}

/// The relay's preamble on raw TCP: length as two bytes, big endian, then the tunnel's id.
///
/// Answers `None` for a name that no tunnel can have.
pub(crate) fn tunnel_preamble(tunnel: &str) -> Option<Vec<u8>> {
    if tunnel.is_empty() || tunnel.len() > TUNNEL_BYTES_MAX {
        return None;
    }
    let length = u16::try_from(tunnel.len()).ok()?;
    let mut preamble = length.to_be_bytes().to_vec();
    preamble.extend_from_slice(tunnel.as_bytes());
    Some(preamble)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preamble_is_length_and_name() {
        assert_eq!(tunnel_preamble("maya-1"), Some(b"\0\x06maya-1".to_vec()));
        assert_eq!(tunnel_preamble(""), None);
        assert_eq!(tunnel_preamble(&"x".repeat(64)), None);
    }
}
