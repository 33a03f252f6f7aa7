//! What carries a link's bytes, as its driver tells: how far they have come, and for how long payload is kept.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::{Rc, Weak};

use tieline_transport::quic::LinkProgress;
use tieline_wire::SendProgress;

use crate::io::Stream;

/// The stream or the QUIC connection under a link.
#[derive(Debug, Default)]
pub(crate) struct Carrier {
    /// The stream under the link, while the link's driver runs; none over QUIC.
    stream: RefCell<Weak<Stream>>,
    /// Bytes that the link's writer holds because the stream has no room; 0 while it has.
    held: Cell<usize>,
    /// How far the bytes of the QUIC connection have come, for a link over QUIC.
    quic: OnceCell<LinkProgress>,
}

impl Carrier {
    /// Notes the stream that the link's driver moves bytes over.
    pub(crate) fn runs_over(&self, stream: &Rc<Stream>) {
        self.stream.replace(Rc::downgrade(stream));
    }

    /// Notes how many bytes the link's writer holds because the stream has no room; 0 once it has.
    pub(crate) fn set_held(&self, bytes: usize) {
        self.held.set(bytes);
    }

    /// Notes that the link is over QUIC, which tells by `progress` how far its bytes have come, and keeps sent payload until
    /// the agent has acknowledged it.
    pub(crate) fn runs_over_quic(&self, progress: LinkProgress) {
        // A link runs once, so there was none.
        let _ = self.quic.set(progress);
    }

    /// Whether payload that is sent now stays in memory for longer than its turn.
    pub(super) fn keeps_payload(&self) -> bool {
        self.held.get() > 0 || self.quic.get().is_some()
    }

    /// How far the link's bytes have come; `None` if the link does not run.
    pub(super) fn progress(&self) -> Option<SendProgress> {
        if let Some(quic) = self.quic.get() {
            return Some(quic.read());
        }
        let (acked, unacked) = self.stream.borrow().upgrade()?.acked_and_unacked();
        let waiting = unacked + self.held.get() as u64;
        Some(SendProgress { acked, waiting })
    }
}
