//! The compared paths from the client to the target.

mod cores;
pub(crate) mod fleet;
pub(crate) mod forwarder;
pub(crate) mod peer;
pub(crate) mod relay;
pub(crate) mod set;
mod wrapped;

use std::fmt;
use std::net::SocketAddr;

use serde::ser::{Serialize, Serializer};

use crate::socket::Wrap;
pub(crate) use wrapped::{Wrapped, Wrapping};

/// Longest tunnel name that fits the preamble and a DNS label, in bytes.
const TUNNEL_BYTES_MAX: usize = 63;

/// Kind of a path.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum PathKind {
    /// Client to target without a hop between.
    Direct,
    /// Client to target without a hop between, in this wrapping.
    DirectOver(Wrapping),
    /// Two bare forwarders in a row, on tokio.
    ForwarderTokio,
    /// Two bare forwarders in a row, on tokio-uring.
    ForwarderTokioUring,
    /// Two bare forwarders in a row, on monoio.
    ForwarderMonoio,
    /// Another tunnel or proxy program. The name is leaked: a run has only a handful.
    Peer(&'static str),
    /// A known peer whose hops are wrapped.
    PeerOver(&'static str, Wrapped),
    /// Relay and agent with their default settings.
    Relay,
    /// Relay and agent with their default settings, but wrapped hops.
    RelayOver(Wrapped),
    /// Relay and agent, with the relay on `--driver epoll`.
    RelayEpoll,
}

impl PathKind {
    /// Whether this is our own relay, on any driver.
    pub(crate) fn is_relay(self) -> bool {
        matches!(self, Self::Relay | Self::RelayOver(_) | Self::RelayEpoll)
    }

    /// Whether this is one of the bare forwarders.
    pub(crate) fn is_forwarder(self) -> bool {
        matches!(
            self,
            Self::ForwarderTokio | Self::ForwarderTokioUring | Self::ForwarderMonoio
        )
    }

    /// Path through the peer with this name.
    pub(crate) fn peer(name: &str) -> Self {
        Self::Peer(Box::leak(name.to_owned().into_boxed_str()))
    }

    /// Whether this is a peer, another program.
    pub(crate) fn is_peer(self) -> bool {
        matches!(self, Self::Peer(_) | Self::PeerOver(..))
    }

    /// Whether there is no hop between client and target.
    pub(crate) fn is_direct(self) -> bool {
        matches!(self, Self::Direct | Self::DirectOver(_))
    }

    /// What wraps the hops; nothing on most paths.
    pub(crate) fn wrapped(self) -> Wrapped {
        match self {
            Self::DirectOver(caller) => Wrapped::new(caller, Wrapping::Plain),
            Self::PeerOver(_, wrapped) | Self::RelayOver(wrapped) => wrapped,
            _ => Wrapped::PLAIN,
        }
    }

    /// The path through the same programs without any wrapping.
    pub(crate) fn plain(self) -> Self {
        match self {
            Self::DirectOver(_) => Self::Direct,
            Self::PeerOver(name, _) => Self::Peer(name),
            Self::RelayOver(_) => Self::Relay,
            other => other,
        }
    }
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name: &str = match self {
            Self::DirectOver(_) | Self::PeerOver(..) | Self::RelayOver(_) => {
                let name = format!("{}{}", self.plain(), self.wrapped());
                // A direct path has one hop, so its name does not say which hop is wrapped.
                let name = name
                    .strip_suffix("-caller")
                    .filter(|_| self.is_direct())
                    .unwrap_or(&name);
                return f.pad(name);
            }
            Self::Direct => "direct",
            Self::ForwarderTokio => "forwarder-tokio",
            Self::ForwarderTokioUring => "forwarder-tokio-uring",
            Self::ForwarderMonoio => "forwarder-monoio",
            Self::Peer(name) => name,
            Self::Relay => "relay",
            Self::RelayEpoll => "relay-epoll",
        };
        f.pad(name)
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
    /// What the client puts around its bytes.
    pub(crate) wrap: Wrap,
    /// Bytes that the client sends before its first request and that get no answer. If there are several,
    /// one per tunnel, connection `id` uses number `id` modulo their count.
    pub(crate) preambles: Vec<Vec<u8>>,
    /// URL paths of the target as seen by the client, for scenarios over HTTP and for WebSockets. If there are
    /// several, connection `id` uses number `id` modulo their count.
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
    fn a_wrapped_path_is_named_by_the_hops_that_are_wrapped() {
        use Wrapping::{PassedWebSocket, Plain, Quic, Tls, WebSocket, WebSocketTls};
        let over = Wrapped::new;
        for (kind, name) in [
            (PathKind::DirectOver(Tls), "direct-tls"),
            (PathKind::DirectOver(WebSocketTls), "direct-wss"),
            (PathKind::RelayOver(over(Tls, Plain)), "relay-tls-caller"),
            (PathKind::RelayOver(over(Plain, Tls)), "relay-tls-link"),
            (PathKind::RelayOver(over(Tls, Tls)), "relay-tls"),
            (
                PathKind::RelayOver(over(WebSocket, Plain)),
                "relay-ws-caller",
            ),
            (PathKind::RelayOver(over(Plain, WebSocket)), "relay-ws-link"),
            (
                PathKind::RelayOver(over(Plain, WebSocketTls)),
                "relay-wss-link",
            ),
            (
                PathKind::RelayOver(over(PassedWebSocket, Plain)),
                "relay-ws-passed",
            ),
            (PathKind::DirectOver(Quic), "direct-quic"),
            (PathKind::RelayOver(over(Plain, Quic)), "relay-quic-link"),
            (PathKind::RelayOver(over(Quic, Quic)), "relay-quic"),
            (PathKind::PeerOver("haproxy", over(Tls, Tls)), "haproxy-tls"),
        ] {
            assert_eq!(kind.to_string(), name);
            assert!(name.starts_with(&kind.plain().to_string()));
        }
    }

    #[test]
    fn a_preamble_is_length_and_name() {
        assert_eq!(tunnel_preamble("maya-1"), Some(b"\0\x06maya-1".to_vec()));
        assert_eq!(tunnel_preamble(""), None);
        assert_eq!(tunnel_preamble(&"x".repeat(64)), None);
    }
}
