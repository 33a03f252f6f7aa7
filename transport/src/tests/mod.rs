//! Two ends of a connection in memory, with as much room as a test gives them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;

use crate::{Received, Socket};

/// One direction between two ends: bytes on their way, at most `room` of them, and whether no more will come.
pub(crate) struct Pipe {
    pub(crate) bytes: VecDeque<u8>,
    pub(crate) room: usize,
    pub(crate) is_ended: bool,
}

/// One end of a connection.
pub(crate) struct End {
    pub(crate) from: Rc<RefCell<Pipe>>,
    pub(crate) to: Rc<RefCell<Pipe>>,
}

impl Socket for End {
    fn recv(&self, buffer: &mut BytesMut, max: usize) -> io::Result<Received> {
        let mut pipe = self.from.borrow_mut();
        let count = pipe.bytes.len().min(max);
        if count == 0 {
            let is_ended = pipe.is_ended && pipe.bytes.is_empty();
            return Ok(if is_ended {
                Received::End
            } else {
                Received::Nothing
            });
        }
        buffer.extend(pipe.bytes.drain(..count));
        Ok(Received::Bytes(count))
    }

    fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut pipe = self.to.borrow_mut();
        let room = pipe.room.saturating_sub(pipe.bytes.len());
        let before = pipe.bytes.len();
        let all = slices.iter().flat_map(|slice| slice.iter().copied());
        pipe.bytes.extend(all.take(room));
        Ok(pipe.bytes.len() - before)
    }

    // The tests poll both ends in turn, so nothing has to be woken.
    fn poll_readable(&self, _: &mut Context<'_>) -> Poll<()> {
        let pipe = self.from.borrow();
        match pipe.bytes.is_empty() && !pipe.is_ended {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<()> {
        let pipe = self.to.borrow();
        match pipe.bytes.len() < pipe.room {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// Two connected ends; the pipes from the first and from the second have this much room.
pub(crate) fn ends(rooms: (usize, usize)) -> (End, End) {
    let pipe = |room| {
        Rc::new(RefCell::new(Pipe {
            bytes: VecDeque::new(),
            room,
            is_ended: false,
        }))
    };
    let (one, other) = (pipe(rooms.0), pipe(rooms.1));
    let far = End {
        from: Rc::clone(&one),
        to: Rc::clone(&other),
    };
    (
        End {
            from: other,
            to: one,
        },
        far,
    )
}

/// Polls both futures in turn until both are ready.
pub(crate) fn both<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> (A, B) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (mut first, mut second) = (None, None);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..1_000_000 {
        if first.is_none()
            && let Poll::Ready(value) = one.as_mut().poll(&mut cx)
        {
            first = Some(value);
        }
        if second.is_none()
            && let Poll::Ready(value) = other.as_mut().poll(&mut cx)
        {
            second = Some(value);
        }
        if first.is_some() && second.is_some() {
            break;
        }
    }
    (
        first.expect("the first end waits for ever"),
        second.expect("the second end waits for ever"),
    )
}

/// Bytes without a short period.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let byte = |at| u8::try_from((at * 7 + at / 251) % 256).unwrap();
    (0..len).map(byte).collect()
}
