//! Reads the body of a request into one buffer, as large as a message may be.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use tieline_bridge::MESSAGE_BYTES_MAX;
use tokio::time::timeout;

use super::room::{Place, Room, RoomError};

/// Longest wait for the next piece of a body; a caller that is slower has lost its connection.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);

/// Memory that a body gets first: most messages fit.
const FIRST_BYTES: usize = 4 * 1024;

/// A body that has arrived.
#[derive(Debug)]
pub(super) struct Upload {
    /// The whole body.
    pub(super) text: Bytes,
    /// What it takes of the room for requests.
    pub(super) place: Place,
}

impl Upload {
    /// Reads a body. Memory is taken for what has come, and not for what the head announces.
    ///
    /// # Errors
    /// [`UploadError`] says why there is no body.
    pub(super) async fn read(mut body: Incoming, room: &Room) -> Result<Self, UploadError> {
        let announced = match body.size_hint().exact() {
            Some(len) => Some(usize::try_from(len).map_err(|_| UploadError::TooLong)?),
            None => None,
        };
        let mut buffer = Buffer::new(announced, room)?;
        while let Some(piece) = next_piece(&mut body).await? {
            buffer.push(&piece)?;
        }
        Ok(Self {
            text: buffer.bytes.into(),
            place: buffer.place,
        })
    }
}

/// Why there is no body.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    /// It is longer than a message may be.
    #[error("the request is longer than 64 MiB")]
    TooLong,
    /// There is no memory for it now.
    #[error(transparent)]
    NoRoom(#[from] RoomError),
    /// The rest did not come in time.
    #[error("the rest of the request did not come within 60 s")]
    Late,
    /// The connection has ended before, or the body is malformed.
    #[error("cannot read the request: {0}")]
    Cut(#[source] hyper::Error),
}

/// What has come of a body.
#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    /// Length of the whole body, as far as it is known.
    len_max: usize,
    place: Place,
}

impl Buffer {
    fn new(announced: Option<usize>, room: &Room) -> Result<Self, UploadError> {
        let len_max = announced.unwrap_or(MESSAGE_BYTES_MAX);
        match len_max <= MESSAGE_BYTES_MAX {
            true => Ok(Self {
                bytes: Vec::new(),
                len_max,
                place: room.place(),
            }),
            false => Err(UploadError::TooLong),
        }
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), UploadError> {
        let needed = self.bytes.len() + piece.len();
        if needed > MESSAGE_BYTES_MAX {
            return Err(UploadError::TooLong);
        }
        if needed > self.bytes.capacity() {
            let doubled = (2 * self.bytes.capacity()).max(FIRST_BYTES);
            let capacity = doubled.min(self.len_max).max(needed);
            self.place.grow(capacity)?;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
}

/// The next piece; `None` at the end.
async fn next_piece(body: &mut Incoming) -> Result<Option<Bytes>, UploadError> {
    let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
    match timeout(PIECE_TIMEOUT, frame).await {
        Ok(None) => Ok(None),
        // Trailers mean nothing here.
        Ok(Some(Ok(frame))) => Ok(Some(frame.into_data().unwrap_or_default())),
        Ok(Some(Err(error))) => Err(UploadError::Cut(error)),
        Err(_) => Err(UploadError::Late),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_takes_as_much_memory_as_has_come_and_never_more_than_is_announced() {
        let room = Room::new();
        let mut buffer = Buffer::new(Some(150_000), &room).unwrap();
        assert_eq!(buffer.bytes.capacity(), 0);
        for count in 1..=15 {
            buffer.push(&[b'x'; 10_000]).unwrap();
            let (len, capacity) = (buffer.bytes.len(), buffer.bytes.capacity());
            assert_eq!(len, count * 10_000);
            assert!(capacity <= (2 * len).min(150_000), "{capacity} for {len}");
        }
    }

    #[test]
    fn a_body_may_be_as_long_as_a_message() {
        let room = Room::new();
        let announced = Buffer::new(Some(MESSAGE_BYTES_MAX + 1), &room);
        assert!(matches!(announced, Err(UploadError::TooLong)));
        let mut buffer = Buffer::new(None, &room).unwrap();
        let half = vec![b'x'; MESSAGE_BYTES_MAX / 2];
        buffer.push(&half).unwrap();
        buffer.push(&half).unwrap();
        assert!(matches!(buffer.push(b"x"), Err(UploadError::TooLong)));
    }

    #[test]
    fn a_body_is_refused_while_others_have_the_room() {
        let room = Room::of(8 * 1024);
        let filled = || {
            let mut buffer = Buffer::new(None, &room)?;
            buffer.push(&[b'x'; 5 * 1024]).map(|()| buffer)
        };
        let first = filled().unwrap();
        assert!(matches!(filled(), Err(UploadError::NoRoom(_))));
        drop(first);
        assert!(filled().is_ok());
    }
}
