//! The readiness driver: io_uring or epoll, chosen once at the start by building the ring that would be used. A
//! driver only reports which descriptors became ready.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

mod epoll;
mod uring;

use epoll::Epoll;
use uring::Uring;

/// Driver of all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chosen {
    Uring,
    Epoll,
}

/// Driver in use, and why io_uring is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverReport {
    /// `uring` or `epoll`.
    pub driver: &'static str,
    /// Why epoll is used although it was not configured.
    pub reason: Option<String>,
}

/// Chooses the driver; `wanted` is `None` for the best that works.
///
/// # Errors
/// io_uring is configured and refused by the kernel; the text says why.
pub(crate) fn choose(wanted: Option<Chosen>) -> Result<(Chosen, DriverReport), String> {
    let report = |driver, reason| DriverReport { driver, reason };
    if wanted == Some(Chosen::Epoll) {
        return Ok((Chosen::Epoll, report("epoll", None)));
    }
    match Uring::new() {
        Ok(_) => Ok((Chosen::Uring, report("uring", None))),
        Err(error) => {
            let reason = explain(&error);
            if wanted == Some(Chosen::Uring) {
                return Err(reason);
            }
            Ok((Chosen::Epoll, report("epoll", Some(reason))))
        }
    }
}

fn explain(error: &io::Error) -> String {
    use rustix::io::Errno;
    let cause = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::PERM) => {
            "a seccomp profile (containers often have one) or kernel.io_uring_disabled forbids it"
        }
        Some(Errno::NOSYS) => "the kernel has no io_uring, or a sandbox hides it",
        Some(Errno::INVAL) => "the kernel is older than 6.1 and lacks a flag that is needed",
        Some(Errno::NOMEM) => "the limit of locked memory is too low, see `ulimit -l`",
        Some(Errno::MFILE | Errno::NFILE) => "the limit of open files is reached, see `ulimit -n`",
        _ => return format!("io_uring is refused: {error}"),
    };
    format!("io_uring is refused ({error}): {cause}")
}

/// Event bits of `poll.h`, which both drivers use.
mod bits {
    pub(super) const IN: u32 = 0x1;
    pub(super) const PRI: u32 = 0x2;
    pub(super) const OUT: u32 = 0x4;
    pub(super) const ERR: u32 = 0x8;
    pub(super) const HUP: u32 = 0x10;
    pub(super) const RDHUP: u32 = 0x2000;
}

/// Directions of a descriptor to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    In,
    Both,
}

impl Interest {
    const fn bits(self) -> u32 {
        match self {
            Self::In => bits::IN,
            Self::Both => bits::IN | bits::PRI | bits::OUT | bits::RDHUP,
        }
    }
}

/// Event of a descriptor, as a driver reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer ended its direction, or the descriptor failed: reads never wait again.
    pub(super) ended: bool,
    pub(super) urgent: Urgent,
    /// The driver no longer watches the descriptor, and must be asked again.
    pub(super) disarmed: bool,
}

/// Whether a socket has urgent data (tcp(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Urgent {
    #[default]
    No,
    Perhaps,
    Yes,
}

impl Ready {
    const fn of(seen: u32) -> Self {
        let failed = seen & (bits::ERR | bits::HUP) != 0;
        let ended = failed || seen & bits::RDHUP != 0;
        Self {
            readable: ended || seen & bits::IN != 0,
            writable: failed || seen & bits::OUT != 0,
            ended,
            urgent: if seen & bits::PRI == 0 {
                Urgent::No
            } else {
                Urgent::Yes
            },
            disarmed: false,
        }
    }
}

/// Reports which descriptors became ready: once per event (edge-triggered), not while they are ready.
pub(super) enum Driver {
    Uring(Box<Uring>),
    Epoll(Epoll),
}

impl Driver {
    pub(super) fn new(chosen: Chosen) -> io::Result<Self> {
        match chosen {
            Chosen::Uring => Uring::new().map(|ring| Self::Uring(Box::new(ring))),
            Chosen::Epoll => Epoll::new().map(Self::Epoll),
        }
    }

    /// Watches `fd`. If it is ready already, the next [`Driver::wait`] reports it.
    pub(super) fn watch(&mut self, fd: BorrowedFd<'_>, ways: Interest, key: u64) -> io::Result<()> {
        match self {
            Self::Uring(ring) => ring.watch(fd, ways, key),
            Self::Epoll(epoll) => epoll.watch(fd, ways, key),
        }
    }

    /// Stops watching `fd`; pending events may still be reported. `closes` if this is the only reference to the
    /// descriptor, and it is closed right after.
    pub(super) fn forget(&mut self, fd: BorrowedFd<'_>, key: u64, closes: bool) {
        match self {
            Self::Uring(ring) => ring.forget(key),
            Self::Epoll(epoll) if !closes => epoll.forget(fd),
            // epoll forgets a closed descriptor by itself.
            Self::Epoll(_) => {}
        }
    }

    /// Waits at most `timeout` until a descriptor becomes ready, and adds the events to `ready`.
    pub(super) fn wait(
        &mut self,
        timeout: Option<Duration>,
        ready: &mut Vec<(u64, Ready)>,
    ) -> io::Result<()> {
        match self {
            Self::Uring(ring) => ring.wait(timeout, ready),
            Self::Epoll(epoll) => epoll.wait(timeout, ready),
        }
    }
}

#[cfg(test)]
mod tests;
