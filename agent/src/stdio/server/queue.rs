//! What waits of one answer, between the bridge that makes it and the HTTP connection that takes it.
//!
//! The bridge never waits. Instead, the reader of the child that has written the bytes waits until little is left, so
//! that a slow caller slows down its own child. The bytes are handed on without copies.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use tieline_bridge::ResponseHead;
use tokio::sync::Notify;

/// Bytes of an answer that may wait before its child is read on: some round trips of a fast connection.
const QUEUED_BYTES_MAX: usize = 256 * 1024;

/// The queue of one answer.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inside: Mutex<Inside>,
    /// Wakes those that wait until little is left.
    drained: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    head: Option<ResponseHead>,
    pieces: Pieces,
    end: Option<End>,
    /// The connection's task, while it waits.
    reader: Option<Waker>,
    /// The connection takes no more.
    is_left: bool,
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// In order.
    Done,
    /// It must not look complete.
    Broken,
}

/// The answer was broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer was broken off")]
pub(super) struct Broken;

impl Queue {
    /// Takes the head of the answer.
    pub(super) fn set_head(&self, head: ResponseHead) {
        let mut inside = self.inside();
        inside.head = Some(head);
        inside.wake();
    }

    /// Appends bytes of the body. A comment is dropped while other bytes wait, because only a quiet stream needs it.
    pub(super) fn push(&self, pieces: Vec<Bytes>) {
        let mut inside = self.inside();
        if inside.is_left || (is_comment(&pieces) && inside.pieces.has_remaining()) {
            return;
        }
        pieces
            .into_iter()
            .for_each(|piece| inside.pieces.push(piece));
        inside.wake();
    }

    /// Ends the answer.
    pub(super) fn end(&self, end: End) {
        let mut inside = self.inside();
        inside.end = Some(end);
        inside.wake();
    }

    /// Takes that the connection wants no more bytes; true if the answer had an end before.
    pub(super) fn leave(&self) -> bool {
        let mut inside = self.inside();
        inside.is_left = true;
        inside.pieces = Pieces::default();
        self.drained.notify_waiters();
        inside.end.is_some()
    }

    /// The head, once it is there.
    pub(super) fn poll_head(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, Broken>> {
        let mut inside = self.inside();
        match (inside.head.take(), inside.end) {
            (Some(head), _) => Poll::Ready(Ok(head)),
            (None, Some(_)) => Poll::Ready(Err(Broken)),
            (None, None) => inside.wait(context),
        }
    }

    /// All bytes that wait, or the end.
    pub(super) fn poll_pieces(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Pieces, Broken>>> {
        let mut inside = self.inside();
        if inside.pieces.has_remaining() {
            self.drained.notify_waiters();
            return Poll::Ready(Some(Ok(std::mem::take(&mut inside.pieces))));
        }
        match inside.end {
            Some(End::Done) => Poll::Ready(None),
            Some(End::Broken) => Poll::Ready(Some(Err(Broken))),
            None => inside.wait(context),
        }
    }

    /// Bytes left of an answer that is complete.
    pub(super) fn left(&self) -> Option<usize> {
        let inside = self.inside();
        (inside.end == Some(End::Done)).then(|| inside.pieces.remaining())
    }

    /// Waits until little is left, or until the connection takes no more.
    pub(super) async fn drained(&self) {
        loop {
            let mut notified = pin!(self.drained.notified());
            notified.as_mut().enable();
            if self.inside().pieces.remaining() < QUEUED_BYTES_MAX {
                return;
            }
            notified.await;
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<T> {
        self.reader = Some(context.waker().clone());
        Poll::Pending
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// True for a comment of a stream of events, which begins with a colon.
fn is_comment(pieces: &[Bytes]) -> bool {
    matches!(pieces, [piece] if piece.starts_with(b":"))
}

/// Bytes in several pieces, which are written together.
#[derive(Clone, Debug, Default)]
pub(super) struct Pieces {
    /// No piece is empty.
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }
}

impl From<Bytes> for Pieces {
    fn from(piece: Bytes) -> Self {
        let mut pieces = Self::default();
        pieces.push(piece);
        pieces
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| &piece[..])
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.len, "no more than what is left");
        self.len -= count;
        while let Some(piece) = self.pieces.front_mut() {
            if count < piece.len() {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled = slices.iter_mut().zip(&self.pieces);
        filled
            .map(|(slice, piece)| *slice = IoSlice::new(piece))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::task::yield_now;

    use super::*;

    fn bytes(count: usize) -> Vec<Bytes> {
        vec![Bytes::from(vec![b'x'; count])]
    }

    async fn pieces(queue: &Queue) -> Option<Result<Vec<u8>, Broken>> {
        let pieces = poll_fn(|context| queue.poll_pieces(context)).await;
        pieces.map(|pieces| pieces.map(|mut pieces| pieces.copy_to_bytes(pieces.len).to_vec()))
    }

    async fn head(queue: &Queue) -> Result<u16, Broken> {
        let head = poll_fn(|context| queue.poll_head(context)).await;
        head.map(|head| head.status)
    }

    #[tokio::test]
    async fn an_answer_comes_out_as_it_went_in() {
        let queue = Queue::default();
        let status = 202;
        let fill = async {
            queue.set_head(ResponseHead {
                status,
                ..ResponseHead::default()
            });
            yield_now().await;
            queue.push(vec!["a".into(), Bytes::new(), "bc".into()]);
            queue.push(vec!["d".into()]);
            assert_eq!(queue.left(), None);
            queue.end(End::Done);
            assert_eq!(queue.left(), Some(4));
        };
        let (head, ()) = tokio::join!(head(&queue), fill);
        assert_eq!(head, Ok(status));
        assert_eq!(pieces(&queue).await, Some(Ok(b"abcd".to_vec())));
        assert_eq!(pieces(&queue).await, None);
        assert_eq!(queue.left(), Some(0));
    }

    #[tokio::test]
    async fn an_answer_that_is_broken_off_does_not_end_in_order() {
        let queue = Queue::default();
        queue.push(bytes(1));
        queue.end(End::Broken);
        assert_eq!(pieces(&queue).await, Some(Ok(b"x".to_vec())));
        assert_eq!(pieces(&queue).await, Some(Err(Broken)));
        assert_eq!(queue.left(), None);
        assert_eq!(head(&queue).await, Err(Broken));
    }

    #[tokio::test]
    async fn the_reader_of_a_child_waits_while_much_is_left() {
        let queue = Queue::default();
        queue.push(bytes(QUEUED_BYTES_MAX - 1));
        queue.drained().await;
        queue.push(bytes(1));
        let mut drained = pin!(queue.drained());
        let waits = poll_fn(|context| Poll::Ready(drained.as_mut().poll(context).is_pending()));
        assert!(waits.await);
        pieces(&queue).await.unwrap().unwrap();
        drained.await;
    }

    #[tokio::test]
    async fn nothing_waits_for_a_caller_that_has_left() {
        let queue = Queue::default();
        queue.push(bytes(QUEUED_BYTES_MAX));
        let leave = async { assert!(!queue.leave()) };
        tokio::join!(queue.drained(), leave);
        queue.push(bytes(QUEUED_BYTES_MAX));
        queue.drained().await;
        queue.end(End::Done);
        assert!(queue.leave());
    }

    #[tokio::test]
    async fn comments_do_not_pile_up() {
        let queue = Queue::default();
        for _ in 0..3 {
            queue.push(vec![":\n\n".into()]);
        }
        assert_eq!(pieces(&queue).await, Some(Ok(b":\n\n".to_vec())));
    }

    #[test]
    fn pieces_are_written_together() {
        let mut pieces = Pieces::default();
        for piece in ["ab", "", "cde", "f"] {
            pieces.push(piece.into());
        }
        pieces.advance(1);
        let mut slices = [IoSlice::new(&[]); 8];
        assert_eq!(pieces.chunks_vectored(&mut slices), 3);
        let texts: Vec<&[u8]> = slices[..3].iter().map(|slice| &**slice).collect();
        let expected: [&[u8]; 3] = [b"b", b"cde", b"f"];
        assert_eq!(texts, expected);
        pieces.advance(4);
        assert_eq!((pieces.chunk(), pieces.remaining()), (b"f".as_slice(), 1));
        pieces.advance(1);
        assert!(pieces.chunk().is_empty() && !pieces.has_remaining());
    }
}
