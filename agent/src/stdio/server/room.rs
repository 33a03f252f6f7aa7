//! Memory for the messages of callers that have not reached their child.
//!
//! Each request has a [`Place`], which grows with its body. The place goes with the lines that are written to a child,
//! so that a child that does not read holds a limited number of bytes, and requests are refused while there is no room.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most bytes of requests at a time: three messages of the largest size.
const ROOM_BYTES: usize = 192 * 1024 * 1024;

/// Bytes of one unit of room, so that a semaphore of 32 bits can count them.
const UNIT_BYTES: usize = 1024;

/// The room that all requests of a server share.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Semaphore>);

impl Room {
    /// A room with nothing in it.
    pub(super) fn new() -> Self {
        Self::of(ROOM_BYTES)
    }

    /// A room for so many bytes.
    pub(super) fn of(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / UNIT_BYTES)))
    }

    /// A place for a request of which no byte has come.
    pub(super) fn place(&self) -> Place {
        Place {
            room: Arc::clone(&self.0),
            taken: None,
        }
    }
}

/// What one request takes of the room until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Place {
    /// Makes the place large enough for `bytes`.
    ///
    /// # Errors
    /// [`RoomError`] if other requests have the room; the place stays as it is.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), RoomError> {
        let units = bytes.div_ceil(UNIT_BYTES);
        let taken = self.taken.as_ref();
        let more = units.saturating_sub(taken.map_or(0, OwnedSemaphorePermit::num_permits));
        let more = u32::try_from(more).map_err(|_| RoomError::Full)?;
        if more == 0 {
            return Ok(());
        }
        let more = Arc::clone(&self.room).try_acquire_many_owned(more);
        let more = more.map_err(|_| RoomError::Full)?;
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        Ok(())
    }
}

/// Why a place does not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RoomError {
    /// Other requests have the room.
    #[error("too many bytes of requests wait for the server")]
    Full,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_share_the_room_and_give_it_back() {
        let room = Room::of(4 * UNIT_BYTES);
        let (mut one, mut other) = (room.place(), room.place());
        assert_eq!(one.grow(1), Ok(()));
        assert_eq!(one.grow(UNIT_BYTES), Ok(()));
        assert_eq!(one.grow(3 * UNIT_BYTES), Ok(()));
        assert_eq!(other.grow(2 * UNIT_BYTES), Err(RoomError::Full));
        assert_eq!(other.grow(UNIT_BYTES), Ok(()));
        assert_eq!(one.grow(3 * UNIT_BYTES + 1), Err(RoomError::Full));
        drop(one);
        assert_eq!(other.grow(4 * UNIT_BYTES), Ok(()));
    }

    #[test]
    fn a_size_beyond_all_limits_is_refused() {
        assert_eq!(Room::new().place().grow(usize::MAX), Err(RoomError::Full));
    }
}
