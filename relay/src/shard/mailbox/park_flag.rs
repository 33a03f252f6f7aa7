//! When a receiver may park, and who wakes it: the steps of sender and receiver around a queue.
//!
//! Queue and waker come as arguments and the flag as a type, so that `model` runs this very code.

use std::sync::atomic::{AtomicBool, Ordering};

/// What the steps need of a flag that threads share.
pub(super) trait Flag {
    /// Sets it and tells what it was.
    fn swap(&self, to: bool, order: Ordering) -> bool;
}

impl Flag for AtomicBool {
    fn swap(&self, to: bool, order: Ordering) -> bool {
        Self::swap(self, to, order)
    }
}

/// Set while the one receiver of a queue is parked, or about to be.
///
/// It is only ever swapped. Swaps of one flag stand in one order, and each sees what was done
/// before those ahead of it, so of a message and a receiver about to park either the receiver sees
/// the message or its sender sees the receiver, whatever the queue promises by itself. A plain
/// store would see nothing, be it sequentially consistent, and cut off what was seen before it.
#[derive(Debug, Default)]
pub(super) struct ParkFlag<F = AtomicBool>(F);

impl<F: Flag> ParkFlag<F> {
    /// Puts a message into the queue, and wakes the receiver if it parks; one sender of all does.
    ///
    /// # Errors
    /// What `push` says; then nobody is woken.
    pub(super) fn send<E>(
        &self,
        push: impl FnOnce() -> Result<(), E>,
        wake: impl FnOnce(),
    ) -> Result<(), E> {
        push()?;
        if self.set(false) {
            wake();
        }
        Ok(())
    }

    /// What `look` finds in the queue, or nothing after a `park`, which may end without a reason.
    ///
    /// # Errors
    /// What `look` and `park` say.
    pub(super) async fn receive<T, E>(
        &self,
        mut look: impl FnMut() -> Result<Option<T>, E>,
        park: impl Future<Output = Result<(), E>>,
    ) -> Result<Option<T>, E> {
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        self.set(true);
        // A message may have come before its sender could see the flag.
        let found = look()?;
        if found.is_none() {
            park.await?;
        }
        self.set(false);
        Ok(found)
    }

    fn set(&self, to: bool) -> bool {
        self.0.swap(to, Ordering::AcqRel)
    }
}
