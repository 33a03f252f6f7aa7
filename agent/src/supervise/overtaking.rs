//! The other transport to the relay, beside the one that a link is on: the rival of a race, which takes over if the link
//! does not get as far as a tunnel; and QUIC, which is tried again from time to time and overtakes a link over a WebSocket.
//!
//! The link over QUIC registers first, and only then does the slot leave the earlier one, which keeps its sessions.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Agent;
use super::dialled::Dialled;
use super::endings::is_loss;
use super::outlook::Verdict;
use super::race::Attempt;
use crate::error::Error;
use crate::link::News;
use crate::network::{SETTLING, local_network};
use crate::transport::Connection;

/// Time that a link has to register once the rival of its race has got through, too. It is below the relay's limit of 5 s
/// for the first frame of a connection, and leaves 0.7 s of the 2 s in which an agent is to be registered, besides round
/// trips, where UDP is dropped behind the handshake.
const OUTRUN_AFTER: Duration = Duration::from_secs(1);

/// Time more for a link over which the relay's hello has come: the path works, and the relay takes its time over any
/// transport. Together with the time before, it is still below the relay's limit for the rival's first frame.
const GREETED_FOR: Duration = Duration::from_secs(3);

/// Shortest wait before QUIC is tried again, whatever the settings say: attempts must not become a loop.
const RETRY_MIN: Duration = Duration::from_millis(100);

/// Longest setting that counts: what is remembered of QUIC counts for as long.
const RETRY_MAX: Duration = Duration::from_secs(24 * 3600);

/// Time for the link over QUIC to register: the limit of any registration.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(20);

/// Age from which on the loss of a link over QUIC does not speak against QUIC.
const LASTS: Duration = Duration::from_secs(60);

/// What goes on beside a link.
pub(super) struct Overtaking {
    agent: Arc<Agent>,
    /// The local network in which QUIC was tried last; `None` if it was not.
    network: Option<String>,
    /// True if the link is over QUIC.
    is_over_quic: bool,
    began_at: Instant,
    is_registered: bool,
    /// True if the link has had more time, because the relay's hello has come.
    is_greeted: bool,
    stage: Stage,
}

enum Stage {
    /// Nothing is to be done.
    Idle,
    /// The other attempt of the race is under way.
    Racing(Attempt<Connection>),
    /// That attempt has got through, and the link must register until this moment.
    Through(Connection, Instant),
    /// QUIC is tried again at this moment.
    Waiting(Instant),
    /// QUIC is tried again.
    Dialling(Attempt<Connection>),
    /// A link over QUIC registers.
    Registering(Box<Candidate>),
}

/// A link over QUIC that has yet to register.
struct Candidate {
    dialled: Dialled,
    /// Number of targets, each of which needs an answer.
    targets: usize,
    until: Instant,
}

/// What is left beside a link that has ended.
pub(super) struct Rest {
    /// A connection over the other transport.
    pub(super) connection: Option<Connection>,
    /// A link over QUIC that registers.
    pub(super) dialled: Option<Dialled>,
    /// The local network in which QUIC was tried last.
    pub(super) network: Option<String>,
}

/// What a slot is to do.
pub(super) enum Turn {
    /// Ask [`Overtaking::outrun`] whether to give the link up for this connection.
    Outrun(Connection),
    /// Start a link over this connection for [`Overtaking::register`].
    Connected(Connection),
    /// Go on with this link, which has an answer for each target.
    Answered(Dialled),
    /// Go on as before: the link over QUIC is given up, and the relay may have granted what it did not answer.
    GivenUp,
}

impl Overtaking {
    /// What goes on beside a link that was just started; `rival` is the other attempt of its race, which began in
    /// `network`.
    pub(super) fn beside(
        agent: &Arc<Agent>,
        is_over_quic: bool,
        rival: Option<Attempt<Connection>>,
        network: Option<String>,
    ) -> Self {
        let mut beside = Self {
            agent: Arc::clone(agent),
            network,
            is_over_quic,
            began_at: Instant::now(),
            is_registered: false,
            is_greeted: false,
            stage: Stage::Idle,
        };
        match rival {
            Some(rival) => beside.stage = Stage::Racing(rival),
            None => beside.wait(),
        }
        beside
    }

    /// Waits until the slot has something to do; a wait that is given up loses nothing.
    pub(super) async fn turn(&mut self) -> Turn {
        loop {
            match &mut self.stage {
                Stage::Idle => std::future::pending::<()>().await,
                Stage::Racing(rival) => {
                    let ended = rival.ended().await;
                    self.raced(ended);
                }
                Stage::Through(_, until) => {
                    sleep_until(*until).await;
                    if let Stage::Through(connection, _) = self.take() {
                        return Turn::Outrun(connection);
                    }
                }
                Stage::Waiting(at) => {
                    sleep_until(*at).await;
                    self.dial();
                }
                Stage::Dialling(attempt) => match attempt.ended().await {
                    Ok(connection) => {
                        self.stage = Stage::Idle;
                        return Turn::Connected(connection);
                    }
                    Err(error) => {
                        tracing::debug!(%error, "QUIC does not get through yet");
                        self.failed(&error);
                        self.wait();
                    }
                },
                Stage::Registering(candidate) => {
                    let Some(is_complete) = candidate.answered().await else {
                        continue;
                    };
                    if let Some(candidate) = self.take_candidate() {
                        self.wait();
                        return match is_complete {
                            true => Turn::Answered(candidate),
                            false => Turn::GivenUp,
                        };
                    }
                }
            }
        }
    }

    /// Takes a link over QUIC that was just started; the slot hears of it once it has registered.
    pub(super) fn register(&mut self, dialled: Dialled) {
        self.stage = Stage::Registering(Box::new(Candidate {
            dialled,
            targets: self.agent.targets.len(),
            until: Instant::now() + REGISTER_TIMEOUT,
        }));
    }

    /// Returns the connection for which the link is to be given up now, if it is; `is_greeted` is true if the relay's hello
    /// has come over the link.
    pub(super) fn outrun(
        &mut self,
        connection: Connection,
        is_greeted: bool,
    ) -> Option<Connection> {
        if is_greeted && !std::mem::replace(&mut self.is_greeted, true) {
            self.stage = Stage::Through(connection, Instant::now() + GREETED_FOR);
            return None;
        }
        if self.is_over_quic && !self.is_greeted {
            self.learn(Verdict::Dead);
        }
        Some(connection)
    }

    /// Waits for the next attempt, if the relay's URL leaves the transport open and the link is not over QUIC.
    pub(super) fn wait(&mut self) {
        let may_improve = self.agent.dialler.relay().chooses() && !self.is_over_quic;
        self.stage = match may_improve {
            true => {
                let wait = retry_after(self.agent.config.quic_retry, fastrand::f64());
                Stage::Waiting(Instant::now() + wait)
            }
            false => Stage::Idle,
        };
    }

    /// Has QUIC tried once this machine's network has settled, if it is another one, in which QUIC may get through.
    pub(super) fn network_changed(&mut self) {
        let Stage::Waiting(at) = &mut self.stage else {
            return;
        };
        let network = local_network();
        let is_other = self.network.as_ref() != Some(&network);
        if is_other && self.agent.chooser.races(&self.agent.dialler, &network) {
            *at = (*at).min(Instant::now() + SETTLING);
        }
    }

    /// Ends what goes on, because the agent was asked to stop; returns the link over QUIC that registers.
    pub(super) fn stop(&mut self) -> Option<Dialled> {
        self.take_candidate()
    }

    /// Notes that the link has a tunnel: the race is over.
    pub(super) fn registered(&mut self) {
        if std::mem::replace(&mut self.is_registered, true) {
            return;
        }
        if self.is_over_quic {
            self.learn(Verdict::Works);
            self.stage = Stage::Idle;
        } else if matches!(self.stage, Stage::Through(..)) {
            // It was the slower one this time.
            self.learn(Verdict::Works);
            self.wait();
        }
        // An attempt over QUIC goes on, because its end tells whether QUIC gets through.
    }

    /// Notes how the link has ended: QUIC is to blame for a link that is lost early.
    pub(super) fn ended(&self, error: Option<&Error>) {
        let Some(network) = self.network.as_ref().filter(|_| self.is_over_quic) else {
            return;
        };
        if self.is_registered && self.began_at.elapsed() >= LASTS {
            self.agent.chooser.lasted();
        } else if error.is_some_and(is_loss) {
            self.agent.chooser.lost(network);
        }
    }

    /// The local network in which QUIC was tried last.
    pub(super) fn network(&self) -> Option<String> {
        self.network.clone()
    }

    /// What the next link may go on with.
    pub(super) fn rest(self) -> Rest {
        let (connection, dialled) = match self.stage {
            Stage::Through(connection, _) => (Some(connection), None),
            Stage::Registering(candidate) => (None, Some(candidate.dialled)),
            _ => (None, None),
        };
        Rest {
            connection,
            dialled,
            network: self.network,
        }
    }

    /// The rival of the race has ended.
    fn raced(&mut self, ended: Result<Connection, Error>) {
        match ended {
            Ok(connection) if !self.is_registered => {
                let until = Instant::now() + OUTRUN_AFTER;
                self.stage = Stage::Through(connection, until);
            }
            // A connection that is too late is closed.
            Ok(_) if !self.is_over_quic => {
                self.learn(Verdict::Works);
                self.wait();
            }
            Err(error) if !self.is_over_quic => {
                self.failed(&error);
                self.wait();
            }
            _ => self.wait(),
        }
    }

    /// Tries QUIC again, unless it is of no use now.
    fn dial(&mut self) {
        if self.agent.dialler.tries_quic().is_err() {
            return self.wait();
        }
        self.network = Some(local_network());
        let agent = Arc::clone(&self.agent);
        // The relay leads calls to the link from its registration on, so the path is tested before.
        self.stage = Stage::Dialling(Attempt::start(
            async move { agent.dialler.prove_quic().await },
        ));
    }

    fn learn(&self, quic: Verdict) {
        if let Some(network) = &self.network {
            self.agent.chooser.learn(network, quic);
        }
    }

    fn failed(&self, error: &Error) {
        if let Some(network) = &self.network {
            self.agent.chooser.failed(network, error);
        }
    }

    fn take(&mut self) -> Stage {
        std::mem::replace(&mut self.stage, Stage::Idle)
    }

    fn take_candidate(&mut self) -> Option<Dialled> {
        match self.take() {
            Stage::Registering(candidate) => Some(candidate.dialled),
            _ => None,
        }
    }
}

impl Candidate {
    /// Waits for news: `Some(true)` once each target has its answer, `Some(false)` if the link is of no use.
    async fn answered(&mut self) -> Option<bool> {
        let it = &mut self.dialled;
        tokio::select! {
            biased;
            news = it.heard.recv() => match news {
                Some(news @ (News::Registered { .. } | News::Refused { .. })) => {
                    it.early.push(news);
                    (it.early.len() >= self.targets).then_some(true)
                }
                Some(News::Withdrawn { .. } | News::GoingAway(_)) | None => Some(false),
            },
            _ = it.task.join_next() => Some(false),
            () = sleep_until(self.until) => Some(false),
        }
    }
}

/// Wait before QUIC is tried again, at least `least`, and at most twice as long, so that the agents of one network do not
/// try together; `random` is from 0 to 1.
fn retry_after(least: Duration, random: f64) -> Duration {
    least.clamp(RETRY_MIN, RETRY_MAX).mul_f64(1.0 + random)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::QUIC_RETRY;

    #[test]
    fn quic_is_tried_again_after_five_to_ten_minutes() {
        assert_eq!(retry_after(QUIC_RETRY, 0.0), Duration::from_secs(300));
        assert_eq!(retry_after(QUIC_RETRY, 1.0), Duration::from_secs(600));
    }

    #[test]
    fn the_setting_cannot_make_the_attempts_a_loop_or_overflow_the_clock() {
        assert_eq!(retry_after(Duration::ZERO, 0.0), RETRY_MIN);
        assert_eq!(retry_after(Duration::MAX, 1.0), 2 * RETRY_MAX);
    }
}
