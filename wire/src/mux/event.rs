//! What a mux tells its driver: events, refusals and counts.

use std::time::Duration;

use bytes::Bytes;

use crate::error::Reason;
use crate::ids::{SessionId, TunnelId};
use crate::message::{
    AgentHello, BulkNonce, GoAway, Lost, Open, Register, RegisterAck, RelayHello, Withdrawal,
};

/// What happened on the link.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The relay showed itself: answer with [`super::Mux::hello`].
    RelayHello(RelayHello),
    /// The agent proved its key.
    AgentHello(AgentHello),
    /// The agent publishes a target: answer with [`super::Mux::register_ack`].
    Register(Register),
    /// The relay's answer to a registration.
    RegisterAck(RegisterAck),
    /// The relay takes back a tunnel that it granted, and resets its sessions.
    Withdrawn(Withdrawal),
    /// The agent takes a tunnel back.
    Unregister(TunnelId),
    /// The agent tells what had reached it over an earlier link.
    Lost(Lost),
    /// The relay opened a session: answer with [`super::Mux::opened`] or [`super::Mux::reset`].
    Open {
        /// The new session.
        session: SessionId,
        /// What it leads to.
        open: Open,
    },
    /// The session's target connection stands.
    Opened {
        /// The session.
        session: SessionId,
    },
    /// Payload arrived; say [`super::Mux::consumed`] once the last socket took it, also of an empty
    /// piece, which ends a message.
    Data {
        /// The session.
        session: SessionId,
        /// A piece of the stream, in order.
        payload: Bytes,
        /// The message that this piece belongs to ends with it.
        end_of_message: bool,
    },
    /// The peer's direction ended in order, with every byte delivered.
    Finished {
        /// The session.
        session: SessionId,
    },
    /// The relay offers a lane of its own to the session.
    BulkOffer {
        /// The session.
        session: SessionId,
        /// What to show on the lane.
        nonce: BulkNonce,
    },
    /// The peer's direction goes on over the session's lane, with every byte before it delivered:
    /// read the lane, and say [`super::Mux::lane_ended`].
    Bulk {
        /// The session.
        session: SessionId,
    },
    /// The peer gave the session up; it is gone.
    Reset {
        /// The session.
        session: SessionId,
        /// Why.
        reason: Reason,
    },
    /// The peer will close the link.
    GoAway(GoAway),
    /// A heartbeat was answered.
    Pong {
        /// The round trip of the link.
        rtt: Duration,
    },
}

/// Why no session can be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The link holds as many sessions as it may.
    #[error("the link holds as many sessions as it may")]
    Full,
    /// The link is going away, its ids are used up, or its agent is not known yet.
    #[error("the link takes no new sessions")]
    Closing,
}

/// Why payload was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// More than [`super::Mux::send_capacity`] allowed.
    #[error("more bytes than the session has credit for")]
    Short,
    /// The session is gone or its direction ended.
    #[error("the session takes no more bytes")]
    Closed,
}

/// What a link counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames for a session that had ended already.
    pub frames_dropped: u64,
    /// Optional frames of a kind that this build does not know.
    pub optional_frames_dropped: u64,
    /// Sessions since the link began.
    pub sessions_opened: u64,
    /// Payload bytes that arrived.
    pub bytes_received: u64,
    /// Payload bytes that left.
    pub bytes_sent: u64,
}
