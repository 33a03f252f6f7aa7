//! One of an agent's links, over all its reconnects: dials, registers, renews, dials again.
//! One file because the causes of a link's end and the reactions to them belong together.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tieline_wire::limits::LOST_LINKS_MAX;
use tieline_wire::{GoAway, Granted, LinkEnd, Lost, Refusal, RefusalReason, Side};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::Agent;
use super::registrations::{Change, Registrations, awaits_token};
use super::settling::{self, Doubt, verdict};
use crate::error::{Error, refusal_words};
use crate::event::AgentEvent;
use crate::link::{self, Link, News, Start};
use crate::network::{NetworkChanges, is_gone};
use crate::reconnect::{BACKOFF_MIN, Backoff};
use crate::status::RefusalStatus;
use crate::transport::Connection;

/// Longest wait before dialling a relay that asked the agent to move; the wait is random, so that the relay's agents do
/// not arrive together.
const MOVE_WAIT_MAX: Duration = Duration::from_millis(500);

/// Longest time that sessions go on over a link that the relay asked the agent to leave.
const MOVE_DRAIN_MAX: Duration = Duration::from_secs(3600);

/// One of an agent's links, over all its reconnects.
pub(super) struct Slot {
    agent: Arc<Agent>,
    index: u16,
    stop: watch::Receiver<bool>,
    backoff: Backoff,
    random: fastrand::Rng,
    /// Links that the relay asked the agent to leave, while their sessions run.
    draining: JoinSet<()>,
    /// Receiver of the token file's version.
    token: watch::Receiver<u64>,
    /// Changes of this machine's network.
    network: NetworkChanges,
    /// Receiver of the number of this machine's sleeps that no link outlives.
    long_sleeps: watch::Receiver<u64>,
    /// The link that was dialled last, unless it drains.
    link: Option<Arc<Link>>,
    /// Connection for the next link, if the last link was given up for it.
    spare: Option<Connection>,
    /// What had arrived over links that were lost since the last registration, the latest link first.
    lost: Vec<Lost>,
}

/// A link that the slot has dialled and started.
struct Dialled {
    link: Arc<Link>,
    /// The link's task; in a set, so that dropping the slot aborts it.
    task: JoinSet<Result<(), Error>>,
    heard: mpsc::Receiver<News>,
    /// This machine's address that the link cannot do without.
    address: Option<IpAddr>,
}

/// How a link left its slot.
enum Left {
    /// The agent was asked to stop.
    Stopped,
    /// The link drains; the slot must dial a new link after this wait.
    Moved(Duration),
}

impl Slot {
    pub(super) fn new(agent: Arc<Agent>, index: u16, stop: watch::Receiver<bool>) -> Self {
        Self {
            token: agent.token.versions(),
            network: agent.network.changes(),
            long_sleeps: agent.network.long_sleeps(),
            agent,
            index,
            stop,
            backoff: Backoff::default(),
            random: fastrand::Rng::new(),
            draining: JoinSet::new(),
            link: None,
            spare: None,
            lost: Vec::new(),
        }
    }

    pub(super) async fn run(mut self, once: bool) -> Result<(), Error> {
        loop {
            self.tell(AgentEvent::Connecting {
                link: self.index,
                relay: self.agent.config.relay.to_string(),
            });
            self.agent.board.connecting(self.index);
            // `seeks`: the relay was out of reach, and a change of the network ends the wait. `is_barred`: a proxy
            // refused the login, and is not asked again before its own wait is over.
            let (mut seeks, mut is_barred) = (false, false);
            let left = self.run_link().await;
            self.remember(left.is_err());
            let wait = match left {
                Ok(Left::Stopped) => break,
                Ok(Left::Moved(_)) if once => break,
                Ok(Left::Moved(wait)) => wait,
                Err(error) if once => return Err(error),
                Err(error) => {
                    let settles = self.network.is_settling();
                    let Some(mut wait) = self.backoff.after(&error, settles, &mut self.random)
                    else {
                        return Err(error);
                    };
                    if self.spare.is_some() {
                        wait = Duration::ZERO;
                    }
                    is_barred = error.is_refused_login();
                    seeks = !is_barred
                        && matches!(
                            error,
                            Error::Dial { .. }
                                | Error::Tls { .. }
                                | Error::Upgrade { .. }
                                | Error::Link { .. }
                        );
                    self.agent.board.backing_off(self.index);
                    self.tell(AgentEvent::Disconnected {
                        link: self.index,
                        reason: error.word(),
                        message: error.to_string(),
                        retry_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                    });
                    wait
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                // A refused token may have been replaced by a fresh one.
                () = changed(&mut self.token) => {}
                // The relay may be reachable again.
                () = self.network.changed(), if seeks => {}
                // The proxy may be asked again, or is not on the way any more.
                () = self.agent.dialler.not_barred(), if is_barred => {}
                () = stopped(&mut self.stop) => break,
            }
        }
        // Draining links end by themselves; each has its own deadline.
        while self.draining.join_next().await.is_some() {}
        Ok(())
    }

    /// Dials and runs one link.
    async fn run_link(&mut self) -> Result<Left, Error> {
        match self.dial().await? {
            Some(dialled) => self.attend(dialled).await,
            None => Ok(Left::Stopped),
        }
    }

    /// Dials the relay and starts a link; `None` if the agent is asked to stop meanwhile.
    async fn dial(&mut self) -> Result<Option<Dialled>, Error> {
        // Taken even if a step below fails: the relay waits 5 s for a connection's first frame, so a spare one is of no
        // use to a later dial.
        let spare = self.spare.take();
        let agent = Arc::clone(&self.agent);
        let config = &agent.config;
        self.token.mark_unchanged();
        self.long_sleeps.mark_unchanged();
        let registers = config.registrations()?.into_iter();
        let tunnels = config.targets.iter().map(|it| it.tunnel(&agent.identity));
        let connection = match spare {
            Some(connection) => connection,
            None => {
                self.network.mark_seen();
                tokio::select! {
                    dialled = settling::dial(Arc::clone(&agent), self.network.clone()) => dialled?,
                    () = changed(&mut self.long_sleeps) => return Err(asleep()),
                    () = stopped(&mut self.stop) => return Ok(None),
                }
            }
        };
        let address = connection.fixed_address();
        let link = Arc::new(Link::over(&connection));
        let (news, heard) = mpsc::channel(link::news_max(config.targets.len()));
        let start = Start {
            identity: Arc::clone(&agent.identity),
            relay_name: config.relay.name(),
            link_index: self.index,
            links: config.links,
            registers: registers.zip(tunnels).collect(),
            targets: Arc::clone(&agent.targets),
            lost: self.lost.clone(),
            news,
        };
        agent.board.linked(self.index, &link);
        self.link = Some(Arc::clone(&link));
        let mut task = JoinSet::new();
        task.spawn(link::run(Arc::clone(&link), connection, start));
        Ok(Some(Dialled {
            link,
            task,
            heard,
            address,
        }))
    }

    /// Reacts to the link's news, to due registrations and to changes around the agent, until the link leaves the slot.
    async fn attend(&mut self, dialled: Dialled) -> Result<Left, Error> {
        let Dialled {
            link,
            mut task,
            mut heard,
            address,
        } = dialled;
        let had = self.agent.had.iter().map(|it| it.load(Ordering::Relaxed));
        let mut it = Registrations::new(had, Instant::now());
        let mut stopping = false;
        let mut doubt = None;
        loop {
            if stopping {
                doubt = None;
            }
            let wakes_at = it.wakes_at();
            tokio::select! {
                // News first: the end of a link must not overtake its reason.
                biased;
                Some(news) = heard.recv() => match news {
                    News::Registered { target, granted } => self.registered(&mut it, target, granted),
                    News::Refused { target, refusal } => self.refused(&mut it, target, refusal),
                    News::Withdrawn { target, refusal } => self.withdrawn(&mut it, target, refusal),
                    News::GoingAway(away) if away.reason.is_final() || stopping => {
                        // The end of the link then reports the reason.
                        link.close(self.drain_deadline(&away), None);
                    }
                    // No tunnel is up and no time is left, so this is a refusal: the next dial comes after a wait that
                    // fits the reason.
                    News::GoingAway(away) if away.deadline_ms == 0 && !it.any_up() => {
                        return Err(Error::Link {
                            reason: away.reason,
                            side: Side::Peer,
                            detail: away.message,
                        });
                    }
                    News::GoingAway(away) => {
                        return Ok(self.move_away(away, it.any_up(), (link, task)));
                    }
                },
                ended = task.join_next() => return left_by(ended, stopping),
                () = stopped(&mut self.stop), if !stopping => {
                    stopping = true;
                    let deadline = Instant::now() + self.agent.config.drain_timeout;
                    link.close(deadline, Some(LinkEnd::ShuttingDown));
                }
                () = until(wakes_at), if !stopping => {
                    if it.is_unanswered(Instant::now()) {
                        return Err(unregistered());
                    }
                    self.ask(&mut it, &link);
                }
                // Before the change of the network, as which a sleep counts too.
                () = changed(&mut self.long_sleeps) => return Err(slept(&link)),
                () = self.network.changed() => self.check(&link, address, &mut doubt)?,
                judged = verdict(&mut doubt), if !stopping => {
                    doubt = None;
                    if let Some(connection) = judged? {
                        self.spare = Some(connection);
                        return Err(silent(&link));
                    }
                }
                () = changed(&mut self.token), if !stopping => it.token_changed(Instant::now()),
            }
            if !stopping && let Some(error) = it.failure() {
                return Err(error);
            }
        }
    }

    /// Checks the link after a change of this machine's network: the link ends if its `address` is gone, and else goes on
    /// from another address if it can, and is pinged, unless it has yet to answer an earlier doubt.
    fn check(
        &self,
        link: &Arc<Link>,
        address: Option<IpAddr>,
        doubt: &mut Option<Doubt>,
    ) -> Result<(), Error> {
        if let Some(address) = address.filter(|address| is_gone(*address)) {
            link.fell_silent();
            let lost = format!("this machine has lost the address {address}");
            return Err(Error::link_lost(lost));
        }
        // Before the ping, which then leaves from the new address.
        link.network_changed();
        if !doubt.as_ref().is_some_and(|doubt| doubt.is_open(link)) {
            *doubt = Doubt::of(&self.agent, link, &self.network);
        }
        Ok(())
    }

    /// Ends the slot's link; if `is_lost`, keeps what had arrived over it, to report to the relay.
    fn remember(&mut self, is_lost: bool) {
        if let Some(lost) = self
            .link
            .take()
            .filter(|_| is_lost)
            .and_then(|it| it.lost())
        {
            self.lost.insert(0, lost);
            self.lost.truncate(LOST_LINKS_MAX);
        }
    }

    /// Registers every target that is due, with the token that the token file holds now.
    fn ask(&mut self, it: &mut Registrations, link: &Link) {
        let due = it.take_due(Instant::now());
        if due.is_empty() {
            return;
        }
        match self.agent.config.registrations() {
            Ok(registers) => {
                let registers = registers.into_iter().enumerate();
                let asked = registers.filter(|(target, _)| due.contains(target));
                asked.for_each(|(target, register)| link.register(target, register));
            }
            Err(error) => {
                let error = Error::from(error);
                for target in due {
                    let left = it.not_renewed(target, Instant::now(), &mut self.random);
                    if let Some(left) = left {
                        self.ending(target, left, error.word(), error.to_string());
                    }
                }
            }
        }
    }

    fn registered(&mut self, it: &mut Registrations, target: usize, granted: Granted) {
        self.backoff.registered();
        // The relay has read the reports of lost links, which precede the registration.
        self.lost.clear();
        self.agent.had[target].store(true, Ordering::Relaxed);
        let lasts = granted.expires_in_s;
        if lasts > 0 {
            self.agent.token.want();
        }
        let change = it.granted(target, lasts, Instant::now(), &mut self.random);
        self.agent.board.registered(self.index, target, &granted);
        let at = self.agent.targets[target].to_string();
        match change {
            Change::Ending(left) => {
                let message = match &self.agent.config.token_file {
                    Some(path) => format!("{} holds no fresh token yet", path.display()),
                    None => "the relay did not extend it".to_owned(),
                };
                self.ending(target, left, RefusalReason::TokenExpired.word(), message);
            }
            Change::Renewed => self.tell(AgentEvent::Renewed {
                link: self.index,
                tunnel: granted.tunnel.to_string(),
                target: at,
                expires_in_s: lasts,
            }),
            Change::Up | Change::Refused { .. } => self.tell(AgentEvent::Registered {
                link: self.index,
                tunnel: granted.tunnel.to_string(),
                url: granted.urls.first().cloned().unwrap_or_default(),
                generation: granted.generation.0,
                urls: granted.urls,
                target: at,
            }),
        }
    }

    fn refused(&mut self, it: &mut Registrations, target: usize, refusal: Refusal) {
        let change = it.refused(target, refusal.clone(), Instant::now(), &mut self.random);
        self.not_granted(target, change, refusal);
    }

    fn withdrawn(&mut self, it: &mut Registrations, target: usize, refusal: Refusal) {
        let change = it.lost(target, refusal.clone(), Instant::now(), &mut self.random);
        self.not_granted(target, change, refusal);
    }

    fn not_granted(&self, target: usize, change: Change, refusal: Refusal) {
        let Refusal { reason, message } = refusal;
        if awaits_token(reason) {
            self.agent.token.want();
        }
        match change {
            Change::Ending(left) => self.ending(target, left, reason.word(), message),
            Change::Refused { is_final } => {
                let tunnel = self.agent.board.tunnel(target);
                let refusal = RefusalStatus {
                    reason: reason.word().to_owned(),
                    message: refusal_words(reason, &message, &tunnel),
                    is_final,
                };
                let message = refusal.message.clone();
                let is_news = self.agent.board.refused(self.index, target, refusal);
                // With a single target, the end of the agent or of the link reports the refusal.
                if is_news && self.agent.targets.len() > 1 {
                    self.tell(AgentEvent::TunnelRefused {
                        link: self.index,
                        tunnel,
                        target: self.agent.targets[target].to_string(),
                        reason: reason.word(),
                        message,
                        is_final,
                    });
                }
            }
            Change::Up | Change::Renewed => {}
        }
    }

    /// Reports that a tunnel's permission will end, and could not be renewed yet.
    fn ending(&self, target: usize, left: Duration, reason: &'static str, message: String) {
        self.tell(AgentEvent::Ending {
            link: self.index,
            tunnel: self.agent.board.tunnel(target),
            target: self.agent.targets[target].to_string(),
            expires_in_s: left.as_secs(),
            reason,
            message,
        });
    }

    /// Make before break: the old link's sessions go on while a new link is dialled. `is_up` is true if the link has a
    /// tunnel.
    fn move_away(
        &mut self,
        away: GoAway,
        is_up: bool,
        (link, task): (Arc<Link>, JoinSet<Result<(), Error>>),
    ) -> Left {
        // A deadline of 0 means that the relay has given the link up, because it took the link for dead.
        self.remember(away.deadline_ms == 0);
        let deadline_ms = u64::from(away.deadline_ms);
        let left = Duration::from_millis(deadline_ms).min(MOVE_DRAIN_MAX);
        self.tell(AgentEvent::GoingAway {
            link: self.index,
            reason: away.reason.word(),
            message: away.message,
        });
        link.close(Instant::now() + left, None);
        while self.draining.try_join_next().is_some() {}
        let (drain_timeout, stop) = (self.agent.config.drain_timeout, self.stop.clone());
        self.draining.spawn(drain(link, task, drain_timeout, stop));
        Left::Moved(move_wait(left, is_up, self.random.f64()))
    }

    fn drain_deadline(&self, away: &GoAway) -> Instant {
        let left = Duration::from_millis(u64::from(away.deadline_ms));
        Instant::now() + left.min(self.agent.config.drain_timeout)
    }

    fn tell(&self, event: AgentEvent) {
        self.agent.config.on_event.tell(&event);
    }
}

/// Wait before the next dial after a link that the relay lets live for `left`; `random` is from 0 to 1. A relay that sends
/// each link away before it has a tunnel is not dialled in a tight loop.
fn move_wait(left: Duration, is_up: bool, random: f64) -> Duration {
    let wait = (left / 4).min(MOVE_WAIT_MAX).mul_f64(random);
    match is_up {
        true => wait,
        false => wait.max(BACKOFF_MIN),
    }
}

/// Why a dial ends, or a link, during which this machine was asleep.
fn asleep() -> Error {
    Error::link_lost("this machine was asleep for longer than the relay keeps a link")
}

/// Why a link ends that was up while this machine was asleep: the relay has given it up.
fn slept(link: &Link) -> Error {
    link.fell_silent();
    asleep()
}

/// Why a link ends that a new connection replaces.
fn silent(link: &Link) -> Error {
    link.fell_silent();
    Error::Link {
        reason: LinkEnd::Stale,
        side: Side::Peer,
        detail: "no answer to a ping, while a new connection gets through".to_owned(),
    }
}

/// Why a link ends whose registration is not answered.
fn unregistered() -> Error {
    Error::Link {
        reason: LinkEnd::ClaimTimeout,
        side: Side::Peer,
        detail: "no answer to the registration".to_owned(),
    }
}

/// How a link left its slot whose task has `ended`.
fn left_by(
    ended: Option<Result<Result<(), Error>, JoinError>>,
    stopping: bool,
) -> Result<Left, Error> {
    match ended {
        Some(Ok(Ok(()))) => Ok(Left::Stopped),
        Some(Ok(Err(_))) if stopping => Ok(Left::Stopped),
        Some(Ok(Err(error))) => Err(error),
        Some(Err(_)) | None => Err(Error::link_lost("the link's task stopped")),
    }
}

/// Runs a draining link to its end; a stop of the agent shortens the link's deadline.
async fn drain(
    link: Arc<Link>,
    mut task: JoinSet<Result<(), Error>>,
    drain_timeout: Duration,
    mut stop: watch::Receiver<bool>,
) {
    tokio::select! {
        _ = task.join_next() => return,
        () = stopped(&mut stop) => link.close(Instant::now() + drain_timeout, None),
    }
    task.join_next().await;
}

/// Ready once the agent is asked to stop.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // The sender is dropped, and this task will be dropped with it.
        std::future::pending::<()>().await;
    }
}

/// Ready when the number in `count` has changed.
async fn changed(count: &mut watch::Receiver<u64>) {
    if count.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Ready at `deadline`, if there is one.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_sends_links_away_without_a_tunnel_is_dialled_after_a_wait() {
        let (moment, minute) = (Duration::from_millis(1), Duration::from_secs(60));
        assert_eq!(move_wait(moment, false, 0.5), BACKOFF_MIN);
        assert_eq!(move_wait(minute, false, 1.0), MOVE_WAIT_MAX);
        assert_eq!(move_wait(minute, true, 0.0), Duration::ZERO);
        assert!(move_wait(moment, true, 1.0) < moment);
    }
}
