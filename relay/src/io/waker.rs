//! Wakes a parked shard from another thread.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use super::driver::Interest;
use super::readiness::{Direction, Readiness};

/// The waking half; any thread may hold it.
#[derive(Clone)]
pub(crate) struct Waker(Arc<OwnedFd>);

impl Waker {
    /// Makes a waker with the descriptor that its shard waits on.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?)))
    }

    /// Wakes the shard, or makes its next wait return at once.
    pub(crate) fn wake(&self) {
        // Fails only if the eventfd's counter is full; then a wake-up is pending anyway.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes the waiting half, for the shard's own thread.
    pub(crate) fn parker(&self) -> io::Result<Parker> {
        let fd = Arc::clone(&self.0);
        // SAFETY: the descriptor is open while any `Arc` of it lives, and the parker holds one.
        let readiness = unsafe { Readiness::new(fd.as_fd(), Interest::In, false) };
        Ok(Parker { readiness, fd })
    }
}

/// The waiting half; belongs to one shard.
pub(crate) struct Parker {
    // Declared before `fd`, so that it is dropped first.
    readiness: Readiness,
    fd: Arc<OwnedFd>,
}

impl Parker {
    /// Waits for [`Waker::wake`]; all wake-ups so far count as one.
    pub(crate) async fn park(&self) -> io::Result<()> {
        poll_fn(|cx| self.readiness.poll(Direction::In, cx)).await;
        self.readiness.spend(Direction::In);
        let mut count = [0; 8];
        match rustix::io::read(&self.fd, &mut count) {
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
