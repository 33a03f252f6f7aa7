//! Counts HTTP/2 streams that h2 refuses by itself: it resets a malformed request with PROTOCOL_ERROR
//! (RFC 9113, section 8.1.1) before the relay sees it. h2 has no hook for this, so the count comes from the
//! frames that h2 writes.

/// Size of a frame header (RFC 9113, section 4.1).
const HEAD_BYTES: usize = 9;

/// Size of a RST_STREAM frame with its header.
const RESET_BYTES: usize = HEAD_BYTES + 4;

/// Frame type of RST_STREAM.
const RST_STREAM: u8 = 3;

/// Error code of a malformed request.
const PROTOCOL_ERROR: [u8; 4] = [0, 0, 0, 1];

/// Parser of the frames that are written to one caller.
#[derive(Debug, Default)]
pub(super) struct Resets {
    /// First bytes of the current frame.
    head: [u8; RESET_BYTES],
    known: usize,
    /// Payload bytes to skip.
    skipped: usize,
}

impl Resets {
    /// Parses further bytes; returns the number of refused streams in them.
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) -> usize {
        let mut refused = 0;
        while !bytes.is_empty() {
            if self.skipped > 0 {
                let count = self.skipped.min(bytes.len());
                self.skipped -= count;
                bytes = &bytes[count..];
                continue;
            }
            let wanted = match self.is_reset() {
                true => RESET_BYTES,
                false => HEAD_BYTES,
            };
            let (now, later) = bytes.split_at(bytes.len().min(wanted - self.known));
            self.head[self.known..self.known + now.len()].copy_from_slice(now);
            self.known += now.len();
            bytes = later;
            if self.known == RESET_BYTES {
                refused += usize::from(self.head[HEAD_BYTES..] == PROTOCOL_ERROR);
                self.known = 0;
            } else if self.known == HEAD_BYTES && !self.is_reset() {
                let [a, b, c, ..] = self.head.map(usize::from);
                self.skipped = a << 16 | b << 8 | c;
                self.known = 0;
            }
        }
        refused
    }

    /// True after the header of a RST_STREAM.
    fn is_reset(&self) -> bool {
        self.known >= HEAD_BYTES && self.head[3] == RST_STREAM && self.head[..3] == [0, 0, 4]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, 0, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn streams_that_break_a_rule_are_counted_however_the_frames_are_cut() {
        let frames = [
            frame(4, &[]),
            frame(0, &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 1]),
            frame(RST_STREAM, &PROTOCOL_ERROR),
            frame(RST_STREAM, &[0, 0, 0, 8]),
            frame(1, b"x"),
            frame(RST_STREAM, &PROTOCOL_ERROR),
        ]
        .concat();
        for cut in 1..frames.len() {
            let mut resets = Resets::default();
            let refused: usize = frames.chunks(cut).map(|piece| resets.pass(piece)).sum();
            assert_eq!(refused, 2, "{cut}");
        }
    }
}
