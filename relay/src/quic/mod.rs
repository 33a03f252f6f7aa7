//! QUIC on one shard. Packets come in at the [`Endpoint`] of an address, which finds their connection, and begins new
//! ones; each connection has a task, the driver, that sends its packets and keeps its timers. After the handshake the
//! [`Connection`] is given to the shard ([`Host::connected`]), whose links and callers read and write its streams: links by
//! `transport::quic`, callers as [`QuicStream`]s, which [`Streams`] accepts.
//!
//! ```text
//! socket ─▶ endpoint ──▶ table ──▶ connection ◀── with(..), event() ── the shard's task
//!              │           ▲            │ woken
//!        another shard     └── driver ◀─┘ ─▶ socket
//! ```
//!
//! What a packet costs is bounded before its sender has proved its address: [`packet`] drops what no connection can
//! use, a retry asks for proof when many handshakes lack it, and [`Handshakes`](crate::limits::Handshakes) limits the
//! rest. [`unproved`] limits what goes to addresses that no peer has proved, [`id_allowance`] the IDs that a peer
//! uses up, and [`windows`] the memory of callers that send what no target reads, or acknowledge nothing. Connection IDs
//! lead to their shard ([`ids`]); packets that come to another one are passed on.

mod config;
mod connection;
mod driver;
mod endpoint;
mod failure;
mod id_allowance;
mod ids;
mod keys;
mod packet;
mod sender;
mod strays;
mod stream;
mod stream_states;
mod streams;
mod table;
#[cfg(test)]
mod tests;
mod unproved;
mod windows;

pub(crate) use self::config::CONNECTIONS_MAX;
pub(crate) use self::connection::Connection;
pub(crate) use self::endpoint::{Endpoint, Host, LocalTask, Place, Setup};
pub(crate) use self::keys::QuicKeys;
pub(crate) use self::strays::Strays;
pub(crate) use self::stream::QuicStream;
pub(crate) use self::streams::Streams;
pub(crate) use self::windows::Windows;
