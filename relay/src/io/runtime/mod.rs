//! The runtime of one thread: runs tasks, and between them handles what the driver reports as ready.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker as TaskWaker};
use std::time::{Duration, Instant};

use async_task::{Runnable, Task};
use slab::Slab;
use tracing::warn;

use super::driver::{Chosen, Driver, Interest, Ready};
use super::readiness::Slot;
use super::timer::{Timers, sleep};

mod home;

use home::{Home, Main};

/// Tasks that run before the driver is polled again.
const TASKS_A_TURN: usize = 256;

/// Interval at which an otherwise idle runtime asks a driver again that had no room for a descriptor, and
/// shortest interval between two log lines about it.
const REWATCH_PAUSE: Duration = Duration::from_millis(50);
const REWATCH_WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Delay before a second read of sockets whose read may have stopped before urgent data, and the number of
/// these reads per turn.
const SECOND_LOOK: Duration = Duration::from_secs(1);
const SECOND_LOOKS_A_TURN: usize = 64;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Runtime>>> = const { RefCell::new(None) };
}

/// Busy polling: polls the driver for a while before sleeping in it.
pub(crate) struct Spin<'a> {
    /// Polling time after the last task that ran.
    pub(crate) limit: Duration,
    /// Called on each pass.
    pub(crate) passed: &'a dyn Fn(),
}

/// [`run_spinning`] without busy polling.
#[cfg(test)]
pub(crate) fn run<F: Future>(driver: Chosen, future: F) -> io::Result<F::Output> {
    let spin = Spin {
        limit: Duration::ZERO,
        passed: &|| {},
    };
    run_spinning(driver, &spin, future)
}

/// Runs a future, and all tasks that it spawns, on this thread. Tasks left when the future ends are dropped,
/// unless nothing can wake them.
///
/// # Errors
/// If the driver fails.
pub(crate) fn run_spinning<F: Future>(
    driver: Chosen,
    spin: &Spin<'_>,
    future: F,
) -> io::Result<F::Output> {
    let runtime = Entered::new(driver)?;
    let main = Arc::new(Main::new(Arc::clone(&runtime.0.home)));
    let waker = TaskWaker::from(Arc::clone(&main));
    let mut future = pin!(future);
    let mut ready = Vec::new();
    let mut awake_until = None;
    loop {
        let mut ran = main.take_woken();
        if ran && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Ok(output);
        }
        ran |= runtime.0.run_tasks();
        let mut timeout = runtime.0.idle_time(&main);
        if !spin.limit.is_zero() && timeout != Some(Duration::ZERO) {
            let now = Instant::now();
            if ran {
                awake_until = Some(now + spin.limit);
            }
            if awake_until.is_some_and(|until| now < until) {
                (spin.passed)();
                std::hint::spin_loop();
                timeout = Some(Duration::ZERO);
            }
        }
        runtime.0.turn(timeout, &mut ready)?;
    }
}

/// Spawns a task on this thread.
pub(crate) fn spawn<F: Future + 'static>(future: F) -> Task<F::Output>
where
    F::Output: 'static,
{
    let home = Arc::clone(&Runtime::current().home);
    let (runnable, task) = async_task::spawn_local(future, move |task| Home::schedule(&home, task));
    runnable.schedule();
    task
}

/// Wakes the readers that are due for a second read.
async fn second_looks() {
    sleep(SECOND_LOOK).await;
    let runtime = Runtime::current();
    let keys = runtime.second_looks.take();
    for keys in keys.chunks(SECOND_LOOKS_A_TURN) {
        for slot in keys.iter().filter_map(|key| runtime.slot(*key)) {
            slot.look_again();
        }
        turn().await;
    }
}

/// Waits until the driver was polled and due timers have fired.
pub(crate) async fn turn() {
    let runtime = Runtime::current();
    let begun = runtime.turns.get();
    poll_fn(|cx| {
        if runtime.turns.get() != begun {
            return Poll::Ready(());
        }
        runtime.wake_next_turn(cx);
        Poll::Pending
    })
    .await;
}

/// One thread's tasks, timers and watched descriptors.
pub(super) struct Runtime {
    runnable: RefCell<VecDeque<Runnable>>,
    /// Tasks to wake after the driver was polled.
    next_turn: RefCell<Vec<TaskWaker>>,
    /// Number of times that the driver was polled.
    turns: Cell<u32>,
    home: Arc<Home>,
    pub(super) timers: RefCell<Timers>,
    watched: RefCell<Slab<Watched>>,
    /// Serial number that makes the keys of successive entries at one place in `watched` different.
    serial: Cell<u32>,
    /// Keys of descriptors that the driver stopped watching.
    unwatched: RefCell<Vec<u64>>,
    /// Time from which the log may report again that the driver has no room.
    next_warning: Cell<Option<Instant>>,
    /// Keys of descriptors whose reads are due for a second try.
    second_looks: RefCell<Vec<u64>>,
    driver: RefCell<Driver>,
}

struct Watched {
    key: u64,
    fd: RawFd,
    ways: Interest,
    slot: Rc<Slot>,
}

impl Runtime {
    /// The runtime of this thread.
    ///
    /// # Panics
    /// If called outside [`run_spinning`].
    pub(super) fn current() -> Rc<Self> {
        CURRENT.with_borrow(|current| {
            let current = current.as_ref();
            Rc::clone(current.expect("sockets and tasks belong to a thread that runs them"))
        })
    }

    /// Runs runnable tasks, at most [`TASKS_A_TURN`]; false if there were none.
    fn run_tasks(&self) -> bool {
        for count in 0..TASKS_A_TURN {
            let Some(task) = self.runnable.borrow_mut().pop_front() else {
                return count > 0;
            };
            task.run();
        }
        true
    }

    /// How long the driver may sleep; `None` for no limit.
    fn idle_time(&self, main: &Main) -> Option<Duration> {
        let is_busy = !self.runnable.borrow().is_empty()
            || !self.next_turn.borrow().is_empty()
            || main.is_woken();
        if is_busy {
            return Some(Duration::ZERO);
        }
        let timer = self.timers.borrow().next();
        let timer = timer.map(|at| at.saturating_duration_since(Instant::now()));
        if self.unwatched.borrow().is_empty() {
            return timer;
        }
        Some(timer.map_or(REWATCH_PAUSE, |timer| timer.min(REWATCH_PAUSE)))
    }

    /// Polls the driver and the timers, and wakes the tasks concerned.
    fn turn(&self, timeout: Option<Duration>, ready: &mut Vec<(u64, Ready)>) -> io::Result<()> {
        for key in self.unwatched.take() {
            self.rewatch(key);
        }
        self.driver.borrow_mut().wait(timeout, ready)?;
        for (key, ready) in ready.drain(..) {
            let slot = self.slot(key);
            if let Some(slot) = slot {
                slot.rise(ready);
                if ready.disarmed {
                    self.unwatched.borrow_mut().push(key);
                }
            }
        }
        self.home.come_home(&mut self.runnable.borrow_mut());
        let has_timers = self.timers.borrow().next().is_some();
        if has_timers {
            let now = Instant::now();
            while let Some(waker) = { self.timers.borrow_mut().take_due(now) } {
                waker.wake();
            }
        }
        self.turns.set(self.turns.get().wrapping_add(1));
        for waker in self.next_turn.take() {
            waker.wake();
        }
        Ok(())
    }

    /// Wakes the task after the driver was next polled.
    pub(super) fn wake_next_turn(&self, cx: &Context<'_>) {
        self.next_turn.borrow_mut().push(cx.waker().clone());
    }

    /// Number of the current turn.
    pub(super) fn turn_number(&self) -> u32 {
        self.turns.get()
    }

    /// Watches a descriptor from now on, or as soon as the driver has room for it.
    pub(super) fn watch(&self, fd: BorrowedFd<'_>, ways: Interest, slot: Rc<Slot>) -> u64 {
        let mut watched = self.watched.borrow_mut();
        let entry = watched.vacant_entry();
        let serial = self.serial.get().wrapping_add(1);
        self.serial.set(serial);
        // A process cannot have 2^32 descriptors.
        let place = u32::try_from(entry.key()).unwrap_or(u32::MAX);
        let key = u64::from(serial) << 32 | u64::from(place);
        self.ask_to_watch(fd, ways, key);
        entry.insert(Watched {
            key,
            fd: fd.as_raw_fd(),
            ways,
            slot,
        });
        key
    }

    /// Index of `key` in `watched`, where another key may be by now.
    fn place(key: u64) -> usize {
        // The lower half of a key is its index.
        usize::try_from(key & u64::from(u32::MAX)).unwrap_or(usize::MAX)
    }

    fn slot(&self, key: u64) -> Option<Rc<Slot>> {
        let watched = self.watched.borrow();
        let it = watched.get(Self::place(key)).filter(|it| it.key == key)?;
        Some(Rc::clone(&it.slot))
    }

    fn rewatch(&self, key: u64) {
        let watched = self.watched.borrow();
        let Some(it) = watched.get(Self::place(key)).filter(|it| it.key == key) else {
            return;
        };
        // SAFETY: a `Readiness` keeps its descriptor open until it has called `forget`, which removes
        // the entry from `watched`.
        let fd = unsafe { BorrowedFd::borrow_raw(it.fd) };
        self.ask_to_watch(fd, it.ways, key);
    }

    /// Asks the driver to watch a descriptor; if the driver has no room, it is asked again later.
    fn ask_to_watch(&self, fd: BorrowedFd<'_>, ways: Interest, key: u64) {
        let Err(error) = self.driver.borrow_mut().watch(fd, ways, key) else {
            return;
        };
        self.unwatched.borrow_mut().push(key);
        let now = Instant::now();
        let due = self.next_warning.get().is_none_or(|at| at <= now);
        if due {
            self.next_warning.set(Some(now + REWATCH_WARN_INTERVAL));
            warn!(%error, "the kernel cannot watch more descriptors for this shard for now; some connections hang");
        }
    }

    /// Schedules another read of `key`, even if the driver reports nothing new.
    pub(super) fn look_again(&self, key: u64) {
        let mut keys = self.second_looks.borrow_mut();
        keys.push(key);
        if keys.len() == 1 {
            drop(keys);
            spawn(second_looks()).detach();
        }
    }

    /// Stops watching a descriptor, which is still open.
    pub(super) fn forget(&self, fd: BorrowedFd<'_>, key: u64, closes: bool) {
        let gone = self.watched.borrow_mut().try_remove(Self::place(key));
        self.driver.borrow_mut().forget(fd, key, closes);
        if let Some(gone) = gone {
            // After the borrows end: dropping the last waker of a task drops the task.
            drop(gone.slot.abandon());
        }
    }
}

/// Makes a runtime the current one; dropping it drops all tasks and closes their descriptors.
struct Entered(Rc<Runtime>);

impl Entered {
    fn new(driver: Chosen) -> io::Result<Self> {
        let runtime = Rc::new(Runtime {
            runnable: RefCell::default(),
            next_turn: RefCell::default(),
            turns: Cell::new(0),
            home: Arc::new(Home::new()?),
            timers: RefCell::default(),
            watched: RefCell::default(),
            serial: Cell::new(0),
            unwatched: RefCell::default(),
            next_warning: Cell::new(None),
            second_looks: RefCell::default(),
            driver: RefCell::new(Driver::new(driver)?),
        });
        // The eventfd lives as long as the runtime. Its readiness ends the driver's wait; its slot is unused.
        runtime.watch(runtime.home.bell(), Interest::In, Rc::default());
        let before = CURRENT.replace(Some(Rc::clone(&runtime)));
        assert!(before.is_none(), "a thread runs one runtime at a time");
        Ok(Self(runtime))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let runtime = &self.0;
        loop {
            let slots: Vec<_> = {
                let watched = runtime.watched.borrow();
                watched.iter().map(|(_, it)| Rc::clone(&it.slot)).collect()
            };
            for slot in slots {
                drop(slot.abandon());
            }
            drop(runtime.timers.take());
            drop(runtime.next_turn.take());
            runtime.home.come_home(&mut runtime.runnable.borrow_mut());
            // A task whose last waker was dropped is scheduled once more, so that it is dropped here.
            let tasks = runtime.runnable.take();
            if tasks.is_empty() {
                break;
            }
            drop(tasks);
        }
        // A forgotten descriptor is closed for good once the driver has processed that, which it reports.
        let mut ready = Vec::new();
        let mut driver = runtime.driver.borrow_mut();
        while driver.wait(Some(Duration::ZERO), &mut ready).is_ok() && !ready.is_empty() {
            ready.clear();
        }
        drop(driver);
        CURRENT.set(None);
    }
}

#[cfg(test)]
mod tests;
