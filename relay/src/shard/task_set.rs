//! Counts the tasks of a shard and stops them, so that no task outlives its relay.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;
use slab::Slab;

use crate::io::{Signal, spawn};

/// The set of a shard's tasks.
#[derive(Default)]
pub(crate) struct TaskSet {
    running: Cell<usize>,
    closed: Cell<bool>,
    /// Waker of each task that was polled at least once.
    waiters: RefCell<Slab<Waker>>,
    emptied: Signal,
}

impl TaskSet {
    /// Starts a task. When the set closes, the task is dropped at its next poll.
    pub(crate) fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        if self.closed.get() {
            return;
        }
        self.running.set(self.running.get() + 1);
        let entry = TaskEntry {
            tasks: Rc::clone(self),
            place: Cell::new(None),
        };
        spawn(SetTask { entry, task }).detach();
    }

    /// Drops every task, and every later one.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        for (_, waker) in waiters {
            waker.wake();
        }
    }

    /// Wakes every task, so that each one notices a change of shared state.
    pub(crate) fn nudge(&self) {
        let waiters: Vec<Waker> = {
            let waiters = self.waiters.borrow();
            waiters.iter().map(|(_, waker)| waker.clone()).collect()
        };
        for waker in waiters {
            waker.wake();
        }
    }

    /// Number of tasks that have not ended.
    pub(crate) fn running(&self) -> usize {
        self.running.get()
    }

    /// Waits until no task runs.
    pub(crate) async fn empty(&self) {
        while self.running.get() > 0 {
            self.emptied.wait().await;
        }
    }
}

pin_project! {
    /// A task of the set. Written by hand because an async block would hold the task twice: as argument and as
    /// pinned local. A session's task is most of the memory that a session takes.
    struct SetTask<T> {
        entry: TaskEntry,
        #[pin]
        task: T,
    }
}

impl<T: Future<Output = ()>> Future for SetTask<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.entry.poll_closed(cx) {
            Poll::Ready(())
        } else {
            this.task.poll(cx)
        }
    }
}

/// One task's entry in its set.
struct TaskEntry {
    tasks: Rc<TaskSet>,
    /// Index of the task's waker, which stays the same for the task's whole life.
    place: Cell<Option<usize>>,
}

impl TaskEntry {
    fn poll_closed(&self, cx: &Context<'_>) -> bool {
        if self.tasks.closed.get() {
            return true;
        }
        if self.place.get().is_none() {
            let mut waiters = self.tasks.waiters.borrow_mut();
            self.place.set(Some(waiters.insert(cx.waker().clone())));
        }
        false
    }
}

impl Drop for TaskEntry {
    fn drop(&mut self) {
        if let Some(place) = self.place.get() {
            // Absent once the set has closed. Dropped after the borrow ends.
            let waker = self.tasks.waiters.borrow_mut().try_remove(place);
            drop(waker);
        }
        self.tasks.running.set(self.tasks.running.get() - 1);
        if self.tasks.running.get() == 0 {
            self.tasks.emptied.raise();
        }
    }
}
