//! The io_uring driver: a multishot poll for each descriptor, one call for each wait that finds
//! nothing in the ring.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::io::Errno;

use super::{Ready, Urgent, Ways};

/// Submission entries of a ring. When they are used up, those there are go to the kernel.
const ENTRIES: u32 = 1024;

/// Completion entries: more may be under way, and then the kernel keeps them until there is room.
const COMPLETIONS: u32 = 8192;

/// Descriptors that one wait tells of; the next one tells of the rest.
const READY_MAX: usize = 1024;

/// `io_uring_enter(2)`: also do what completions were put off.
const ENTER_GETEVENTS: u32 = 1;

/// The key of what nobody wants to hear of.
const NOBODY: u64 = u64::MAX;

/// A ring of one thread.
pub(in crate::io) struct Uring {
    ring: IoUring,
    /// The kernel has not seen every watch yet.
    unseen: bool,
    /// Keys that the ring had no room to forget.
    unforgotten: VecDeque<u64>,
}

impl Uring {
    pub(super) fn new() -> io::Result<Self> {
        Self::with_entries(ENTRIES, COMPLETIONS)
    }

    pub(super) fn with_entries(entries: u32, completions: u32) -> io::Result<Self> {
        let ring = IoUring::builder()
            // One thread owns the ring, and the kernel does its part of a completion when that
            // thread asks for it, all in one go, and not whenever it leaves any system call.
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(completions)
            .build(entries)?;
        Ok(Self {
            ring,
            unseen: false,
            unforgotten: VecDeque::new(),
        })
    }

    pub(super) fn watch(&mut self, fd: BorrowedFd<'_>, ways: Ways, key: u64) -> io::Result<()> {
        let poll = opcode::PollAdd::new(Fd(fd.as_raw_fd()), ways.bits())
            .multi(true)
            .build()
            .user_data(key);
        self.push(&poll)?;
        self.unseen = true;
        Ok(())
    }

    /// The kernel looks a descriptor up when it sees the entry. So what may be closed now must have
    /// been seen, or the number could be somebody else's by then.
    pub(super) fn forget(&mut self, key: u64) {
        if self.unseen {
            // If the kernel has no memory for it now, it is asked again at the next wait.
            let _ = self.submit();
        }
        self.unforgotten.push_back(key);
        self.forget_more();
    }

    fn forget_more(&mut self) {
        while let Some(key) = self.unforgotten.pop_front() {
            // Not a removal of the poll, which is refused while one of its events is on the way.
            let cancel = opcode::AsyncCancel::new(key)
                .build()
                .user_data(NOBODY)
                .flags(squeue::Flags::SKIP_SUCCESS);
            if self.push(&cancel).is_err() {
                self.unforgotten.push_front(key);
                return;
            }
        }
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.submit()?;
        }
        // SAFETY: the entries are polls and cancels, which refer to no memory of ours.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|_| io::ErrorKind::WouldBlock.into())
    }

    fn submit(&mut self) -> io::Result<()> {
        self.ring.submit()?;
        self.unseen &= !self.ring.submission().is_empty();
        Ok(())
    }

    pub(super) fn wait(
        &mut self,
        timeout: Option<Duration>,
        ready: &mut Vec<(u64, Ready)>,
    ) -> io::Result<()> {
        self.forget_more();
        if timeout != Some(Duration::ZERO) && self.ring.completion().is_empty() {
            self.sleep(timeout)?;
        } else if self.is_more_put_off() || !self.ring.submission().is_empty() {
            self.enter()?;
        }
        // The kernel does twenty in one go.
        while self.take_completions(ready) && self.is_more_put_off() && ready.len() < READY_MAX {
            self.enter()?;
        }
        Ok(())
    }

    /// Whether completions may wait for us to enter the kernel. It can say so where none do, until
    /// the next one: the kernel raises the flag behind the work, which may be done by then.
    fn is_more_put_off(&mut self) -> bool {
        let submission = self.ring.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    fn sleep(&self, timeout: Option<Duration>) -> io::Result<()> {
        let submitter = self.ring.submitter();
        going_on(match timeout {
            None => submitter.submit_and_wait(1),
            Some(timeout) => {
                let timespec = Timespec::new()
                    .sec(timeout.as_secs())
                    .nsec(timeout.subsec_nanos());
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&timespec))
            }
        })
    }

    fn enter(&mut self) -> io::Result<()> {
        let to_submit = u32::try_from(self.ring.submission().len()).unwrap_or(u32::MAX);
        let submitter = self.ring.submitter();
        // SAFETY: without the flag for one the kernel reads no argument, and none is given.
        going_on(unsafe { submitter.enter::<()>(to_submit, 0, ENTER_GETEVENTS, None) })
    }

    /// False if there were none.
    fn take_completions(&mut self, ready: &mut Vec<(u64, Ready)>) -> bool {
        self.unseen &= !self.ring.submission().is_empty();
        let mut any = false;
        for entry in self.ring.completion() {
            any = true;
            if entry.user_data() != NOBODY {
                ready.push((entry.user_data(), outcome(&entry)));
            }
        }
        any
    }
}

/// Over time, interrupted, or completions must be taken first: the next wait goes on from there.
fn going_on(entered: io::Result<usize>) -> io::Result<()> {
    match entered {
        Ok(_) => Ok(()),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
            _ => Err(error),
        },
    }
}

fn outcome(entry: &cqueue::Entry) -> Ready {
    let disarmed = !cqueue::more(entry.flags());
    match u32::try_from(entry.result()) {
        Ok(seen) => {
            let ready = Ready::of(seen);
            // Most are what a socket said as it woke us, and it says that of all that comes in. What
            // the kernel has looked at itself names both ways.
            let is_guess = ready.urgent == Urgent::Yes && !ready.writable;
            let urgent = if is_guess {
                Urgent::Perhaps
            } else {
                ready.urgent
            };
            Ready {
                urgent,
                disarmed,
                ..ready
            }
        }
        // Cancelled by us, and then nobody has the key any more; or the poll itself failed. Whoever
        // waits finds out by a call.
        Err(_) => Ready {
            readable: true,
            writable: true,
            ended: false,
            urgent: Urgent::No,
            disarmed: true,
        },
    }
}
