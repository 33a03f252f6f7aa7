//! What a frontend connection becomes after `101 Switching Protocols`: it has left HTTP, so the shard serves it.

use std::net::IpAddr;

use bytes::Bytes;
use tieline_wire::TunnelId;

use super::Gateway;
use crate::limits::RatePass;
use crate::listen::proxied::Source;

/// What a frontend connection becomes behind `101 Switching Protocols`.
pub(crate) enum Upgraded<G: Gateway> {
    /// An agent's link: the bytes of binary messages are those of a link over TCP.
    Link { source: Source },
    /// A caller from `address` of a target that takes bytes: each binary message is a payload.
    Caller {
        tunnel: TunnelId,
        caller: G::Caller,
        address: IpAddr,
        pass: RatePass,
    },
    /// A caller whose bytes go to an HTTP target as they are.
    Target(TargetConnection<G>),
}

/// A connection to a target that has switched protocols.
pub(crate) struct TargetConnection<G: Gateway> {
    /// The session, without the HTTP client that read and wrote it.
    pub(crate) stream: G::Stream,
    /// Bytes that the target sent after the head of its answer.
    pub(crate) ahead: Bytes,
    pub(crate) tunnel: TunnelId,
    /// The caller's address.
    pub(crate) address: IpAddr,
    pub(crate) caller: G::Caller,
    /// Counts the bytes for the caller's rate limit.
    pub(crate) pass: RatePass,
}
