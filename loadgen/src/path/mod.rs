//! The compared paths from the client to the target.

mod cores;
pub(crate) mod fleet;
pub(crate) mod forwarder;
pub(crate) mod peer;
pub(crate) mod relay;
pub(crate) mod set;

use std::fmt;
use std::net::SocketAddr;

use serde::ser::{Serialize, Serializer};

/// Longest tunnel name that fits the preamble and a DNS label, in bytes.
const TUNNEL_BYTES_MAX: usize = 63;

/// Kind of a path.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum PathKind {
    /// Client to target without a hop between.
    Direct,
    /// Two bare forwarders in a row, on tokio.
    ForwarderTokio,
    /// Two bare forwarders in a row, on tokio-uring.
    ForwarderTokioUring,
    /// Another tunnel or proxy program. The name is leaked: a run has only a handful.
    Peer(&'static str),
    /// Relay and agent with their default settings.
    Relay,
    /// Relay and agent, with the relay on `--driver epoll`.
    RelayEpoll,
}

impl PathKind {
    /// Whether this is our own relay, on any driver.
    pub(crate) fn is_relay(self) -> bool {
        matches!(self, Self::Relay | Self::RelayEpoll)
    }

    /// Whether this is one of the bare forwarders.
    pub(crate) fn is_forwarder(self) -> bool {
        matches!(self, Self::ForwarderTokio | Self::ForwarderTokioUring)
    }

    /// Path through the peer with this name.
    pub(crate) fn peer(name: &str) -> Self {
        Self::Peer(Box::leak(name.to_owned().into_boxed_str()))
    }

    /// Whether this is a peer, another program.
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

/// Role of a process whose CPU time is measured.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// This program, which generates the load.
    Client,
    /// The server at the end of the path.
    Target,
    /// The hop next to the client: a forwarder or the relay.
    NearHop,
    /// The hop next to the target: a forwarder or the agent.
    FarHop,
}

/// A path whose processes are running.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub(crate) kind: PathKind,
    /// Address that the client connects to.
    pub(crate) address: SocketAddr,
    /// Bytes that the client sends before its first request and that get no answer. If there are several,
    /// one per tunnel, connection `id` uses number `id` modulo their count.
    pub(crate) preambles: Vec<Vec<u8>>,
    /// URL paths of the target as seen by the client, for scenarios over HTTP. If there are several,
    /// connection `id` uses number `id` modulo their count.
    pub(crate) pages: Vec<String>,
    /// Known processes that carry this path, for CPU time and memory.
    pub(crate) processes: Vec<(Role, u32)>,
    /// Whether `processes` contains every process between client and target.
    pub(crate) hops_known: bool,
    /// Largest number of connections that the hops are configured for, if known.
    pub(crate) connections_max: Option<usize>,
}

impl Path {
    /// Preamble that connection `id` sends.
    pub(crate) fn preamble(&self, id: u64) -> &[u8] {
        in_turn(&self.preambles, id).map_or(&[], Vec::as_slice)
    }

    /// URL path that connection `id` requests over HTTP.
    pub(crate) fn page(&self, id: u64) -> &str {
        in_turn(&self.pages, id).map_or("/", String::as_str)
    }
}

fn in_turn<T>(list: &[T], id: u64) -> Option<&T> {
    let count = list.len().max(1) as u64;
    list.get(usize::try_from(id % count).unwrap_or(0))
}

/// The relay's preamble on raw TCP: length as two bytes, big endian, then the tunnel's name.
///
/// Returns `None` for an invalid tunnel name.
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
