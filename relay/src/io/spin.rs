//! Polls the driver instead of sleeping in it.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;

use super::waker::{Parker, Waker};

/// Passes through the driver that do not sleep.
///
/// monoio has no setting for this and takes no driver of ours, and a task that wakes itself would
/// keep timers from firing. So a pass waits for an event that it raises itself once it waits: the
/// driver takes in what is ready, timers included, and comes back at once. That is three system
/// calls on the ring and four on epoll.
pub(crate) struct Spin {
    waker: Waker,
    parker: Parker,
}

impl Spin {
    pub(crate) fn new() -> io::Result<Self> {
        let waker = Waker::new()?;
        let parker = waker.parker()?;
        Ok(Self { waker, parker })
    }

    /// One pass; whatever became ready by it runs before the next one.
    pub(crate) async fn pass(&self) -> io::Result<()> {
        let mut parked = pin!(self.parker.park());
        let mut raised = false;
        poll_fn(|cx| {
            let outcome = parked.as_mut().poll(cx);
            // On epoll only an event that comes after the wait has begun is one.
            if outcome.is_pending() && !std::mem::replace(&mut raised, true) {
                self.waker.wake();
            }
            outcome
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::io::{Chosen, Socket, choose, pair, run};

    #[test]
    fn timers_fire_and_bytes_arrive_while_a_shard_spins() {
        let (best, _) = choose(None).unwrap();
        for driver in [best, Chosen::Epoll] {
            let passes = run(driver, async {
                let (ours, theirs) = pair().unwrap();
                let (ours, theirs) = (Socket::new(ours).unwrap(), Socket::new(theirs).unwrap());
                let heard = Rc::new(Cell::new(false));
                let hearing = Rc::clone(&heard);
                monoio::spawn(async move {
                    ours.readable().await.unwrap();
                    hearing.set(true);
                });
                monoio::spawn(async move {
                    monoio::time::sleep(Duration::from_millis(5)).await;
                    assert_eq!(theirs.send(b"x").unwrap(), 1);
                });
                let (spin, started, mut passes) = (Spin::new().unwrap(), Instant::now(), 0_u32);
                while !heard.get() {
                    spin.pass().await.unwrap();
                    passes += 1;
                    assert!(started.elapsed() < Duration::from_secs(10), "{driver:?}");
                }
                passes
            });
            // None of them slept until the timer.
            assert!(passes.unwrap() > 10, "{driver:?}");
        }
    }
}
