//! A raw connection of the generator: sends the due messages and compares every answer byte.

use std::io::{ErrorKind, IoSlice};

use crate::path::Path;
use crate::pattern::Pattern;
use crate::scenario::failure::ConnectionError;
use crate::scenario::seat::{Dialogue, Seat};

/// A connection over raw TCP to the near end of a path.
#[derive(Debug)]
pub(super) struct Connection {
    seat: Seat,
    /// Requests that the socket has taken completely.
    sent: u64,
    /// Bytes of the next request that the socket has taken.
    sent_bytes: usize,
    /// Bytes received of the first incomplete answer.
    answered_bytes: usize,
}

impl Connection {
    /// Connects and sends the preamble.
    pub(super) fn open(path: &Path, id: u64) -> Result<Self, ConnectionError> {
        Ok(Self {
            seat: Seat::open(path, id, path.preamble(id))?,
            sent: 0,
            sent_bytes: 0,
            answered_bytes: 0,
        })
    }

    fn check(&mut self, pattern: &Pattern, mut bytes: &[u8]) -> Result<u64, ConnectionError> {
        let before = self.seat.answered;
        while !bytes.is_empty() {
            if self.seat.waiting() == 0 {
                return Err(ConnectionError::Surplus {
                    surplus: bytes.len(),
                });
            }
            let expected =
                &pattern.message(self.seat.id, self.seat.answered)[self.answered_bytes..];
            let len = expected.len().min(bytes.len());
            let (piece, rest) = bytes.split_at(len);
            if piece != &expected[..len] {
                let differs = piece
                    .iter()
                    .zip(expected)
                    .take_while(|(a, b)| a == b)
                    .count();
                return Err(ConnectionError::WrongByte {
                    answered: self.seat.answered,
                    offset: self.answered_bytes + differs,
                });
            }
            bytes = rest;
            self.answered_bytes += len;
            if self.answered_bytes == pattern.size() {
                self.seat.answered += 1;
                self.answered_bytes = 0;
            }
        }
        Ok(self.seat.answered - before)
    }
}

impl Dialogue for Connection {
    fn seat(&self) -> &Seat {
        &self.seat
    }

    fn seat_mut(&mut self) -> &mut Seat {
        &mut self.seat
    }

    fn flush(&mut self, pattern: &Pattern) -> Result<bool, ConnectionError> {
        while self.sent < self.seat.due {
            let message = pattern.message(self.seat.id, self.sent);
            let rest = [IoSlice::new(&message[self.sent_bytes..])];
            match self.seat.stream.write(&rest) {
                Ok(taken) => self.sent_bytes += taken,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.seat.broken(error)),
            }
            if self.sent_bytes == message.len() {
                self.sent += 1;
                self.sent_bytes = 0;
            }
        }
        let flushed = self.seat.stream.flush();
        flushed.map_err(|error| self.seat.broken(error))
    }

    fn receive(&mut self, pattern: &Pattern, buffer: &mut [u8]) -> Result<u64, ConnectionError> {
        match self.seat.stream.read(buffer) {
            Ok(0) => Err(ConnectionError::Closed {
                answered: self.seat.answered,
                missing: if self.seat.waiting() == 0 {
                    0
                } else {
                    pattern.size() - self.answered_bytes
                },
            }),
            Ok(len) => self.check(pattern, &buffer[..len]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(0)
            }
            Err(error) => Err(self.seat.broken(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::PathKind;
    use crate::socket::Wrap;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    fn connection_to(listener: &TcpListener) -> Connection {
        let path = Path {
            kind: PathKind::Direct,
            address: listener.local_addr().unwrap(),
            wrap: Wrap::default(),
            preambles: Vec::new(),
            pages: Vec::new(),
            processes: Vec::new(),
            hops_known: false,
            connections_max: None,
        };
        Connection::open(&path, 3).unwrap()
    }

    fn with_requests(count: u64) -> (Connection, Pattern) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut connection = connection_to(&listener);
        for _ in 0..count {
            connection.seat.due += 1;
        }
        (connection, Pattern::new(100))
    }

    fn answers(pattern: &Pattern, count: u64) -> Vec<u8> {
        (0..count)
            .flat_map(|sequence| pattern.message(3, sequence).to_vec())
            .collect()
    }

    #[test]
    fn answers_may_come_in_any_pieces() {
        for piece in [1, 7, 99, 100, 101, 250] {
            let (mut connection, pattern) = with_requests(3);
            let mut complete = 0;
            for bytes in answers(&pattern, 3).chunks(piece) {
                complete += connection.check(&pattern, bytes).unwrap();
            }
            assert_eq!(
                (complete, connection.seat.waiting()),
                (3, 0),
                "pieces of {piece}"
            );
        }
    }

    #[test]
    fn one_wrong_byte_is_found_and_named() {
        let (mut connection, pattern) = with_requests(3);
        let mut bytes = answers(&pattern, 3);
        bytes[142] ^= 1;
        let error = connection.check(&pattern, &bytes).unwrap_err();
        assert!(
            matches!(
                error,
                ConnectionError::WrongByte {
                    answered: 1,
                    offset: 42
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_byte_too_many_is_an_error() {
        let (mut connection, pattern) = with_requests(1);
        let mut bytes = answers(&pattern, 1);
        bytes.push(0);
        let error = connection.check(&pattern, &bytes).unwrap_err();
        assert!(
            matches!(error, ConnectionError::Surplus { surplus: 1 }),
            "{error}"
        );
    }

    #[test]
    fn a_connection_that_ends_early_says_what_is_missing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut connection = connection_to(&listener);
        let (mut accepted, _) = listener.accept().unwrap();
        let pattern = Pattern::new(100);
        connection.seat.due += 1;
        assert!(connection.flush(&pattern).unwrap());
        // Read in full before the close; otherwise the kernel would send a reset instead of an end.
        accepted.read_exact(&mut [0; 100]).unwrap();
        accepted.write_all(&answers(&pattern, 1)[..60]).unwrap();
        drop(accepted);
        connection.seat.stream.set_nonblocking(false).unwrap();
        let mut buffer = [0; 1000];
        let error = loop {
            match connection.receive(&pattern, &mut buffer) {
                Ok(complete) => assert_eq!(complete, 0),
                Err(error) => break error,
            }
        };
        assert!(
            matches!(
                error,
                ConnectionError::Closed {
                    answered: 0,
                    missing: 40
                }
            ),
            "{error}"
        );
    }
}
