//! What can go wrong with a load on one path.

use std::io;

/// What went wrong on one connection. The caller knows which and on what path.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    /// No TCP connection, or one that broke before the preamble was taken.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// No port is left to connect from.
    #[error(
        "found no free local port: closed connections keep theirs for a while (see \
         net.ipv4.ip_local_port_range and tcp_tw_reuse)"
    )]
    NoPort,
    /// Reading or writing failed.
    #[error("broke after {answered} answers")]
    Broken {
        /// Answers before.
        answered: u64,
        /// Why.
        source: io::Error,
    },
    /// The other side ended the connection while an answer was due.
    #[error("was closed after {answered} answers, {missing} bytes short of the next one")]
    Closed {
        /// Answers before.
        answered: u64,
        /// Bytes that did not come.
        missing: usize,
    },
    /// A byte is not the one that was sent.
    #[error("byte {offset} of answer {answered} is not the one that was sent")]
    WrongByte {
        /// Which answer, counted from 0.
        answered: u64,
        /// Which byte, counted from 0.
        offset: usize,
    },
    /// A byte of a bulk transfer is not the one that was to come.
    #[error("byte {offset} of the bulk transfer {way} is not the one that was sent")]
    WrongBulkByte {
        /// `up` or `down`.
        way: &'static str,
        /// Which byte, counted from 0.
        offset: u64,
    },
    /// A bulk transfer ended early.
    #[error("broke after {up} bytes up and {down} bytes down")]
    BulkBroken {
        /// Bytes that the socket took.
        up: u64,
        /// Bytes that came.
        down: u64,
        /// Why.
        source: io::Error,
    },
    /// The target counted other bytes than the client.
    #[error("brought {received} bytes up of the {sent} that were sent")]
    Lost {
        /// Bytes that the client sent.
        sent: u64,
        /// Bytes that the target got.
        received: u64,
    },
    /// The target did not take the request for a bulk transfer.
    #[error(
        "got another answer to its request than the target's: is `tieline-loadgen target any` at \
         the end of the path?"
    )]
    NoTarget,
    /// Another answer than the target's: a hop's own, most likely.
    #[error("was answered with status {0} and not with 200")]
    Status(u16),
    /// Not the HTTP/1.1 that was asked for.
    #[error("got an answer that is not as HTTP/1.1 says: {0}")]
    NotHttp(&'static str),
    /// More came back than went out.
    #[error("brought {surplus} bytes that nobody asked for")]
    Surplus {
        /// How many, at least.
        surplus: usize,
    },
}

/// Why a thread gave up. The caller adds the name of the path.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    /// One connection failed.
    #[error("connection {connection}")]
    Connection {
        /// Which, counted from 0 over all threads.
        connection: u64,
        /// How.
        source: ConnectionError,
    },
    /// Answers did not come.
    #[error("{silent} of {connections} connections got no answer within {seconds} s")]
    Silent {
        /// How many.
        silent: usize,
        /// Of how many on this thread.
        connections: usize,
        /// The patience.
        seconds: u64,
    },
    /// The thread's own epoll set or timer failed.
    #[error("cannot wait for events")]
    Wait(#[source] io::Error),
    /// Another thread failed, or a signal came.
    #[error("stopped")]
    Stopped,
}

/// Names the connection.
pub(super) fn failed(connection: u64, source: ConnectionError) -> WorkerError {
    WorkerError::Connection { connection, source }
}

/// The thread's own epoll set failed.
pub(super) fn wait_error(error: rustix::io::Errno) -> WorkerError {
    WorkerError::Wait(error.into())
}
