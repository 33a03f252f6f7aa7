//! What has come of a caller and hyper has not read yet.

use bytes::{Buf, BytesMut};

use super::Scanner;

/// The bytes of one caller, on their way to hyper's server.
#[derive(Debug)]
pub struct Intake {
    /// Sees each byte when it goes to hyper.
    pub(super) scanner: Option<Scanner>,
    ahead: BytesMut,
}

impl Default for Intake {
    fn default() -> Self {
        Self::new()
    }
}

impl Intake {
    /// In front of the first request.
    #[must_use]
    pub fn new() -> Self {
        Self {
            scanner: Some(Scanner::new()),
            ahead: BytesMut::new(),
        }
    }

    /// The caller speaks HTTP/2, which frames by itself.
    pub fn is_framed(&mut self) {
        self.scanner = None;
    }

    /// Bytes of URL and method in the head that hyper is at, or was at last.
    #[must_use]
    pub fn target_bytes(&self) -> usize {
        self.scanner.as_ref().map_or(0, Scanner::target_bytes)
    }

    /// The rule that the head or trailers break for which hyper was made to refuse them.
    #[must_use]
    pub fn broken_rule(&self) -> Option<&'static str> {
        self.scanner.as_ref().and_then(|it| it.broken_rule)
    }

    /// What was read ahead of hyper.
    #[must_use]
    pub fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Keeps bytes that were read ahead of hyper.
    pub fn keep(&mut self, bytes: &[u8]) {
        self.ahead.extend_from_slice(bytes);
    }

    /// Hands up to `room` bytes to hyper; false if there are none, and the caller is to be read. True
    /// without a byte is the end: the caller was refused.
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
            }
            let count = self.ahead.len().min(room);
            if count == 0 {
                if self.ahead.is_empty() {
                    // Its memory was the connection's for as long as it lives.
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

    /// Looks at bytes that were read where hyper wants them; so many may stay there. There may be more to
    /// [`Intake::read`] then.
    pub fn pass(&mut self, bytes: &mut [u8]) -> usize {
        let Some(scanner) = &mut self.scanner else {
            return bytes.len();
        };
        let passed = scanner.pass(bytes);
        self.ahead.extend_from_slice(&bytes[passed.taken..]);
        passed.to_server
    }
}
