//! Turns SIGINT, SIGTERM and SIGHUP into a flag, so that every exit path runs its destructors.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// Error: a signal asked this program to stop.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

/// Flag that a signal sets and that stays set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<(Mutex<bool>, Condvar)>);

impl Interrupt {
    /// Listens for signals from now on, in a thread of its own. A second signal ends this process at once; its
    /// children then end too, because the kernel signals them when their parent dies.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let interrupt = Self::default();
        let raised = interrupt.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("cannot start the runtime that waits for signals")?;
        // Here and not in the thread: a shell's background jobs ignore SIGINT until a handler is there, so a signal
        // that comes before the thread runs would be lost.
        let entered = runtime.enter();
        let stream = |kind| signal(kind).context("cannot listen for signals");
        let mut interrupted = stream(SignalKind::interrupt())?;
        let mut terminated = stream(SignalKind::terminate())?;
        let mut hung_up = stream(SignalKind::hangup())?;
        drop(entered);
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    loop {
                        tokio::select! {
                            _ = interrupted.recv() => {}
                            _ = terminated.recv() => {}
                            _ = hung_up.recv() => {}
                        }
                        if raised.raise() {
                            std::process::exit(130);
                        }
                    }
                });
            })?;
        Ok(interrupt)
    }

    /// Whether a signal has arrived.
    pub(crate) fn is_raised(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails if a signal has arrived.
    pub(crate) fn check(&self) -> Result<(), Interrupted> {
        if self.is_raised() {
            Err(Interrupted)
        } else {
            Ok(())
        }
    }

    /// Waits for `length`; fails as soon as a signal arrives.
    pub(crate) fn pause(&self, length: Duration) -> Result<(), Interrupted> {
        let (raised, changed) = &*self.0;
        let guard = raised.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_timeout_while(guard, length, |raised| !*raised));
        self.check()
    }

    /// Sets the flag and returns whether it was already set.
    fn raise(&self) -> bool {
        let (raised, changed) = &*self.0;
        let before = std::mem::replace(
            &mut *raised.lock().unwrap_or_else(PoisonError::into_inner),
            true,
        );
        changed.notify_all();
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    use rustix::process::{Signal, getpid, kill_process};

    #[test]
    fn a_signal_right_after_the_start_is_seen() {
        let interrupt = Interrupt::listen().unwrap();
        kill_process(getpid(), Signal::HUP).unwrap();
        assert!(interrupt.pause(Duration::from_secs(60)).is_err());
    }

    #[test]
    fn a_pause_ends_with_the_signal() {
        let interrupt = Interrupt::default();
        assert!(interrupt.pause(Duration::from_millis(1)).is_ok());
        let other = interrupt.clone();
        let begun = Instant::now();
        let thread = std::thread::spawn(move || other.pause(Duration::from_secs(60)));
        assert!(!interrupt.raise() && interrupt.raise());
        assert!(thread.join().unwrap().is_err());
        assert!(begun.elapsed() < Duration::from_secs(30) && interrupt.check().is_err());
    }
}
