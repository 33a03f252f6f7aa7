//! The protocol between a Tieline relay and its agents: frames, control messages and the mux.
//!
//! Nothing here does I/O or reads a clock. A driver feeds bytes and the time into a [`Mux`] and
//! takes events and bytes out; the same code runs on io_uring, on tokio and in a simulation.
//! `docs/PROTOCOL.md` describes the bytes.
#![deny(unsafe_code)]

mod backlog;
mod error;
pub mod frame;
// The generated FlatBuffers accessors contain unsafe code; they read only verified tables.
#[allow(unsafe_code)]
mod generated;
mod ids;
pub mod limits;
mod message;
mod mux;
mod reason;
mod weak;

pub use backlog::Backlog;
pub use error::{Error, Side};
pub use ids::{
    AgentKey, Generation, InstanceId, MachineId, Moment, NameError, RESERVED_NAMES, SessionId,
    SessionMap, TunnelId,
};
pub use message::{
    AgentHello, BulkNonce, ChannelBinding, FieldError, GoAway, Granted, Lost, Mode, Open, Refusal,
    Register, RegisterAck, RelayHello, Scheme, Token, Withdrawal, is_hidden,
};
pub use mux::{
    Charge, Counters, Event, Intake, Mux, OpenError, Output, SendBatching, SendError, SendProgress,
    Settings, SharedBudget, Transmit,
};
pub use reason::{
    CallerRefusal, Eviction, LinkEnd, LinkRefusal, NoSession, RefusalReason, SessionEnd,
    WithdrawalReason,
};
