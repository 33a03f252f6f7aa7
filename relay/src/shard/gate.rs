//! Counts the tasks of a shard and stops them: nothing outlives its relay.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;

use crate::io::Signal;

/// Through which every task of a shard runs.
#[derive(Default)]
pub(crate) struct Gate {
    running: Cell<usize>,
    closed: Cell<bool>,
    /// One for each task that runs.
    waiters: RefCell<BTreeMap<u64, Waker>>,
    last: Cell<u64>,
    emptied: Signal,
    /// Raised by each task that runs, if somebody wants to know.
    ran: Signal,
    watched: Cell<bool>,
}

impl Gate {
    /// Starts a task. When the gate closes, the task is dropped where it stands.
    pub(crate) fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        if self.closed.get() {
            return;
        }
        self.running.set(self.running.get() + 1);
        self.last.set(self.last.get() + 1);
        let pass = Pass {
            gate: Rc::clone(self),
            number: self.last.get(),
        };
        monoio::spawn(Gated { pass, task });
    }

    /// Drops every task.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        for waker in waiters.into_values() {
            waker.wake();
        }
    }

    /// True once the gate is closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Polls every task, so that each sees what changed around it.
    pub(crate) fn nudge(&self) {
        let waiters: Vec<Waker> = self.waiters.borrow().values().cloned().collect();
        for waker in waiters {
            waker.wake();
        }
    }

    /// Waits until one of its tasks runs, or ran since the last time. For one waiter.
    pub(crate) async fn ran(&self) {
        self.watched.set(true);
        self.ran.wait().await;
    }

    /// Whether one of its tasks ran since the last time.
    pub(crate) fn take_ran(&self) -> bool {
        self.ran.take()
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
        if this.pass.gate.watched.get() {
            this.pass.gate.ran.raise();
        }
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
    number: u64,
}

impl Pass {
    fn poll_closed(&self, cx: &Context<'_>) -> bool {
        if self.gate.closed.get() {
            return true;
        }
        let mut waiters = self.gate.waiters.borrow_mut();
        match waiters.get_mut(&self.number) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => {
                waiters.insert(self.number, cx.waker().clone());
            }
        }
        false
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.waiters.borrow_mut().remove(&self.number);
        self.gate.running.set(self.gate.running.get() - 1);
        if self.gate.running.get() == 0 {
            self.gate.emptied.raise();
        }
    }
}
