//! The epoll driver, edge-triggered: one system call per watched descriptor, and one per wait.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::{Interest, Ready};

/// Events per wait; the next wait reports the rest.
const EVENTS: usize = 1024;

/// An epoll instance.
pub(in crate::io) struct Epoll {
    fd: OwnedFd,
    events: Vec<Event>,
}

impl Epoll {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            fd: epoll::create(CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS),
        })
    }

    pub(super) fn watch(&self, fd: BorrowedFd<'_>, ways: Interest, key: u64) -> io::Result<()> {
        let asked = EventFlags::from_bits_retain(ways.bits()) | EventFlags::ET;
        epoll::add(&self.fd, fd, EventData::new_u64(key), asked)?;
        Ok(())
    }

    pub(super) fn forget(&self, fd: BorrowedFd<'_>) {
        // Fails only for a descriptor that is not watched.
        let _ = epoll::delete(&self.fd, fd);
    }

    pub(super) fn wait(
        &mut self,
        timeout: Option<Duration>,
        ready: &mut Vec<(u64, Ready)>,
    ) -> io::Result<()> {
        // A timeout too long for a timespec counts as none.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        self.events.clear();
        match epoll::wait(&self.fd, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let seen = self.events.iter().map(|event| {
            let (flags, data) = (event.flags, event.data);
            (data.u64(), Ready::of(flags.bits()))
        });
        ready.extend(seen);
        Ok(())
    }
}
