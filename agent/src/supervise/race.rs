//! The race of two transports to one relay: QUIC has a head start, and the first that gets through wins.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::error::Error;

/// Head start of QUIC. A handshake over QUIC takes one round trip, one over TCP and TLS two or three: so where UDP gets
/// through, QUIC wins at any round trip below this time, and nothing is dialled in vain.
const HEAD_START: Duration = Duration::from_millis(300);

/// An attempt that runs as a task of its own, and ends when it is dropped.
#[derive(Debug)]
pub(super) struct Attempt<T>(JoinSet<Result<T, Error>>);

impl<T: Send + 'static> Attempt<T> {
    pub(super) fn start(attempt: impl Future<Output = Result<T, Error>> + Send + 'static) -> Self {
        let mut task = JoinSet::new();
        task.spawn(attempt);
        Self(task)
    }

    /// Waits for the attempt's end; a wait that is given up loses nothing.
    ///
    /// # Errors
    /// Why the attempt has failed; also after its end was told.
    pub(super) async fn ended(&mut self) -> Result<T, Error> {
        match self.0.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(_)) | None => Err(Error::link_lost("the task of a dial stopped")),
        }
    }
}

/// What has got through.
#[derive(Debug)]
pub(super) struct Won<T> {
    pub(super) connection: T,
    /// The other attempt, unless it has failed.
    pub(super) rival: Option<Attempt<T>>,
    /// Why QUIC has failed, if it has and a WebSocket got through.
    pub(super) quic_error: Option<Error>,
}

/// Starts `quic`, and `other` 300 ms later, or at once when `quic` has failed; returns the first success.
///
/// # Errors
/// That of `other`, if both fail: its path is the one that a person can look at.
pub(super) async fn race<T, Q, O>(quic: Q, other: O) -> Result<Won<T>, Error>
where
    T: Send + 'static,
    Q: Future<Output = Result<T, Error>> + Send + 'static,
    O: Future<Output = Result<T, Error>> + Send + 'static,
{
    let begin = Arc::new(Notify::new());
    let begun = Arc::clone(&begin);
    let mut quic = Attempt::start(quic);
    let mut other = Attempt::start(async move {
        // Begins when the time is over, or before.
        let _ = timeout(HEAD_START, begun.notified()).await;
        other.await
    });
    let won = |connection, rival, quic_error| Won {
        connection,
        rival,
        quic_error,
    };
    tokio::select! {
        biased;
        ended = quic.ended() => match ended {
            Ok(connection) => Ok(won(connection, Some(other), None)),
            Err(error) => {
                tracing::debug!(%error, "QUIC does not get through");
                begin.notify_one();
                Ok(won(other.ended().await?, None, Some(error)))
            }
        },
        ended = other.ended() => match ended {
            Ok(connection) => Ok(won(connection, Some(quic), None)),
            Err(error) => match quic.ended().await {
                Ok(connection) => Ok(won(connection, None, None)),
                Err(_) => Err(error),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::time::{Instant, sleep};

    use super::*;

    /// What an attempt does.
    #[derive(Clone, Copy)]
    enum Does {
        Connects(u64),
        Fails(u64),
        StaysSilent,
    }

    use Does::{Connects, Fails, StaysSilent};

    async fn done(does: Does, name: &'static str) -> Result<&'static str, Error> {
        match does {
            Connects(ms) => {
                sleep(Duration::from_millis(ms)).await;
                Ok(name)
            }
            Fails(ms) => {
                sleep(Duration::from_millis(ms)).await;
                Err(Error::Dial {
                    relay: name.to_owned(),
                    source: io::ErrorKind::ConnectionRefused.into(),
                })
            }
            StaysSilent => std::future::pending().await,
        }
    }

    async fn raced(quic: Does, other: Does) -> (Result<Won<&'static str>, Error>, u128) {
        let begun = Instant::now();
        let won = race(done(quic, "quic"), done(other, "wss")).await;
        (won, begun.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn quic_has_300_ms_and_a_failure_ends_them() {
        for (quic, other, name, took, has_failed) in [
            (Connects(100), Connects(10), "quic", 100, false),
            // The other one was started, and came too late.
            (Connects(320), Connects(30), "quic", 320, false),
            (Connects(400), Connects(30), "wss", 330, false),
            (StaysSilent, Connects(200), "wss", 500, false),
            (Fails(5), Connects(30), "wss", 35, true),
            (Fails(310), Connects(50), "wss", 350, true),
            (Connects(2_000), Fails(10), "quic", 2_000, false),
        ] {
            let (won, ms) = raced(quic, other).await;
            let won = won.unwrap();
            let failed = won.quic_error.is_some();
            assert_eq!((won.connection, failed), (name, has_failed));
            // The clock of tokio's timers counts in milliseconds, rounded up.
            assert!((took..took + 5).contains(&ms), "{ms} ms in place of {took}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_loser_goes_on_and_says_how_it_ended() {
        let (won, _) = raced(Fails(1_000), Connects(10)).await;
        let mut won = won.unwrap();
        let rival = won.rival.as_mut().expect("QUIC is under way");
        assert!(rival.ended().await.is_err());
        assert!(rival.ended().await.is_err(), "also when asked again");
        let (won, _) = raced(Connects(10), Connects(10)).await;
        let mut rival = won.unwrap().rival.expect("the WebSocket is to come");
        assert_eq!(rival.ended().await.unwrap(), "wss");
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_failures_that_over_tcp_is_told() {
        for (quic, other) in [(Fails(5), Fails(10)), (Fails(900), Fails(10))] {
            let (won, _) = raced(quic, other).await;
            let Err(Error::Dial { relay, .. }) = won else {
                panic!("a connection");
            };
            assert_eq!(relay, "wss");
        }
    }
}
