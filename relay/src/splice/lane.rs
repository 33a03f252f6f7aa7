//! The two directions of a session over a lane: the kernel moves the bytes, the link says what their ends mean.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tieline_wire::SessionEnd;

use super::{FLUSH_TIMEOUT, Failure, frontend_failed};
use crate::io::{Pipe, Received, Socket, sleep, timeout};
use crate::session::{Lane, Session};

/// Bytes that one direction moves before its shard polls other tasks.
const TURN_BYTES: usize = 256 * 1024;

/// Time for the link to say why a lane broke, since both ends of the lane notice.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which socket of a direction failed.
enum Broken {
    From(io::Error),
    To(io::Error),
}

/// Moves what the frontend sends to the lane, until the frontend's direction ends or the session is reset.
pub(super) async fn upward(
    socket: &Socket,
    session: &Session,
    lane: Rc<Lane>,
    unread: &Cell<bool>,
) -> Result<(), Failure> {
    let Some(mut pipe) = lane.up.take() else {
        return Ok(());
    };
    socket.set_nonblocking().map_err(frontend_failed)?;
    if !session.move_to_lane() {
        return Ok(());
    }
    let sent = |count| session.lane_sent(count);
    let carried = {
        let carrying = carry(socket, &lane.socket, &mut pipe, unread, sent);
        unless_reset(carrying, session).await
    };
    lane.put(pipe);
    match carried {
        None => {
            // The other direction returns the reason. The agent reads the lane up to this end.
            lane.socket.finish();
            Ok(())
        }
        Some(Ok(())) => {
            lane.socket.finish();
            session.finish();
            Ok(())
        }
        Some(Err(Broken::From(error))) => Err(frontend_failed(error)),
        Some(Err(Broken::To(_))) => {
            // A reset of the session ends this task; without one the lane itself failed.
            sleep(VERDICT_TIMEOUT).await;
            Err(Failure::Lane)
        }
    }
}

/// Moves what the target sends to the frontend, until the lane ends; `session` then tells what the end means.
pub(super) async fn downward(
    socket: &Socket,
    session: &Session,
    lane: Rc<Lane>,
) -> Result<(), Failure> {
    let Some(mut pipe) = lane.down.take() else {
        return Ok(());
    };
    socket.set_nonblocking().map_err(frontend_failed)?;
    let total = Cell::new(0);
    let received = |count: usize| {
        total.set(total.get() + count as u64);
        session.lane_received(count);
    };
    let carried = {
        let nobody_looks = Cell::new(false);
        let carrying = carry(&lane.socket, socket, &mut pipe, &nobody_looks, received);
        until_reset(carrying, session).await
    };
    lane.put(pipe);
    match carried {
        // The session was reset, and the bytes on their way have arrived or took too long.
        None => Ok(()),
        Some(Ok(())) => {
            session.lane_ended(total.get());
            Ok(())
        }
        Some(Err(Broken::To(error))) => Err(frontend_failed(error)),
        Some(Err(Broken::From(_))) => {
            let reset = pin!(session.reset_by_agent());
            match timeout(VERDICT_TIMEOUT, reset).await {
                Ok(_) => Ok(()),
                Err(_) => Err(Failure::Lane),
            }
        }
    }
}

/// Runs `carrying` to its end; `None` as soon as the session is reset.
async fn unless_reset<T>(carrying: impl Future<Output = T>, session: &Session) -> Option<T> {
    let mut carrying = pin!(carrying);
    let mut stopped = pin!(session.stopped());
    // The reset is checked first: after it, the target gets no byte more.
    std::future::poll_fn(|cx| match stopped.as_mut().poll(cx) {
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => carrying.as_mut().poll(cx).map(Some),
    })
    .await
}

/// Runs `carrying` to its end; after a reset of the session, for [`FLUSH_TIMEOUT`] at most.
async fn until_reset<T>(carrying: impl Future<Output = T>, session: &Session) -> Option<T> {
    let mut carrying = pin!(carrying);
    let mut reset = pin!(session.reset_by_agent());
    let done = std::future::poll_fn(|cx| match carrying.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => reset.as_mut().poll(cx).map(|_: SessionEnd| None),
    })
    .await;
    match done {
        Some(done) => Some(done),
        None => timeout(FLUSH_TIMEOUT, carrying).await.ok(),
    }
}

/// Moves bytes until `from` ends. Calls `taken` with each count of bytes that `to` took; sets `unread` while it waits
/// for `to` and does not read `from`.
async fn carry(
    from: &Socket,
    to: &Socket,
    pipe: &mut Pipe,
    unread: &Cell<bool>,
    taken: impl Fn(usize),
) -> Result<(), Broken> {
    let mut turn = 0;
    loop {
        match pipe.fill(from).map_err(Broken::From)? {
            Received::Bytes(count) => turn += count,
            Received::End => return Ok(()),
            Received::Nothing => {
                from.readable().await;
                turn = 0;
                continue;
            }
        }
        while !pipe.is_empty() {
            let count = pipe.drain(to).map_err(Broken::To)?;
            if count > 0 {
                taken(count);
            } else {
                unread.set(true);
                to.writable().await;
                unread.set(false);
                turn = 0;
            }
        }
        if turn >= TURN_BYTES {
            from.readable_next_turn().await;
            turn = 0;
        }
    }
}
