//! Results that a mux gives its driver: events, refusals and counters.

use std::time::Duration;

use bytes::Bytes;

use crate::ids::{SessionId, TunnelId};
use crate::message::{
    AgentHello, BulkNonce, GoAway, Lost, Open, Register, RegisterAck, RelayHello, Withdrawal,
};
use crate::reason::SessionEnd;

/// What happened on the link.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The relay sent its hello: answer with [`super::Mux::hello`].
    RelayHello(RelayHello),
    /// The agent sent its hello, with a valid signature.
    AgentHello(AgentHello),
    /// The agent publishes a target: answer with [`super::Mux::register_ack`].
    Register(Register),
    /// The relay's answer to a registration.
    RegisterAck(RegisterAck),
    /// The relay takes back a tunnel that it granted, and resets the tunnel's sessions.
    Withdrawn(Withdrawal),
    /// The agent gives up a tunnel.
    Unregister(TunnelId),
    /// The agent reports which bytes had reached it over an earlier link.
    Lost(Lost),
    /// The relay opened a session: answer with [`super::Mux::opened`] or [`super::Mux::reset`].
    Open {
        /// The new session.
        session: SessionId,
        /// The tunnel that the session is for, and its mode.
        open: Open,
    },
    /// The session's target accepted the connection.
    Opened {
        /// The session.
        session: SessionId,
    },
    /// Payload arrived; call [`super::Mux::consumed`] once the receiving socket took it, also for an
    /// empty piece, which ends a message.
    Data {
        /// The session.
        session: SessionId,
        /// A piece of the stream, in order.
        payload: Bytes,
        /// True if the message ends with this piece.
        end_of_message: bool,
    },
    /// The peer's direction ended in order, with every byte delivered.
    Finished {
        /// The session.
        session: SessionId,
    },
    /// The relay offers the session a bulk lane.
    BulkOffer {
        /// The session.
        session: SessionId,
        /// Secret to show on the lane.
        nonce: BulkNonce,
    },
    /// The peer's direction continues on the session's lane, and every byte before it was delivered:
    /// read the lane, then call [`super::Mux::lane_ended`].
    Bulk {
        /// The session.
        session: SessionId,
    },
    /// The peer aborted the session, which no longer exists.
    Reset {
        /// The session.
        session: SessionId,
        /// Reason for the reset.
        reason: SessionEnd,
    },
    /// The peer will close the link.
    GoAway(GoAway),
    /// The peer answered a ping.
    Pong {
        /// The round-trip time of the link.
        rtt: Duration,
    },
}

/// Why a session cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The link's session limit is reached.
    #[error("the link's session limit is reached")]
    Full,
    /// The link is closing, its ids are used up, or its handshake is not complete.
    #[error("the link takes no new sessions")]
    Closing,
}

/// Why payload was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// More bytes than [`super::Mux::send_capacity`] allows.
    #[error("more bytes than the session has credit for")]
    Short,
    /// The session is over, or its direction has ended.
    #[error("the session takes no more bytes")]
    Closed,
}

/// Counters of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames received for sessions that had ended or were being reset.
    pub frames_dropped: u64,
    /// Optional frames that were skipped.
    pub optional_frames_dropped: u64,
    /// Sessions opened since the link began.
    pub sessions_opened: u64,
    /// Payload bytes received.
    pub bytes_received: u64,
    /// Payload bytes sent.
    pub bytes_sent: u64,
}
