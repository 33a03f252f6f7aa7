//! The limit of open files, and which paths can carry a scenario under it.

use anyhow::bail;
use serde::Serialize;

use crate::machine::raise_open_files_limit;
use crate::path::{Path, PathKind, Wrapped, Wrapping};
use crate::scenario::{Scenario, connect};

/// Descriptors that a process needs in addition to its connections.
pub(super) const SPARE: u64 = 64;

/// A path over which a scenario was not run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LeftOut {
    pub(crate) path: PathKind,
    /// Reason, as the rest of a sentence that starts with "it".
    pub(crate) reason: String,
}

/// Checks, before the run, that client and target have a descriptor for each connection. Returns the limit
/// of open files.
pub(super) fn check(scenarios: &[Scenario]) -> anyhow::Result<u64> {
    let limit = raise_open_files_limit();
    let connections = scenarios.iter().map(Scenario::connections);
    let most = connections.max().unwrap_or(0);
    let needed = most as u64 + SPARE;
    if needed > limit {
        bail!(
            "{most} connections need {needed} file descriptors per process, but the limit is {limit}: \
             raise it (`ulimit -n`) or use fewer connections"
        );
    }
    Ok(limit)
}

/// Why this path cannot carry this scenario; `None` if it can.
pub(super) fn left_out(scenario: Scenario, path: &Path, limit: u64) -> Option<LeftOut> {
    let connections = scenario.connections();
    let each = match path.kind {
        // A UDP socket and both ends of a socket pair in the generator.
        kind if kind.wrapped().caller == Wrapping::Quic => 3,
        PathKind::Direct | PathKind::DirectOver(_) => 1,
        // A bulk session may get a second connection between relay and agent, the bulk lane.
        kind if kind.is_relay() && !matches!(scenario, Scenario::Bulk { .. }) => 1,
        _ => 2,
    };
    let needed = each * connections as u64 + SPARE;
    let reason = match path.connections_max {
        Some(max) if connections > max => format!("is configured for {max} connections at most"),
        _ if needed > limit => {
            format!("needs {needed} file descriptors per process, but the limit is {limit}")
        }
        _ => unsuited(scenario, path)?,
    };
    Some(LeftOut {
        path: path.kind,
        reason,
    })
}

/// Why this wrapping cannot carry this scenario; `None` if it can.
fn unsuited(scenario: Scenario, path: &Path) -> Option<String> {
    let wrapped = path.kind.wrapped();
    match scenario {
        Scenario::Handshakes { .. } if wrapped != Wrapped::TLS_CALLER => {
            Some("is not a path with TLS towards the client alone".to_owned())
        }
        Scenario::Handshakes { shake, .. } => {
            let error = anyhow::Error::from(connect::probe(path, shake).err()?);
            Some(format!("cannot do this handshake: {error:#}"))
        }
        Scenario::Connect { .. } if wrapped.caller.is_websocket() => {
            Some("opens WebSockets before the measured time only".to_owned())
        }
        Scenario::Connect { .. } if wrapped.caller == Wrapping::Quic => {
            Some("opens QUIC connections before the measured time only".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::Wrap;

    fn path(kind: PathKind, connections_max: Option<usize>) -> Path {
        Path {
            kind,
            address: "127.0.0.1:1".parse().unwrap(),
            wrap: Wrap::default(),
            preambles: Vec::new(),
            pages: Vec::new(),
            processes: Vec::new(),
            hops_known: false,
            connections_max,
        }
    }

    #[test]
    fn a_hop_with_two_sockets_for_each_session_is_left_out_first() {
        let reason = |name: &str, kind, connections_max, limit| {
            let left_out = left_out(name.parse().unwrap(), &path(kind, connections_max), limit);
            left_out.map(|left_out| left_out.reason)
        };
        use PathKind::{Direct, DirectOver, ForwarderTokio, Peer, Relay, RelayEpoll};
        for kind in [Direct, Relay, RelayEpoll] {
            assert_eq!(reason("idle-10000", kind, None, 20_000), None);
        }
        let told = reason("idle-10000", ForwarderTokio, None, 20_000).unwrap();
        assert!(told.contains("20064") && told.contains("20000"), "{told}");
        assert_eq!(reason("idle-10000", ForwarderTokio, None, 20_064), None);
        let quic = DirectOver(Wrapping::Quic);
        assert!(reason("idle-10000", quic, None, 20_000).is_some());
        assert_eq!(reason("idle-10000", quic, None, 30_064), None);
        assert!(reason("connect-1", quic, None, 30_064).is_some());
        let told = reason("idle-10000", Peer("nginx"), Some(9_000), 99_999).unwrap();
        assert!(told.contains("9000"), "{told}");
        assert!(reason("bulk-up-1000", Relay, None, 1_500).is_some());
    }
}
