//! One shard: a thread that owns its ring, links, sessions and counters.
//!
//! Shards share only mailboxes and the atomic counters and snapshots in [`Peers`].
//!
//! The state has owners, which know neither the shard nor each other: [`Agents`] their links and tunnels, [`Callers`]
//! who the callers are, [`Directory`] names and routes, [`ShardListeners`] the listeners, and the [`Kit`] what they
//! have in common. A shard takes messages and ticks, and drives them. Files of this folder with an `impl Shard` join
//! two owners.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::{debug, info_span};

use crate::auth::Snapshot;
use crate::directory::{Directory, Restored, Rules};
use crate::io::{Chosen, Spin, run_spinning, sleep};
use crate::listen;
use crate::metrics::ShardMetrics;

mod accept;
mod agents;
mod arrived;
mod callers;
mod crossings;
mod doors;
mod drain;
mod frontends;
mod gateway;
mod hint;
mod home;
mod kit;
mod links;
mod mail;
mod peers;
mod place;
mod placement;
mod quic;
mod routing;
mod task_set;
mod tls;
mod upgrades;

pub(crate) use agents::ADDRESS_QUESTIONS_MAX;
use agents::Agents;
pub(crate) use arrived::CallerCount;
use callers::Callers;
use doors::ShardListeners;
use kit::Kit;
use mail::OpenMailbox;
pub(crate) use mail::message::{Message, Paused, QuicMessage, Stop};
pub(crate) use mail::{Mailbox, MailboxSender, mailbox};
pub(crate) use peers::{ADDRESS_HANDSHAKES_MAX, Peers};

/// Arguments of a shard's start.
pub(crate) struct Seed {
    pub(crate) index: usize,
    pub(crate) driver: Chosen,
    pub(crate) mailbox: Mailbox,
    pub(crate) metrics: Arc<ShardMetrics>,
    pub(crate) peers: Arc<Peers>,
    /// Names bound before the relay started, of all home shards.
    pub(crate) restored: Arc<[Restored]>,
}

/// One core's part of the relay.
pub(crate) struct Shard {
    kit: Rc<Kit>,
    agents: Rc<Agents>,
    callers: Callers,
    directory: Directory<listen::http::Target>,
    doors: ShardListeners,
}

/// Runs a shard on this thread until a stop message; `started` receives the outcome of the start.
///
/// # Errors
/// The failure that ended the shard before a stop message.
pub(crate) fn run(seed: Seed, started: impl FnOnce(io::Result<()>)) -> io::Result<()> {
    let index = seed.index;
    debug!(shard = index, "shard starts");
    let driver = seed.driver;
    let started = Cell::new(Some(started));
    let tell = |outcome: io::Result<()>| match started.take() {
        Some(started) => {
            started(outcome);
            Ok(())
        }
        None => outcome,
    };
    let metrics = Arc::clone(&seed.metrics);
    let spin = Spin {
        limit: Duration::from_micros(seed.peers.config.spin_us.into()),
        passed: &|| metrics.spin_passes.inc(),
    };
    let outcome = run_spinning(driver, &spin, async {
        let _span = info_span!("shard", id = index).entered();
        match Shard::open(seed) {
            Ok((shard, mailbox)) => {
                tell(Ok(()))?;
                shard.serve(mailbox).await
            }
            Err(error) => tell(Err(error)),
        }
    });
    match outcome {
        Ok(ended) => ended,
        Err(error) => tell(Err(error)),
    }
}

impl Shard {
    fn open(seed: Seed) -> io::Result<(Rc<Self>, OpenMailbox)> {
        let Seed {
            index,
            mailbox,
            metrics,
            peers,
            restored,
            ..
        } = seed;
        let mailbox = mailbox.open()?;
        let rules = Rules {
            epoch_seconds: peers.epoch_seconds,
            shards: peers.mailboxes.len(),
            live: Arc::clone(&peers.live_tunnels),
            live_max: peers.config.max_tunnels,
            live_of_accounts: Arc::clone(&peers.live_of_accounts),
            is_kept: peers.book.is_kept(),
        };
        let kit = Kit::new(index, metrics, Arc::clone(&peers));
        let now = kit.clock.now();
        let times = (now, now + peers.config.callers.start_grace);
        let make = listen::http::Target::new;
        let directory = Directory::new(index, rules, &restored, make, times);
        drop(restored);
        let shard = Rc::new(Self {
            agents: Agents::new(&kit),
            callers: Callers::new(&kit),
            directory,
            doors: ShardListeners::new(Arc::clone(&peers.accepting)),
            kit,
        });
        let ticking = Rc::clone(&shard);
        shard.kit.tasks.spawn(async move { ticking.tick().await });
        Ok((shard, mailbox))
    }

    async fn serve(self: Rc<Self>, mut mailbox: OpenMailbox) -> io::Result<()> {
        let _closed = ClosedAtTheEnd(&self);
        let (stop, ended) = loop {
            match mailbox.next().await {
                Ok(Message::Stop(stop)) => break (stop, Ok(())),
                Ok(message) => self.handle(message),
                Err(error) => break (Stop::NOW, Err(error)),
            }
        };
        self.stop(mailbox, stop).await;
        ended
    }

    /// Handles one message from a shard or from the control thread.
    fn handle(self: &Rc<Self>, message: Message) {
        match message {
            Message::Link {
                stream,
                source,
                stranger,
                nonce,
            } => self.serve_link(
                stream.attach(),
                (source, stranger),
                nonce.map(|nonce| *nonce),
            ),
            Message::Lane { stream, nonce } => self.agents.lane_arrived(stream.attach(), &nonce),
            Message::Frontend {
                stream,
                identity,
                raw,
            } => self.raw_moved_here(stream, identity, raw),
            Message::Http {
                stream,
                source,
                arrived,
            } => self.http_moved_here(stream, source, arrived),
            Message::Crossing { fd, request, back } => self.crossing_arrived(fd, request, back),
            Message::Claim(claim) => self.decide_claim(*claim),
            Message::Release { tunnel, link, kind } => self.name_released(&tunnel, link, kind),
            Message::Route(update) => self.apply_route(&update),
            Message::RouteApplied {
                tunnel,
                revision,
                shard,
            } => self.route_applied(&tunnel, revision, shard),
            Message::ClaimAnswered {
                link,
                request,
                tunnel,
                outcome,
            } => match outcome {
                Ok(generation) => self
                    .agents
                    .grant_registration(link, request, tunnel, generation),
                Err(refusal) => self
                    .agents
                    .refuse_registration(link, request, &tunnel, refusal),
            },
            Message::Lost(told) => self.agents.apply_lost_report(&told),
            Message::Doubt(run) => self.agents.confirm_links(&run),
            Message::Fence { link, reason } => self.agents.fence(link, reason),
            Message::Listen {
                kind,
                is_tls,
                socket,
                sockets,
            } => self.listen(kind, is_tls, socket, sockets),
            Message::Quic(message) => self.quic_arrived(message),
            // The control thread may have stopped waiting for any of these answers.
            Message::Report { after, answer } => drop(answer.send(self.agents.report(&after))),
            Message::Detail { tunnel, answer } => drop(answer.send(self.detail(&tunnel))),
            Message::Forget { tunnel, answer } => self.forget_name(&tunnel, answer),
            Message::Kick { tunnel, answer } => drop(answer.send(self.agents.kick(&tunnel))),
            Message::Pause { tunnels, answer } => drop(answer.send(self.agents.pause(tunnels))),
            Message::Auth { snapshot, ended } => self.auth_changed(snapshot, ended),
            Message::Tls(configs) => self.tls_changed(configs),
            Message::Ruled(ruled) => self.agents.ruled(&ruled.0, ruled.1),
            Message::Stop(_) => {}
            #[cfg(test)]
            Message::Panic => panic!("panic requested by a test"),
        }
    }

    /// Sweeps links, names, lost links and due permissions at a fixed period.
    async fn tick(self: Rc<Self>) {
        // A sixteenth of the stale timeout: pings leave in time, and an eviction is late by one period at most.
        let period = (self.kit.peers.config.stale_timeout / 16)
            .clamp(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            sleep(period).await;
            self.agents.sweep_links().await;
            self.sweep_names();
            self.agents.sweep_lost();
            self.agents.renew_permissions().await;
        }
    }

    /// Replaces the auth snapshot and ends the links and callers that it no longer allows; `ended` receives the number
    /// of links.
    fn auth_changed(&self, snapshot: Arc<Snapshot>, ended: oneshot::Sender<usize>) {
        // Snapshots arrive in order, since one sender sends them all.
        *self.kit.auth.borrow_mut() = Arc::clone(&snapshot);
        self.callers.recheck(&snapshot);
        let agents = Rc::clone(&self.agents);
        self.kit.tasks.spawn(async move {
            // The control thread may have stopped waiting.
            let _ = ended.send(agents.recheck(&snapshot).await);
        });
    }
}

/// Closes both task sets on drop, so that every task and its sockets end however the shard ends.
struct ClosedAtTheEnd<'a>(&'a Shard);

impl Drop for ClosedAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.doors.tasks.close();
        self.0.doors.packets.close();
        self.0.kit.tasks.close();
    }
}

#[cfg(test)]
mod tests;
