//! Counts the tasks of a shard and stops them: nothing outlives its relay.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;
use slab::Slab;

use crate::io::{Signal, spawn};

/// Through which every task of a shard runs.
#[derive(Default)]
pub(crate) struct Gate {
    running: Cell<usize>,
    closed: Cell<bool>,
    /// One for each task that ran once.
    waiters: RefCell<Slab<Waker>>,
    emptied: Signal,
}

impl Gate {
    /// Starts a task. When the gate closes, the task is dropped where it stands.
    pub(crate) fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        if self.closed.get() {
            return;
        }
        self.running.set(self.running.get() + 1);
        let pass = Pass {
            gate: Rc::clone(self),
            place: Cell::new(None),
        };
        spawn(Gated { pass, task }).detach();
    }

    /// Drops every task.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        for (_, waker) in waiters {
            waker.wake();
        }
    }

    /// Polls every task, so that each sees what changed around it.
    pub(crate) fn nudge(&self) {
        let waiters: Vec<Waker> = {
            let waiters = self.waiters.borrow();
            waiters.iter().map(|(_, waker)| waker.clone()).collect()
        };
        for waker in waiters {
            waker.wake();
        }
    }

    /// Tasks that run.
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
    /// A task behind the gate. By hand, because an async block would hold the task twice: as what
    /// it was given and as what it pins. A session's task is most of what a session costs.
    struct Gated<T> {
        pass: Pass,
        #[pin]
        task: T,
    }
}

impl<T: Future<Output = ()>> Future for Gated<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.pass.poll_closed(cx) {
            Poll::Ready(())
        } else {
            this.task.poll(cx)
        }
    }
}

/// One task's way through the gate.
struct Pass {
    gate: Rc<Gate>,
    /// Where its waker is. A task has the same one all its life.
    place: Cell<Option<usize>>,
}

impl Pass {
    fn poll_closed(&self, cx: &Context<'_>) -> bool {
        if self.gate.closed.get() {
            return true;
        }
        if self.place.get().is_none() {
            let mut waiters = self.gate.waiters.borrow_mut();
            self.place.set(Some(waiters.insert(cx.waker().clone())));
        }
        false
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(place) = self.place.get() {
            // Nothing is there once the gate has closed. Dropped behind the borrow.
            let waker = self.gate.waiters.borrow_mut().try_remove(place);
            drop(waker);
        }
        self.gate.running.set(self.gate.running.get() - 1);
        if self.gate.running.get() == 0 {
            self.gate.emptied.raise();
        }
    }
}
