//! io_uring or epoll: found out once at start, by building the very ring that will be used.

use std::future::Future;
use std::io;

use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

/// Submission entries of a ring.
const RING_ENTRIES: u32 = 4096;

/// The driver of all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chosen {
    Uring,
    Epoll,
}

/// Which driver runs, and why it is not the better one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverReport {
    /// `uring` or `epoll`.
    pub driver: &'static str,
    /// Why epoll runs although nobody asked for it.
    pub reason: Option<String>,
}

fn ring() -> io_uring::Builder {
    let mut builder = io_uring::IoUring::builder();
    // One thread owns the ring, and completions are reaped when it asks for them. Not
    // DEFER_TASKRUN: monoio submits without reaping while any task is runnable, so tasks that wake
    // each other would stop all I/O.
    builder.setup_single_issuer().setup_coop_taskrun();
    builder
}

/// Finds the driver: `wanted` is `None` for the best that works.
///
/// # Errors
/// If io_uring was demanded and is refused; the text says why.
pub(crate) fn choose(wanted: Option<Chosen>) -> Result<(Chosen, DriverReport), String> {
    let report = |driver, reason| DriverReport { driver, reason };
    if wanted == Some(Chosen::Epoll) {
        return Ok((Chosen::Epoll, report("epoll", None)));
    }
    match ring().build(RING_ENTRIES) {
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
        Some(Errno::INVAL) => "the kernel is older than 6.0 and lacks a flag that is needed",
        Some(Errno::NOMEM) => "the limit of locked memory is too low, see `ulimit -l`",
        Some(Errno::MFILE | Errno::NFILE) => "the limit of open files is reached, see `ulimit -n`",
        _ => return format!("io_uring is refused: {error}"),
    };
    format!("io_uring is refused ({error}): {cause}")
}

/// Runs a future, and all that it spawns, on this thread.
pub(crate) fn run<F: Future>(driver: Chosen, future: F) -> io::Result<F::Output> {
    match driver {
        Chosen::Uring => Ok(RuntimeBuilder::<IoUringDriver>::new()
            .with_entries(RING_ENTRIES)
            .uring_builder(ring())
            .enable_timer()
            .build()?
            .block_on(future)),
        Chosen::Epoll => Ok(RuntimeBuilder::<LegacyDriver>::new()
            .with_entries(1024)
            .enable_timer()
            .build()?
            .block_on(future)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_likely_cause() {
        let error = io::Error::from(rustix::io::Errno::PERM);
        assert!(explain(&error).contains("seccomp"));
    }

    #[test]
    fn either_driver_runs_a_future() {
        let (best, _) = choose(None).unwrap();
        for driver in [best, Chosen::Epoll] {
            let slept = run(driver, async {
                monoio::time::sleep(std::time::Duration::from_millis(1)).await;
                7
            });
            assert_eq!(slept.unwrap(), 7);
        }
    }
}
