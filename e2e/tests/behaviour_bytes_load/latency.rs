//! Latency of round trips on sessions that share a link with others.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tieline_e2e::behaviour::{echo_round_trip, noise, soon};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const MESSAGE_BYTES: usize = 200;

/// Echo sessions, each with one message in flight at a time.
pub(crate) struct Witnesses(Vec<TcpStream>);

/// Times of many round trips, sorted.
pub(crate) struct Times(Vec<Duration>);

impl Witnesses {
    pub(crate) fn new(sessions: Vec<TcpStream>) -> Self {
        Self(sessions)
    }

    /// Makes round trips on all sessions concurrently, for `time`.
    ///
    /// `time` must be long enough for more than a hundred round trips per session: then a pause of the whole
    /// machine, which every session sees once, stays below the 99th percentile.
    pub(crate) async fn measure(&mut self, time: Duration) -> Result<Times> {
        let until = Instant::now() + time;
        let mut sessions = JoinSet::new();
        for mut session in self.0.drain(..) {
            sessions.spawn(async move {
                let mut times = Vec::new();
                while Instant::now() < until {
                    let message = noise(times.len() as u64, MESSAGE_BYTES);
                    times.push(echo_round_trip(&mut session, &message).await?);
                }
                anyhow::Ok((session, times))
            });
        }
        let mut all = Vec::new();
        while let Some(done) = soon("the last round trip", sessions.join_next()).await? {
            let (session, times) = done??;
            self.0.push(session);
            all.extend(times);
        }
        all.sort_unstable();
        Ok(Times(all))
    }
}

impl Times {
    pub(crate) fn p99(&self) -> Duration {
        self.0[self.0.len() * 99 / 100]
    }

    /// Checks the 99th percentile. `limit` allows for shared cores; it must catch a session that waits for
    /// another session.
    ///
    /// # Errors
    /// The 99th percentile is above `limit`.
    pub(crate) fn within(&self, limit: Duration, before: &Self) -> Result<()> {
        let summary = format!("before: {before}, during: {self}");
        println!("{summary}");
        ensure!(self.p99() <= limit, "p99 above {limit:?}; {summary}");
        Ok(())
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (count, worst) = (self.0.len(), self.0.last());
        write!(
            f,
            "{count} round trips, p99 {:?}, worst {worst:?}",
            self.p99()
        )
    }
}
