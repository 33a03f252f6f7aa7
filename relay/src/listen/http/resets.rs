//! Streams of HTTP/2 that the library refuses: a request that breaks a rule of its framing is reset with
//! PROTOCOL_ERROR (RFC 9113, section 8.1.1), before anything of ours has seen it. That is found in what the
//! library writes, since it has no hook.

/// Bytes in front of a frame's payload (RFC 9113, section 4.1).
const HEAD_BYTES: usize = 9;

/// Bytes of a RST_STREAM with its head.
const RESET_BYTES: usize = HEAD_BYTES + 4;

/// Type of a RST_STREAM.
const RST_STREAM: u8 = 3;

/// The reason of one for what breaks a rule.
const PROTOCOL_ERROR: [u8; 4] = [0, 0, 0, 1];

/// Follows the frames that go to one caller.
#[derive(Debug, Default)]
pub(super) struct Resets {
    /// The beginning of the frame that it is at.
    head: [u8; RESET_BYTES],
    known: usize,
    /// Bytes of that frame's payload that are to come and say nothing.
    skipped: usize,
}

impl Resets {
    /// Looks at further bytes; tells how many streams were refused in them.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> usize {
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

    /// True behind the head of a RST_STREAM.
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
