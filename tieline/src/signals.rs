//! Signals that ask the process to stop, on every platform.

use std::future::Future;
use std::io;
use std::pin::pin;

use tokio::sync::oneshot;

/// Listens for the signals that mean "stop".
#[derive(Debug)]
struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// Starts to listen; the signals no longer end the process by themselves.
    fn listen() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for the next signal.
    async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Runs `work` with a future that is ready at the first signal; a second signal drops `work`.
pub(crate) async fn until_signal<W: Future>(
    work: impl FnOnce(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) -> W,
) -> Option<W::Output> {
    let mut signals = match Signals::listen() {
        Ok(signals) => Some(signals),
        Err(error) => {
            tracing::warn!(%error, "cannot listen for signals, so a signal ends the process without a drain");
            None
        }
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let mut stop = Some(stop);
    let mut work = pin!(work(Box::pin(async {
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
    })));
    loop {
        let signal = async {
            match &mut signals {
                Some(signals) => signals.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            output = &mut work => return Some(output),
            () = signal => match stop.take() {
                Some(stop) => drop(stop.send(())),
                None => return None,
            },
        }
    }
}
