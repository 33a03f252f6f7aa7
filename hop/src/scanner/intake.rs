//! Bytes received from a caller that hyper has not read yet.

use bytes::{Buf, Bytes, BytesMut};

use super::{RequestLine, Scanner};

/// The bytes of one caller, on their way to hyper's server.
#[derive(Debug)]
pub struct Intake {
    /// Scans each byte when it goes to hyper; `None` over HTTP/2.
    pub(super) scanner: Option<Scanner>,
    ahead: BytesMut,
}

impl Default for Intake {
    fn default() -> Self {
        Self::new()
    }
}

impl Intake {
    /// Intake before the first request.
    #[must_use]
    pub fn new() -> Self {
        Self {
            scanner: Some(Scanner::new()),
            ahead: BytesMut::new(),
        }
    }

    /// Holds the bytes behind each request to upgrade back until [`Intake::go_on`].
    pub(crate) fn hold_upgrades(&mut self) {
        if let Some(scanner) = &mut self.scanner {
            scanner.holds_upgrades = true;
        }
    }

    /// Whether bytes wait for the answer to a request to upgrade, which hyper has.
    pub(crate) fn is_held(&self) -> bool {
        self.scanner.as_ref().is_some_and(Scanner::is_held)
    }

    /// Scans on behind a request to upgrade: the connection stays HTTP.
    pub(crate) fn go_on(&mut self) {
        if let Some(scanner) = &mut self.scanner {
            scanner.go_on();
        }
    }

    /// Bytes that hyper has not read; after a switch of protocols, those of the new protocol.
    #[must_use]
    pub fn into_ahead(self) -> Bytes {
        self.ahead.freeze()
    }

    /// Stops the scan: the caller speaks HTTP/2, which has its own framing.
    pub fn is_framed(&mut self) {
        self.scanner = None;
    }

    /// Drops what is known of the first `served` requests.
    pub(crate) fn drop_served(&mut self, served: u64) {
        if let Some(scanner) = &mut self.scanner {
            scanner.unserved.drop_served(served);
        }
    }

    /// Request line of the head behind the first `served` requests, which is the one that hyper refuses if it refuses
    /// one. `None` over HTTP/2, and if more heads waited in front of it than are kept.
    #[must_use]
    pub fn request_line(&self, served: u64) -> Option<RequestLine> {
        self.scanner.as_ref().and_then(|it| it.request_line(served))
    }

    /// The rule broken by the head or trailers that the scanner made hyper refuse.
    #[must_use]
    pub fn broken_rule(&self) -> Option<&'static str> {
        self.scanner.as_ref().and_then(|it| it.broken_rule)
    }

    /// Bytes read ahead of hyper.
    #[must_use]
    pub fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Stores bytes that were read ahead of hyper.
    pub fn keep(&mut self, bytes: &[u8]) {
        self.ahead.extend_from_slice(bytes);
    }

    /// Hands up to `room` bytes to hyper; false if there are none, so the connection has to be read. True
    /// without a byte is the end of the stream: the caller's request was refused.
    pub fn read(&mut self, mut room: usize, mut put: impl FnMut(&[u8])) -> bool {
        let mut is_any = false;
        loop {
            if let Some(scanner) = &mut self.scanner {
                let bytes = scanner.instead(room);
                put(bytes);
                (room, is_any) = (room - bytes.len(), is_any || !bytes.is_empty());
                if scanner.is_refused() {
                    self.ahead = BytesMut::new();
                    return true;
                }
                if scanner.is_held() {
                    return is_any;
                }
            }
            let count = self.ahead.len().min(room);
            if count == 0 {
                if self.ahead.is_empty() {
                    // Frees the buffer, which would otherwise live as long as the connection.
                    self.ahead = BytesMut::new();
                }
                return is_any;
            }
            let bytes = &mut self.ahead[..count];
            let (to_server, taken) = match &mut self.scanner {
                Some(scanner) => {
                    let passed = scanner.pass(bytes);
                    (passed.to_server, passed.taken)
                }
                None => (count, count),
            };
            put(&bytes[..to_server]);
            (room, is_any) = (room - to_server, is_any || to_server > 0);
            self.ahead.advance(taken);
        }
    }

    /// Scans bytes that were read straight into hyper's buffer, and returns how many may stay there. Further
    /// bytes may then wait in [`Intake::read`].
    pub fn pass(&mut self, bytes: &mut [u8]) -> usize {
        let Some(scanner) = &mut self.scanner else {
            return bytes.len();
        };
        let passed = scanner.pass(bytes);
        self.ahead.extend_from_slice(&bytes[passed.taken..]);
        passed.to_server
    }
}
