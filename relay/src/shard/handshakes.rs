//! Places of the TLS handshakes on a shard. A client that has not sent its whole hello yet loses its place to a newer
//! client if there is no other: silence must not keep others out.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use crate::io::turn;

/// Handshakes of one shard at a time. Each may hold up to 64 KiB of a client's handshake.
const HANDSHAKES_MAX: usize = 512;

/// The handshakes of one shard.
pub(super) struct Handshakes {
    open: Cell<usize>,
    /// Those whose client has not sent its whole hello, the oldest first; each is told when it loses its place.
    silent: RefCell<BTreeMap<u64, oneshot::Sender<()>>>,
    /// Number of the next handshake.
    next: Cell<u64>,
    /// Permit to answer a client's hello: one at a time.
    answers: Semaphore,
}

impl Default for Handshakes {
    fn default() -> Self {
        Self {
            open: Cell::new(0),
            silent: RefCell::default(),
            next: Cell::new(0),
            answers: Semaphore::new(1),
        }
    }
}

impl Handshakes {
    /// Takes a place, that of the client that is silent for longest if no other is free; `None` if none is.
    pub(super) fn enter(self: &Rc<Self>) -> Option<Handshake> {
        if self.open.get() >= HANDSHAKES_MAX {
            let (_, oldest) = self.silent.borrow_mut().pop_first()?;
            // The handshake may have ended by itself in this turn.
            let _ = oldest.send(());
        }
        let (sender, lost) = oneshot::channel();
        let number = self.next.replace(self.next.get() + 1);
        self.silent.borrow_mut().insert(number, sender);
        self.open.set(self.open.get() + 1);
        Some(Handshake {
            all: Rc::clone(self),
            number,
            lost: RefCell::new(Some(lost)),
        })
    }
}

/// The place of one handshake; free again once it is dropped.
pub(super) struct Handshake {
    all: Rc<Handshakes>,
    number: u64,
    lost: RefCell<Option<oneshot::Receiver<()>>>,
}

impl Handshake {
    /// Runs `handshake` to its end; `None` as soon as its place is lost.
    pub(super) async fn run<T>(&self, handshake: impl Future<Output = T>) -> Option<T> {
        let mut handshake = std::pin::pin!(handshake);
        poll_fn(|cx| {
            let mut lost = self.lost.borrow_mut();
            match lost.as_mut().map(|lost| Pin::new(lost).poll(cx)) {
                Some(Poll::Ready(Ok(()))) => return Poll::Ready(None),
                // The hello is whole.
                Some(Poll::Ready(Err(_))) => *lost = None,
                Some(Poll::Pending) | None => {}
            }
            drop(lost);
            handshake.as_mut().poll(cx).map(Some)
        })
        .await
    }

    /// Waits until a hello of the client may be answered: after all sessions had a turn, and while no other hello is
    /// answered. The client's first hello is whole now, so from now on the handshake cannot lose its place to a newer
    /// client.
    pub(super) async fn may_answer(&self) -> Option<SemaphorePermit<'_>> {
        self.all.silent.borrow_mut().remove(&self.number);
        // The semaphore is never closed.
        let permit = self.all.answers.acquire().await.ok();
        turn().await;
        permit
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.all.silent.borrow_mut().remove(&self.number);
        self.all.open.set(self.all.open.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;
    use crate::io::{Chosen, run};

    #[test]
    fn silent_clients_lose_their_places_to_newer_ones_and_others_keep_them() {
        run(Chosen::Epoll, async {
            let all = Rc::new(Handshakes::default());
            let mut cx = Context::from_waker(Waker::noop());
            let places: Vec<_> = (0..HANDSHAKES_MAX).map(|_| all.enter().unwrap()).collect();
            // The first two have sent their hellos; only one is answered at a time.
            let answers: Vec<_> = places[..2].iter().map(Handshake::may_answer).collect();
            let mut answers: Vec<_> = answers.into_iter().map(Box::pin).collect();
            for answer in &mut answers {
                assert!(answer.as_mut().poll(&mut cx).is_pending());
            }
            let newer = all.enter().unwrap();
            for (at, place) in places.iter().enumerate().take(4) {
                let mut running = pin!(place.run(pending::<()>()));
                let is_lost = running.as_mut().poll(&mut cx) == Poll::Ready(None);
                assert_eq!(is_lost, at == 2, "{at}");
            }
            {
                let mut done = pin!(newer.run(ready(7)));
                assert_eq!(done.as_mut().poll(&mut cx), Poll::Ready(Some(7)));
            }
            drop(answers);
            drop(places);
            drop(newer);
            assert_eq!(all.open.get(), 0);
            assert!(all.silent.borrow().is_empty());
        })
        .unwrap();
    }
}
