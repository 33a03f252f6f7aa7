//! How far a link's bytes have come on their way to the peer. A ping behind a long queue gets no answer soon; that the
//! queue moves shows that the path works.

/// A link's bytes for the peer, as the driver and its system count them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendProgress {
    /// Bytes that the peer's system has acknowledged since the connection began.
    pub acked: u64,
    /// Bytes that are not acknowledged yet, those that the driver still holds included.
    pub waiting: u64,
}

impl SendProgress {
    /// True if some of the bytes that waited at `before` were acknowledged since, and others of them still wait.
    #[must_use]
    pub const fn moves_since(self, before: Self) -> bool {
        self.acked > before.acked && self.acked < before.acked.saturating_add(before.waiting)
    }
}

/// The bytes in front of a ping that waits for its answer.
///
/// Only they count as proof. Once the peer's system has acknowledged them and the ping, the answer is due: a proxy that
/// acknowledges the bytes of a dead path, or a peer whose process is stuck, would else look alive for ever.
#[derive(Debug)]
pub(super) struct Ahead {
    acked: u64,
    /// Value of `acked` from which on the ping is acknowledged too.
    end: u64,
}

impl Ahead {
    /// The bytes in front of a ping that was sent before `progress`.
    pub(super) const fn new(progress: SendProgress) -> Self {
        Self {
            acked: progress.acked,
            end: progress.acked.saturating_add(progress.waiting),
        }
    }

    /// True if bytes in front of the ping were acknowledged since the last call.
    pub(super) const fn passes(&mut self, progress: SendProgress) -> bool {
        let was_ahead = self.acked < self.end;
        let has_moved = progress.acked > self.acked;
        if has_moved {
            self.acked = progress.acked;
        }
        was_ahead && has_moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn progress(acked: u64, waiting: u64) -> SendProgress {
        SendProgress { acked, waiting }
    }

    #[test]
    fn a_queue_moves_while_its_bytes_are_acknowledged_and_some_still_wait() {
        let before = progress(100, 50);
        assert!(!progress(100, 80).moves_since(before));
        assert!(progress(149, 0).moves_since(before));
        assert!(!progress(150, 0).moves_since(before), "the answer is due");
        assert!(!progress(101, 0).moves_since(progress(100, 0)));
    }

    #[test]
    fn bytes_behind_a_ping_prove_nothing() {
        let mut ahead = Ahead::new(progress(100, 50));
        assert!(!ahead.passes(progress(100, 500)));
        assert!(ahead.passes(progress(120, 500)));
        assert!(!ahead.passes(progress(120, 500)));
        assert!(ahead.passes(progress(160, 500)), "the ping was among them");
        assert!(!ahead.passes(progress(400, 500)));
    }
}
