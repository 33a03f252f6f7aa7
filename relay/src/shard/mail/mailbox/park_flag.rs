//! Parking of a receiver on its queue: the steps of sender and receiver that make sure a parked receiver is woken.
//!
//! Queue and waker are arguments and the flag is a type parameter, so that `model` runs this very code.

use std::sync::atomic::{AtomicBool, Ordering};

/// A boolean flag that threads share.
pub(super) trait Flag {
    /// Sets the flag and returns its previous value.
    fn swap(&self, to: bool, order: Ordering) -> bool;
}

impl Flag for AtomicBool {
    fn swap(&self, to: bool, order: Ordering) -> bool {
        Self::swap(self, to, order)
    }
}

/// Set while the one receiver of a queue is parked, or about to park.
///
/// The flag is only ever swapped. Swaps of one flag have one order, and each sees what happened before the swaps ahead
/// of it. So of a sender and a receiver about to park, either the receiver sees the message or the sender sees the
/// flag, whatever the queue itself guarantees. A plain store, even a sequentially consistent one, would see no earlier
/// swap and would hide the earlier swaps from later ones.
#[derive(Debug, Default)]
pub(super) struct ParkFlag<F = AtomicBool>(F);

impl<F: Flag> ParkFlag<F> {
    /// Pushes a message, and wakes the receiver if it is parked; of several senders only one wakes it.
    ///
    /// # Errors
    /// The error of `push`; the receiver is not woken then.
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

    /// What `look` finds in the queue; `None` after a `park`, which may end spuriously.
    ///
    /// # Errors
    /// The errors of `look` and `park`.
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
