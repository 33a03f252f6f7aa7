//! Where wakers find the thread of their tasks, from whichever thread they are used.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Wake;

use async_task::Runnable;
use rustix::event::{EventfdFlags, eventfd};

use super::CURRENT;

/// A thread that runs tasks, as others see it.
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

    /// Readable when another thread knocked.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Lets a task run on its thread.
    pub(super) fn schedule(home: &Arc<Self>, task: Runnable) {
        let mut task = Some(task);
        // It fails only where the thread's own variables are gone, and its tasks with them.
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
        // It fails only when 2^64 knocks were not heard, and then one of them will do.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// Takes over what other threads woke.
    pub(super) fn come_home(&self, runnable: &mut VecDeque<Runnable>) {
        if self.knocked.load(Ordering::Relaxed) && self.knocked.swap(false, Ordering::Acquire) {
            // Only so that the count never stands in the way of a knock.
            let _ = rustix::io::read(&self.bell, &mut [0; 8]);
            let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
            runnable.extend(woken.drain(..));
        }
    }
}

/// The future that [`super::run_spinning`] was given.
pub(super) struct Main {
    woken: AtomicBool,
    home: Arc<Home>,
}

impl Main {
    /// Woken for its first turn.
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
