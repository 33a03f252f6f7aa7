//! Lets wakers on any thread reach the thread that their task runs on.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Wake;

use async_task::Runnable;
use rustix::event::{EventfdFlags, eventfd};

use super::CURRENT;

/// What other threads need to wake tasks of a runtime's thread.
pub(super) struct Home {
    /// Tasks that other threads woke.
    woken: Mutex<Vec<Runnable>>,
    knocked: AtomicBool,
    bell: OwnedFd,
}

impl Home {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            woken: Mutex::default(),
            knocked: AtomicBool::new(false),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Eventfd that is readable after another thread knocked.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Schedules a task on its own thread.
    pub(super) fn schedule(home: &Arc<Self>, task: Runnable) {
        let mut task = Some(task);
        // Fails only while this thread exits, when its thread-locals and tasks are gone already.
        let _ = CURRENT.try_with(|current| {
            if let Some(runtime) = &*current.borrow()
                && Arc::ptr_eq(&runtime.home, home)
            {
                runtime.runnable.borrow_mut().extend(task.take());
            }
        });
        if let Some(task) = task {
            let mut woken = home.woken.lock().unwrap_or_else(PoisonError::into_inner);
            woken.push(task);
            drop(woken);
            home.knock();
        }
    }

    fn knock(&self) {
        self.knocked.store(true, Ordering::Release);
        // Fails only if the eventfd's counter is full; then a wake-up is pending anyway.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// Moves the tasks that other threads woke to `runnable`.
    pub(super) fn come_home(&self, runnable: &mut VecDeque<Runnable>) {
        if self.knocked.load(Ordering::Relaxed) && self.knocked.swap(false, Ordering::Acquire) {
            // Resets the eventfd's counter, so that it does not fill up.
            let _ = rustix::io::read(&self.bell, &mut [0; 8]);
            let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
            runnable.extend(woken.drain(..));
        }
    }
}

/// Waker of the main future, the one that [`super::run_spinning`] runs.
pub(super) struct Main {
    woken: AtomicBool,
    home: Arc<Home>,
}

impl Main {
    /// Starts as woken, so that the future is polled once.
    pub(super) const fn new(home: Arc<Home>) -> Self {
        let woken = AtomicBool::new(true);
        Self { woken, home }
    }

    pub(super) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }

    pub(super) fn take_woken(&self) -> bool {
        self.woken.swap(false, Ordering::AcqRel)
    }
}

impl Wake for Main {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        let is_here = CURRENT.try_with(|current| {
            let current = current.borrow();
            current
                .as_ref()
                .is_some_and(|it| Arc::ptr_eq(&it.home, &self.home))
        });
        if !is_here.unwrap_or(false) {
            self.home.knock();
        }
    }
}
