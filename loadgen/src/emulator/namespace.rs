//! A network namespace without a name: a thread lives in it and runs there what it is given.
//!
//! Nothing of it is below `/run/netns`, so nothing stays behind: the namespace ends with the last thread, process and
//! device in it, however they end.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use super::kernel;

/// Work for the thread.
type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own.
///
/// Processes that the thread starts are in the namespace too. Dropping it ends the thread, at which the kernel sends its
/// processes the signal that they asked for in that case.
#[derive(Debug)]
pub(super) struct Namespace {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    /// Makes the namespace; `name` is that of the thread.
    ///
    /// # Errors
    /// The kernel refuses: the process is not root, or has reached a limit.
    pub(super) fn new(name: &str) -> io::Result<Self> {
        let (jobs, given) = sync_channel::<Job>(1);
        let (tell, told) = sync_channel(1);
        let thread = Builder::new().name(name.to_owned()).spawn(move || {
            let made = kernel::leave_network_namespace();
            let is_made = made.is_ok();
            let _heard = tell.send(made);
            if is_made {
                given.into_iter().for_each(|job| job());
            }
        })?;
        let namespace = Self {
            jobs: Some(jobs),
            thread: Some(thread),
        };
        told.recv().map_err(io::Error::other)??;
        Ok(namespace)
    }

    /// Runs `job` in the namespace and returns its result.
    ///
    /// # Errors
    /// The job panicked, or an earlier one did.
    pub(super) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (tell, told) = sync_channel(1);
        let job: Job = Box::new(move || {
            let _heard = tell.send(job());
        });
        if let Some(jobs) = &self.jobs {
            // If the thread has ended, the job is dropped here, and no answer comes.
            let _ = jobs.send(job);
        }
        told.recv()
            .map_err(|_| io::Error::other("the thread of a network namespace has ended"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}
