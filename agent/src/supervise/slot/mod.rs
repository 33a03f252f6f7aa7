//! One of an agent's links, over all its reconnects: dials, registers, renews, dials again.
//! One file because the causes of a link's end and the reactions to them belong together.

mod answers;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tieline_wire::limits::LOST_LINKS_MAX;
use tieline_wire::{GoAway, LinkEnd, Lost, Register, Side};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Agent;
use super::chooser::Raced;
use super::dialled::Dialled;
use super::endings::{
    Left, MOVE_DRAIN_MAX, asleep, changed, drain, ended_by, is_loss, leave, outrun, silent, slept,
    stopped, unregistered, until,
};
use super::overtaking::{Overtaking, Rest, Turn};
use super::registrations::Registrations;
use super::settling::{self, Doubt, verdict};
use crate::address::is_gone;
use crate::error::Error;
use crate::event::AgentEvent;
use crate::link::{Link, News};
use crate::network::NetworkChanges;
use crate::reconnect::{BACKOFF_MIN, Backoff};
use crate::transport::{Connection, Transport};

/// Longest wait before dialling a relay that asked the agent to move; the wait is random, so that the relay's agents do
/// not arrive together.
const MOVE_WAIT_MAX: Duration = Duration::from_millis(500);

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
    /// Receiver of the number of signs of such changes.
    signs: watch::Receiver<u64>,
    /// Receiver of the number of this machine's sleeps that no link outlives.
    long_sleeps: watch::Receiver<u64>,
    /// The link that was dialled last, unless it drains.
    link: Option<Arc<Link>>,
    /// What the last link was over that had a tunnel.
    served_over: Option<Transport>,
    /// Connection for the next link, if the last link was given up for it.
    spare: Option<Raced>,
    /// The next link, if one was started beside the last link.
    next: Option<Running>,
    /// What had arrived over links that were lost since the last registration, the latest link first.
    lost: Vec<Lost>,
    /// Nonces of those that the present link reports.
    reported: Vec<[u8; 32]>,
}

/// A link that was started, and what goes on beside it.
struct Running {
    dialled: Dialled,
    beside: Overtaking,
    /// True for a link that goes on where the last one was left, of which the user need not hear.
    is_quiet: bool,
}

/// What a link's end calls for.
enum Leaving {
    /// The agent was asked to stop.
    Stopped,
    /// The relay asks for it; true if the link has a tunnel.
    Away(GoAway, bool),
    /// A link over another transport has taken over.
    Overtaken(Dialled),
}

impl Slot {
    pub(super) fn new(agent: Arc<Agent>, index: u16, stop: watch::Receiver<bool>) -> Self {
        Self {
            token: agent.token.versions(),
            network: agent.network.changes(),
            signs: agent.network.signs(),
            long_sleeps: agent.network.long_sleeps(),
            agent,
            index,
            stop,
            backoff: Backoff::default(),
            random: fastrand::Rng::new(),
            draining: JoinSet::new(),
            link: None,
            served_over: None,
            spare: None,
            next: None,
            lost: Vec::new(),
            reported: Vec::new(),
        }
    }

    pub(super) async fn run(mut self, once: bool) -> Result<(), Error> {
        loop {
            if !self.next.as_ref().is_some_and(|next| next.is_quiet) {
                self.tell(AgentEvent::Connecting {
                    link: self.index,
                    relay: self.agent.config.relay.to_string(),
                });
                self.agent.board.connecting(self.index);
            }
            // `seeks`: the relay was out of reach, and a change of the network ends the wait. `is_barred`: a proxy
            // refused the login, and is not asked again before its own wait is over.
            let (mut seeks, mut is_barred) = (false, false);
            let left = self.run_link().await;
            self.remember(left.is_err());
            let wait = match left {
                Ok(Left::Stopped) => break,
                Ok(Left::Overtaken) => continue,
                Ok(Left::Moved(_)) if once => break,
                Ok(Left::Moved(wait)) => wait,
                Err(error) if once && !self.is_still_dialling() => return Err(error),
                Err(error) => {
                    let settles = self.network.is_settling();
                    let Some(mut wait) = self.backoff.after(&error, settles, &mut self.random)
                    else {
                        return Err(error);
                    };
                    if self.spare.is_some() || self.next.is_some() {
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
        // What was kept for a next link is not needed.
        (self.next, self.spare) = (None, None);
        // Draining links end by themselves; each has its own deadline.
        while self.draining.join_next().await.is_some() {}
        Ok(())
    }

    /// True if the other transport of the first dial is still there, and no link has got as far as a tunnel.
    fn is_still_dialling(&self) -> bool {
        let had = self.agent.had.iter().any(|it| it.load(Ordering::Relaxed));
        !had && (self.spare.is_some() || self.next.is_some())
    }

    /// Runs one link, which is dialled if none has begun.
    async fn run_link(&mut self) -> Result<Left, Error> {
        let running = match self.next.take() {
            Some(running) => Some(running),
            None => self.dial().await?,
        };
        let Some(running) = running else {
            return Ok(Left::Stopped);
        };
        let link = &running.dialled.link;
        self.agent.board.linked(self.index, link);
        self.link = Some(Arc::clone(link));
        self.attend(running).await
    }

    /// Dials the relay and starts a link; `None` if the agent is asked to stop meanwhile.
    async fn dial(&mut self) -> Result<Option<Running>, Error> {
        // Taken even if a step below fails: the relay waits 5 s for a connection's first frame, so a spare one is of no
        // use to a later dial.
        let spare = self.spare.take();
        let agent = Arc::clone(&self.agent);
        self.token.mark_unchanged();
        self.long_sleeps.mark_unchanged();
        let registers = agent.config.registrations()?;
        let raced = match spare {
            Some(raced) => raced,
            None => {
                self.network.mark_seen();
                tokio::select! {
                    dialled = settling::dial(Arc::clone(&agent), self.network.clone()) => dialled?,
                    () = changed(&mut self.long_sleeps) => return Err(asleep()),
                    () = stopped(&mut self.stop) => return Ok(None),
                }
            }
        };
        let Raced {
            connection,
            rival,
            network,
        } = raced;
        let is_over_quic = connection.is_over_quic();
        Ok(Some(Running {
            dialled: self.start(connection, registers, self.lost.clone()),
            beside: Overtaking::beside(&agent, is_over_quic, rival, network),
            is_quiet: false,
        }))
    }

    fn start(&self, connection: Connection, registers: Vec<Register>, lost: Vec<Lost>) -> Dialled {
        Dialled::start(&self.agent, self.index, connection, registers, lost)
    }

    /// Runs a link until it leaves the slot.
    async fn attend(&mut self, running: Running) -> Result<Left, Error> {
        let Running {
            mut dialled,
            mut beside,
            is_quiet,
        } = running;
        let had = self.agent.had.iter().map(|it| it.load(Ordering::Relaxed));
        let mut it = Registrations::new(had, Instant::now());
        self.reported = std::mem::take(&mut dialled.reported);
        for news in std::mem::take(&mut dialled.early) {
            match news {
                News::Registered { target, granted } if is_quiet => {
                    self.note(&mut it, target, &granted);
                    beside.registered();
                }
                News::Registered { target, granted } => {
                    self.registered(&mut it, target, granted);
                    beside.registered();
                }
                News::Refused { target, refusal } => self.refused(&mut it, target, refusal),
                News::Withdrawn { target, refusal } => self.withdrawn(&mut it, target, refusal),
                News::GoingAway(_) => {}
            }
        }
        let left = self.react(&mut dialled, &mut beside, &mut it).await;
        beside.ended(left.as_ref().err());
        match left {
            Ok(Leaving::Stopped) => Ok(Left::Stopped),
            Ok(Leaving::Away(away, is_up)) => {
                self.keep(beside);
                Ok(self.move_away(away, is_up, dialled))
            }
            Ok(Leaving::Overtaken(next)) => {
                Ok(self.overtaken(dialled, next, beside.rest().network))
            }
            Err(error) => {
                if is_loss(&error) {
                    self.keep(beside);
                }
                Err(error)
            }
        }
    }

    /// Keeps what went on beside a link for the next one.
    fn keep(&mut self, beside: Overtaking) {
        if self.spare.is_some() {
            return;
        }
        let Rest {
            connection,
            dialled,
            network,
        } = beside.rest();
        self.spare = connection.map(|connection| Raced::of(connection, network.clone()));
        self.next = dialled.map(|dialled| Running {
            dialled,
            beside: Overtaking::beside(&self.agent, true, None, network),
            is_quiet: false,
        });
    }

    /// Make before break: goes on with `next`, over which all tunnels are up, while the sessions of the earlier link end.
    fn overtaken(&mut self, earlier: Dialled, next: Dialled, network: Option<String>) -> Left {
        tracing::info!(
            link = self.index,
            transport = "quic",
            "the link goes on over QUIC; its sessions end over the earlier connection"
        );
        self.part(earlier);
        self.next = Some(Running {
            dialled: next,
            beside: Overtaking::beside(&self.agent, true, None, network),
            is_quiet: true,
        });
        Left::Overtaken
    }

    /// Leaves a link whose sessions go on, while another link of the slot gets the new ones.
    fn part(&mut self, Dialled { link, task, .. }: Dialled) {
        let (drain_timeout, stop) = (self.agent.config.drain_timeout, self.stop.clone());
        while self.draining.try_join_next().is_some() {}
        self.draining.spawn(leave(link, task, drain_timeout, stop));
    }

    /// Reacts to the link's news, to due registrations and to changes around the agent, until the link leaves the slot.
    async fn react(
        &mut self,
        dialled: &mut Dialled,
        beside: &mut Overtaking,
        it: &mut Registrations,
    ) -> Result<Leaving, Error> {
        let link = Arc::clone(&dialled.link);
        let chooses = self.agent.dialler.relay().chooses();
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
                Some(news) = dialled.heard.recv() => {
                    if let Some(away) = self.heard(news, it, &link, stopping)? {
                        return Ok(Leaving::Away(away, it.any_up()));
                    }
                    if it.any_up() {
                        beside.registered();
                    }
                }
                ended = dialled.task.join_next() => {
                    return ended_by(ended, stopping).map(|()| Leaving::Stopped);
                }
                () = stopped(&mut self.stop), if !stopping => {
                    stopping = true;
                    self.close(&link, beside);
                }
                () = until(wakes_at), if !stopping => {
                    if it.is_unanswered(Instant::now()) {
                        return Err(unregistered());
                    }
                    self.ask(it, &link);
                }
                // Before the change of the network, as which a sleep counts too.
                () = changed(&mut self.long_sleeps) => return Err(slept(&link)),
                () = changed(&mut self.signs) => link.may_have_lost_its_address(),
                () = self.network.changed() => {
                    beside.network_changed();
                    self.check(&link, dialled.address, &mut doubt)?;
                }
                () = link.doubted(), if chooses && !stopping => self.suspect(&link, &mut doubt),
                judged = verdict(&mut doubt), if !stopping => {
                    doubt = None;
                    if let Some(raced) = judged? {
                        self.spare = Some(raced);
                        return Err(silent(&link));
                    }
                }
                () = changed(&mut self.token), if !stopping => it.token_changed(Instant::now()),
                turn = beside.turn(), if !stopping => {
                    if let Some(next) = self.turned(turn, &link, beside, it)? {
                        return Ok(Leaving::Overtaken(next));
                    }
                }
            }
            if !stopping && let Some(error) = it.failure() {
                return Err(error);
            }
        }
    }

    /// Closes the link, and what was begun beside it, because the agent stops; sessions may finish.
    fn close(&mut self, link: &Link, beside: &mut Overtaking) {
        let deadline = Instant::now() + self.agent.config.drain_timeout;
        link.close(deadline, Some(LinkEnd::ShuttingDown));
        // It may have sessions already.
        if let Some(candidate) = beside.stop() {
            self.part(candidate);
        }
    }

    /// Handles a link's news; returns the relay's wish that the agent leaves the link.
    ///
    /// # Errors
    /// The relay refuses the link.
    fn heard(
        &mut self,
        news: News,
        it: &mut Registrations,
        link: &Link,
        stopping: bool,
    ) -> Result<Option<GoAway>, Error> {
        match news {
            News::Registered { target, granted } => self.registered(it, target, granted),
            News::Refused { target, refusal } => self.refused(it, target, refusal),
            News::Withdrawn { target, refusal } => self.withdrawn(it, target, refusal),
            News::GoingAway(away) if away.reason.is_final() || stopping => {
                // The end of the link then reports the reason.
                link.close(self.drain_deadline(&away), None);
            }
            // No tunnel is up and no time is left, so this is a refusal: the next dial comes after a wait that fits the
            // reason.
            News::GoingAway(away) if away.deadline_ms == 0 && !it.any_up() => {
                return Err(Error::Link {
                    reason: away.reason,
                    side: Side::Peer,
                    detail: away.message,
                });
            }
            News::GoingAway(away) => return Ok(Some(away)),
        }
        Ok(None)
    }

    /// Does what is due beside the link; returns the link over QUIC that takes over.
    ///
    /// # Errors
    /// The link is given up, because it does not register, for a connection that is kept as the spare one.
    fn turned(
        &mut self,
        turn: Turn,
        link: &Link,
        beside: &mut Overtaking,
        it: &mut Registrations,
    ) -> Result<Option<Dialled>, Error> {
        match turn {
            Turn::Outrun(connection) => {
                if let Some(connection) = beside.outrun(connection, link.is_established()) {
                    self.spare = Some(Raced::of(connection, beside.network()));
                    return Err(outrun());
                }
            }
            Turn::Connected(connection) => match self.agent.config.registrations() {
                Ok(registers) => {
                    beside.register(self.start(connection, registers, self.lost.clone()));
                }
                // The token file may be in the middle of a change.
                Err(error) => {
                    tracing::debug!(%error, "no link over QUIC is started");
                    beside.wait();
                }
            },
            Turn::Answered(next) => {
                let granted = next.granted();
                if granted.is_empty() {
                    // The relay has refused all.
                    return Ok(None);
                }
                if it.are_covered_by(&granted) {
                    return Ok(Some(next));
                }
                // What it has took the place of this link's tunnels at the relay, and may have sessions.
                it.again(Instant::now());
                self.part(next);
            }
            // An answer may be lost: the relay then sends calls to the link that is gone, and nowhere after its end.
            Turn::GivenUp => it.again(Instant::now()),
        }
        Ok(None)
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

    /// Finds out whether a link over QUIC still works that does not answer a ping: a router may have forgotten its port, so
    /// that it goes on from another one, or UDP is blocked, and another connection takes its place.
    fn suspect(&self, link: &Arc<Link>, doubt: &mut Option<Doubt>) {
        if !doubt.as_ref().is_some_and(|doubt| doubt.is_open(link)) {
            link.network_changed();
            *doubt = Doubt::quick(&self.agent, link, &self.network);
        }
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

    /// Make before break: the old link's sessions go on while a new link is dialled. `is_up` is true if the link has a
    /// tunnel.
    fn move_away(
        &mut self,
        away: GoAway,
        is_up: bool,
        Dialled { link, task, .. }: Dialled,
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
