//! A wake-up flag for one task; polling it costs next to nothing when the task runs for another reason.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Wake-up flag that any thread can set and one task at a time waits for. A ring without a waiting task is kept;
/// several rings before the next wait count as one.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: AtomicBool,
    listener: Mutex<Option<Waker>>,
}

impl Bell {
    pub(crate) fn ring(&self) {
        // If the flag is already set, the earlier ring woke the listener, or the listener has yet to poll.
        if !self.rung.swap(true, Ordering::AcqRel)
            && let Some(waker) = &*self.listener()
        {
            waker.wake_by_ref();
        }
    }

    /// Forgets a ring that nothing has waited for yet.
    pub(crate) fn hush(&self) {
        self.rung.store(false, Ordering::Release);
    }

    /// Waits for a ring; ready at once if the bell rang since the last wait.
    pub(crate) const fn heard(&self) -> Heard<'_> {
        Heard {
            bell: self,
            listener: None,
        }
    }

    fn listener(&self) -> MutexGuard<'_, Option<Waker>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The future of [`Bell::heard`].
#[derive(Debug)]
pub(crate) struct Heard<'a> {
    bell: &'a Bell,
    /// Waker that the bell holds for this future: while it stays the same, a poll takes no lock.
    listener: Option<Waker>,
}

impl Future for Heard<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let bell = self.bell;
        let waker = context.waker();
        let known = self.listener.as_ref();
        if !known.is_some_and(|known| known.will_wake(waker)) {
            // Registers before the flag is read, so that no ring is missed in between.
            self.listener = Some(waker.clone());
            *bell.listener() = Some(waker.clone());
        }
        if bell.rung.load(Ordering::Acquire) && bell.rung.swap(false, Ordering::AcqRel) {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;
    use std::thread;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn several_rings_wake_once_and_are_heard_once() {
        let (bell, wakes) = (Bell::default(), Arc::new(Wakes::default()));
        let waker = Waker::from(Arc::clone(&wakes));
        let mut context = Context::from_waker(&waker);
        let mut heard = bell.heard();
        for round in 1..=3 {
            assert!(Pin::new(&mut heard).poll(&mut context).is_pending());
            bell.ring();
            bell.ring();
            assert_eq!(wakes.0.load(Ordering::Relaxed), round);
            assert!(Pin::new(&mut heard).poll(&mut context).is_ready());
        }
    }

    #[test]
    fn a_ring_that_nobody_waited_for_is_kept() {
        let bell = Bell::default();
        bell.ring();
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut bell.heard()).poll(&mut context).is_ready());
        assert!(Pin::new(&mut bell.heard()).poll(&mut context).is_pending());
    }

    #[tokio::test]
    async fn what_was_done_before_a_ring_is_seen_whoever_rings() {
        const EACH: usize = 20_000;
        let (bell, done) = (Bell::default(), AtomicUsize::new(0));
        let (bell, done) = (Arc::new(bell), Arc::new(done));
        let ringers = [(); 2].map(|()| {
            let (bell, done) = (Arc::clone(&bell), Arc::clone(&done));
            thread::spawn(move || {
                for _ in 0..EACH {
                    done.fetch_add(1, Ordering::Relaxed);
                    bell.ring();
                }
            })
        });
        while done.load(Ordering::Relaxed) < 2 * EACH {
            bell.heard().await;
        }
        for ringer in ringers {
            ringer.join().unwrap();
        }
    }
}
