//! The io_uring driver: one multishot poll per descriptor, and one system call per wait that finds the
//! completion queue empty.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::io::Errno;

use super::{Interest, Ready, Urgent};

/// Submission entries of a ring. A full submission queue is submitted to the kernel.
const ENTRIES: u32 = 1024;

/// Completion entries; the kernel keeps further completions until there is room.
const COMPLETIONS: u32 = 8192;

/// Events per wait; the next wait reports the rest.
const READY_MAX: usize = 1024;

/// `IORING_ENTER_GETEVENTS` (io_uring_enter(2)): also process deferred completions.
const ENTER_GETEVENTS: u32 = 1;

/// Key of completions that are ignored.
const NOBODY: u64 = u64::MAX;

/// An io_uring owned by one thread.
pub(in crate::io) struct Uring {
    ring: IoUring,
    /// True while a watch may not have been submitted to the kernel yet.
    unseen: bool,
    /// Keys whose cancellation is waiting for room in the submission queue.
    unforgotten: VecDeque<u64>,
}

impl Uring {
    pub(super) fn new() -> io::Result<Self> {
        Self::with_entries(ENTRIES, COMPLETIONS)
    }

    pub(super) fn with_entries(entries: u32, completions: u32) -> io::Result<Self> {
        let ring = IoUring::builder()
            // One thread owns the ring. The kernel runs completion work in batches, when that thread enters
            // the ring, rather than at the end of any system call.
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

    pub(super) fn watch(&mut self, fd: BorrowedFd<'_>, ways: Interest, key: u64) -> io::Result<()> {
        let poll = opcode::PollAdd::new(Fd(fd.as_raw_fd()), ways.bits())
            .multi(true)
            .build()
            .user_data(key);
        self.push(&poll)?;
        self.unseen = true;
        Ok(())
    }

    /// Stops watching. The kernel looks the descriptor up when the watch is submitted, so this must happen before
    /// the descriptor is closed: its number may then belong to another file.
    pub(super) fn forget(&mut self, key: u64) {
        if self.unseen {
            // If the kernel lacks memory for it now, the next wait submits again.
            let _ = self.submit();
        }
        self.unforgotten.push_back(key);
        self.forget_more();
    }

    fn forget_more(&mut self) {
        while let Some(key) = self.unforgotten.pop_front() {
            // AsyncCancel rather than PollRemove, which fails while an event of the poll is in progress.
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
        // SAFETY: the entries are polls and cancels, which refer to no memory of this process.
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
        // The kernel runs at most 20 deferred completions per call.
        while self.take_completions(ready) && self.is_more_put_off() && ready.len() < READY_MAX {
            self.enter()?;
        }
        Ok(())
    }

    /// Whether completions may wait for this thread to enter the kernel. May be true without any, until the next
    /// one: the kernel sets the flag after queueing the work, which may have been done by then.
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
        // SAFETY: without the flag for an argument the kernel reads none, and none is passed.
        going_on(unsafe { submitter.enter::<()>(to_submit, 0, ENTER_GETEVENTS, None) })
    }

    /// Moves completions to `ready`; false if there were none.
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

/// Ignores timeouts, interruptions and a full completion queue: the next wait continues.
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
            // A wake-up by the socket carries PRI, without OUT, for any data that arrives. A mask that the
            // kernel polled itself mostly has OUT as well, and its PRI is certain.
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
        // Cancelled by `forget`, so that the key is unknown by now; or the poll failed, and the waiter's next
        // call shows the error.
        Err(_) => Ready {
            readable: true,
            writable: true,
            ended: false,
            urgent: Urgent::No,
            disarmed: true,
        },
    }
}
