//! An epoll set for scenarios that add, modify or remove sockets while they run.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};

use crate::scenario::failure::{WorkerError, wait_error};

/// Longest single sleep, so that a stop request is noticed soon.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// Most events returned by one wait.
const EVENTS_MAX: usize = 256;

/// Readiness of a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    /// Index that the socket was added with.
    pub(super) index: usize,
    /// Whether the socket accepts bytes.
    pub(super) writable: bool,
    /// Whether a read will return bytes, an end of stream or an error.
    pub(super) readable: bool,
}

/// A level-triggered epoll set.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    /// Creates an empty set.
    pub(super) fn new() -> Result<Self, WorkerError> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).map_err(wait_error)?,
        })
    }

    /// Adds a socket. The kernel removes it when it is closed.
    pub(super) fn add(
        &self,
        socket: impl AsFd,
        index: usize,
        wants_write: bool,
    ) -> Result<(), WorkerError> {
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.epoll, socket, data, interest(wants_write)).map_err(wait_error)
    }

    /// Changes whether the set reports that a socket is writable.
    pub(super) fn modify(
        &self,
        socket: impl AsFd,
        index: usize,
        wants_write: bool,
    ) -> Result<(), WorkerError> {
        let data = epoll::EventData::new_u64(index as u64);
        epoll::modify(&self.epoll, socket, data, interest(wants_write)).map_err(wait_error)
    }

    /// Removes a socket.
    pub(super) fn remove(&self, socket: impl AsFd) -> Result<(), WorkerError> {
        epoll::delete(&self.epoll, socket).map_err(wait_error)
    }

    /// Waits for ready sockets, at most for `rest` or the longest single sleep.
    pub(super) fn wait(&self, rest: Duration, ready: &mut Vec<Ready>) -> Result<(), WorkerError> {
        let rest = rest.min(SLEEP_MAX);
        let sleep = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(rest.subsec_nanos()),
        };
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; EVENTS_MAX];
        let count = match epoll::wait(&self.epoll, &mut events[..], Some(&sleep)) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(wait_error(error)),
        };
        ready.clear();
        ready.extend(events[..count].iter().map(|event| {
            let flags = event.flags;
            Ready {
                index: usize::try_from(event.data.u64()).unwrap_or(usize::MAX),
                writable: flags.contains(epoll::EventFlags::OUT),
                readable: flags.difference(epoll::EventFlags::OUT) != epoll::EventFlags::empty(),
            }
        }));
        Ok(())
    }
}

fn interest(wants_write: bool) -> epoll::EventFlags {
    if wants_write {
        epoll::EventFlags::IN | epoll::EventFlags::OUT
    } else {
        epoll::EventFlags::IN
    }
}
