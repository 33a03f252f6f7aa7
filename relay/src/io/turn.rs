//! A turn for everybody else: no task may go on and on because its own I/O is always ready.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::task::Context;
use std::time::Duration;

use monoio::net::TcpStream;
use rustix::event::{EventfdFlags, eventfd};

/// Waits in a row that may be over at once before everybody else gets a turn.
const AT_ONCE_MAX: u8 = 8;

/// Waits until the driver has looked at all I/O, and at the timers.
///
/// Waking oneself would not do: monoio looks at timers only when no task is runnable. And on the
/// epoll driver a descriptor that was ready once is taken for ready without asking epoll again, so
/// the wait needs one that epoll has not reported yet.
pub(crate) async fn turn() {
    let waited = async {
        let fd: OwnedFd = eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        TcpStream::from_std(fd.into())?.readable(false).await
    };
    let waited: io::Result<()> = waited.await;
    if waited.is_err() {
        // Out of descriptors: a timer takes longer, but needs none.
        monoio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Wakes a task behind all that were woken before. A task that wakes itself would be the next to
/// run (monoio, `LocalScheduler::yield_now`), so another one does it.
pub(crate) fn wake_behind_others(cx: &Context<'_>) {
    let waker = cx.waker().clone();
    monoio::spawn(async move { waker.wake() });
}

/// Counts the waits that were over at once, one after the other.
#[derive(Debug, Default)]
pub(super) struct AtOnce(std::cell::Cell<u8>);

impl AtOnce {
    /// The next wait gives others a turn, also if it is over at once.
    pub(super) fn spend(&self) {
        self.0.set(AT_ONCE_MAX);
    }

    /// Waits for `what`; if it never has to wait, others get a turn now and then. On the ring every
    /// wait is a turn.
    pub(super) async fn fairly<T>(&self, what: impl Future<Output = T>) -> T {
        let mut what = pin!(what);
        let mut waited = false;
        let outcome = poll_fn(|cx| {
            let outcome = what.as_mut().poll(cx);
            waited |= outcome.is_pending();
            outcome
        })
        .await;
        if waited {
            self.0.set(0);
        } else if self.0.get() < AT_ONCE_MAX {
            self.0.set(self.0.get() + 1);
        } else {
            self.0.set(0);
            // Boxed: it is rare, and every wait of every socket would have room for it.
            Box::pin(turn()).await;
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::io::{Chosen, Socket, choose, pair, run};

    /// A task that only ever runs when the driver looks at its timers.
    fn ticks() -> Rc<Cell<u32>> {
        let ticks = Rc::new(Cell::new(0));
        let ticking = Rc::clone(&ticks);
        monoio::spawn(async move {
            loop {
                monoio::time::sleep(Duration::from_millis(1)).await;
                ticking.set(ticking.get() + 1);
            }
        });
        ticks
    }

    #[test]
    fn a_socket_that_is_always_ready_starves_nobody() {
        let (best, _) = choose(None).unwrap();
        for driver in [best, Chosen::Epoll] {
            let rounds = run(driver, async {
                let (ours, theirs) = pair().unwrap();
                let (ours, theirs) = (Socket::new(ours).unwrap(), Socket::new(theirs).unwrap());
                assert_eq!(theirs.send(b"x").unwrap(), 1);
                let ticks = ticks();
                let mut rounds = 0;
                while ticks.get() < 3 && rounds < 1_000_000 {
                    ours.readable().await.unwrap();
                    ours.writable().await.unwrap();
                    rounds += 1;
                }
                rounds
            });
            assert!(rounds.unwrap() < 1_000_000, "{driver:?}: no timer fired");
        }
    }

    #[test]
    fn a_turn_is_one_also_on_the_epoll_driver() {
        let (best, _) = choose(None).unwrap();
        for driver in [best, Chosen::Epoll] {
            let rounds = run(driver, async {
                let ticks = ticks();
                let mut rounds = 0;
                while ticks.get() < 3 && rounds < 1_000_000 {
                    turn().await;
                    rounds += 1;
                }
                rounds
            });
            assert!(rounds.unwrap() < 1_000_000, "{driver:?}: no timer fired");
        }
    }
}
