//! A connection that one task uses in turns, for a few messages without sessions, as for a trial.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tieline_wire::{Event, LinkEnd, Moment, Mux, Transmit};
use tokio::time::{Instant, timeout_at};

use super::connection::Connection;
use super::quic::{Quic, alert_of};
use super::server_kind::FIRST_BYTES_MAX;
use super::stream::{Reads, Writes};

/// Size of the buffer for one read, in bytes.
const READ_BYTES: usize = 16 * 1024;

/// Longest wait at the end for the relay to receive the last frames.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);

/// A connection that one task uses in turns: [`send`](Self::send), [`hear`](Self::hear), then
/// [`event`](Self::event) until there is none.
pub struct Talk(Kind);

enum Kind {
    Bytes {
        reads: Reads,
        writes: Writes,
        /// What was read, and is not yet handled.
        input: Bytes,
        /// The first bytes from the relay.
        first: Vec<u8>,
    },
    Quic(Box<Quic>),
}

impl Talk {
    /// A talk over `connection`.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        Self(match connection {
            Connection::Bytes(stream) => {
                let (reads, writes) = stream.split();
                Kind::Bytes {
                    reads,
                    writes,
                    input: Bytes::new(),
                    first: Vec::new(),
                }
            }
            Connection::Quic(quic) => Kind::Quic(quic),
        })
    }

    /// The first bytes from the relay, to recognise another kind of server; empty over QUIC.
    #[must_use]
    pub fn first(&self) -> &[u8] {
        match &self.0 {
            Kind::Bytes { first, .. } => first,
            Kind::Quic(_) => &[],
        }
    }

    /// Sends what the mux has to send.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn send(&mut self, now: Moment, mux: &mut Mux) -> io::Result<()> {
        match &mut self.0 {
            Kind::Bytes { writes, .. } => {
                let mut out = Transmit::new();
                while mux.poll_transmit(now, &mut out) {
                    while !out.is_empty() {
                        let count = writes.send_vectored(&out.slices()).await?;
                        out.advance(count);
                    }
                }
            }
            Kind::Quic(quic) => {
                quic.transmit(now, mux);
                quic.send_out();
            }
        }
        Ok(())
    }

    /// Waits until something has arrived, or over QUIC until there may be more to send; false if the relay has closed
    /// the connection.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn hear(&mut self) -> io::Result<bool> {
        match &mut self.0 {
            Kind::Bytes {
                reads,
                input,
                first,
                ..
            } => {
                let mut buffer = BytesMut::with_capacity(READ_BYTES);
                let count = reads.read(&mut buffer).await?;
                if first.is_empty() {
                    first.extend_from_slice(&buffer[..buffer.len().min(FIRST_BYTES_MAX)]);
                }
                *input = buffer.freeze();
                Ok(count > 0)
            }
            Kind::Quic(quic) => {
                quic.ready(None).await;
                let taken_in = quic.take_in();
                taken_in.map_err(|reason| alert_of(&reason).unwrap_or_else(|| reason.into()))?;
                Ok(true)
            }
        }
    }

    /// The next event of what has arrived.
    ///
    /// # Errors
    /// The relay broke a rule.
    pub fn event(
        &mut self,
        now: Moment,
        mux: &mut Mux,
    ) -> Result<Option<Event>, tieline_wire::Error> {
        match &mut self.0 {
            Kind::Bytes { input, .. } => mux.handle_input(now, input),
            Kind::Quic(quic) => quic.poll_event(now, mux),
        }
    }

    /// Closes the connection in order, so that the relay receives the last frames, which were given to [`Talk::send`].
    pub async fn say_farewell(mut self) {
        let until = Instant::now() + FAREWELL_TIMEOUT;
        match &mut self.0 {
            Kind::Bytes { reads, .. } => {
                let mut rest = BytesMut::with_capacity(READ_BYTES);
                let _ = timeout_at(until, async {
                    reads.end_sending().await;
                    while matches!(reads.read(&mut rest).await, Ok(1..)) {
                        rest.clear();
                    }
                })
                .await;
            }
            Kind::Quic(quic) => {
                while !quic.has_arrived() && Instant::now() < until && quic.take_in().is_ok() {
                    quic.send_out();
                    quic.ready(Some(until)).await;
                }
                quic.close(LinkEnd::ShuttingDown);
            }
        }
    }
}
