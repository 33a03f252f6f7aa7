//! Errors of a scenario on one path.

use std::io;

/// Error of one connection. The caller adds the connection's number and its path.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    /// The TCP connection could not be opened, or broke before the first bytes were sent.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// No local port is free for a new connection.
    #[error(
        "found no free local port: closed connections keep their ports for a while (see \
         net.ipv4.ip_local_port_range and tcp_tw_reuse)"
    )]
    NoPort,
    /// Reading from or writing to the socket failed.
    #[error("broke after {answered} answers")]
    Broken {
        /// Complete answers before the failure.
        answered: u64,
        /// Error of the socket.
        source: io::Error,
    },
    /// The peer closed the connection while an answer was due, or between answers.
    #[error("was closed after {answered} answers, {missing} bytes short of the next one")]
    Closed {
        /// Complete answers before the close.
        answered: u64,
        /// Missing bytes of the next answer.
        missing: usize,
    },
    /// A byte of an answer differs from the expected byte.
    #[error("byte {offset} of answer {answered} is not the one that was sent")]
    WrongByte {
        /// Number of the answer, from 0.
        answered: u64,
        /// Offset of the byte in the answer, from 0.
        offset: usize,
    },
    /// A byte of a bulk transfer differs from the expected byte.
    #[error("byte {offset} of the bulk transfer {way} is not the one that was sent")]
    WrongBulkByte {
        /// Direction: `up` or `down`.
        way: &'static str,
        /// Offset of the byte in the stream, from 0.
        offset: u64,
    },
    /// The connection failed in the middle of a bulk transfer.
    #[error("broke after {up} bytes up and {down} bytes down")]
    BulkBroken {
        /// Bytes that the socket has taken.
        up: u64,
        /// Bytes received.
        down: u64,
        /// Error of the socket.
        source: io::Error,
    },
    /// The target received another number of bytes than the client sent.
    #[error("delivered {received} of the {sent} bytes that were sent up")]
    Lost {
        /// Bytes that the client sent.
        sent: u64,
        /// Bytes that the target received.
        received: u64,
    },
    /// The answer to the bulk request does not come from our target.
    #[error(
        "got an answer that is not from the target: does the path end at \
         `tieline-loadgen target any`?"
    )]
    NoTarget,
    /// No TLS handshake was possible.
    #[error(
        "has no TLS handshake of this kind: the path has no TLS, or an end lacks the key exchange"
    )]
    NoHandshake,
    /// The server did not accept a ticket.
    #[error("was not resumed: the server took no ticket")]
    NotResumed,
    /// HTTP status other than 200, most likely from a hop.
    #[error("was answered with status {0} instead of 200")]
    Status(u16),
    /// The answer violates HTTP/1.1, or uses a part of it that is not supported here.
    #[error("got an invalid HTTP/1.1 answer: {0}")]
    NotHttp(&'static str),
    /// More bytes arrived than were requested.
    #[error("delivered {surplus} bytes that were not requested")]
    Surplus {
        /// Number of surplus bytes found so far.
        surplus: usize,
    },
}

/// Reason why a thread stopped. The caller adds the name of the path.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    /// One connection failed.
    #[error("connection {connection}")]
    Connection {
        /// Number of the connection, from 0 over all threads.
        connection: u64,
        /// Error of the connection.
        source: ConnectionError,
    },
    /// Answers did not arrive in time.
    #[error("{silent} of {connections} connections got no answer within {seconds} s")]
    Silent {
        /// Connections without an answer.
        silent: usize,
        /// All connections of this thread.
        connections: usize,
        /// Time limit, in seconds.
        seconds: u64,
    },
    /// The thread's epoll set or timer failed.
    #[error("cannot wait for socket events")]
    Wait(#[source] io::Error),
    /// Another thread failed, or a signal arrived.
    #[error("stopped")]
    Stopped,
}

/// Adds the number of the connection to its error.
pub(super) fn failed(connection: u64, source: ConnectionError) -> WorkerError {
    WorkerError::Connection { connection, source }
}

/// Wraps an error of the epoll set.
pub(super) fn wait_error(error: rustix::io::Errno) -> WorkerError {
    WorkerError::Wait(error.into())
}
