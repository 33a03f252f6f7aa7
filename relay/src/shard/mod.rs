//! One shard: a thread that owns its ring, links, sessions and counters.
//!
//! Shards share only mailboxes and the atomic counters and snapshots in [`Peers`].

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indexmap::IndexMap;
use tieline_wire::{Moment, TunnelId};
use tracing::{debug, info_span};

use crate::audit::Audit;
use crate::auth::{AskControl, Snapshot};
use crate::clock::Clock;
use crate::config::{Config, PublicUrls};
use crate::directory::{Names, Restored, Routes, Rules, home};
use crate::error::ListenKind;
use crate::io::{Chosen, Listener, Socket, Spin, run_spinning, sleep};
use crate::limits::{Limits, LiveTunnels, PerAddress};
use crate::link::LinkBlock;
use crate::listen;
use crate::metrics::ShardMetrics;
use crate::registry::Registry;
use crate::session::{Lanes, ProbedLinks};
use crate::splice::ReadBlock;
use crate::state::{Book, Note};

mod admission;
mod arbiter;
mod arrived;
mod audit;
mod callers;
mod crossings;
mod doors;
mod drain;
mod frontends;
mod gate;
mod gateway;
mod hint;
mod lanes;
pub(crate) mod limits;
mod links;
mod log_budget;
mod lost;
mod mail;
mod operator;
mod placement;
mod provider;
mod waiting;
mod withdrawal;

pub(crate) use arrived::CallerCount;
use callers::Callers;
use gate::Gate;
use log_budget::LogBudget;
use lost::LostLinks;
pub(crate) use mail::message::{Message, Paused, Stop};
use mail::{Mail, OpenMailbox};
pub(crate) use mail::{Mailbox, MailboxSender, mailbox};

/// State that all shards share.
pub(crate) struct Peers {
    pub(crate) config: Config,
    /// Auth snapshot at the start; later ones arrive as [`Message::Auth`].
    pub(crate) auth: Arc<Snapshot>,
    /// The audit log.
    pub(crate) audit: Audit,
    /// Limits on requests, sessions, bytes and registrations, if any are configured.
    pub(crate) limits: Option<Arc<Limits>>,
    /// Limits per address for agents without a tunnel: open links, and open provider questions.
    pub(crate) new_links: Option<Arc<PerAddress>>,
    pub(crate) new_questions: Option<Arc<PerAddress>>,
    /// Queue of requests to the control thread.
    pub(crate) asks: AskControl,
    /// Sending half of each shard's mailbox.
    pub(crate) mailboxes: Arc<[MailboxSender]>,
    /// Number of links of each shard, including those in hand-off to it.
    pub(crate) loads: Vec<AtomicUsize>,
    /// Number of callers on all shards.
    pub(crate) callers: CallerCount,
    /// Number of live names on all shards.
    pub(crate) live_tunnels: Arc<AtomicUsize>,
    /// Makes the public URLs of tunnels that agents are told.
    pub(crate) public_urls: PublicUrls,
    /// Seals references to one agent; one key for all shards, since a caller may return on any of them.
    pub(crate) sealer: listen::http::Sealer,
    /// Number of this relay start: seconds since 1970, or higher if an earlier start had a higher number.
    pub(crate) epoch_seconds: u64,
    /// Number of live names of each account, with its limit.
    pub(crate) live_of_accounts: Arc<LiveTunnels>,
    /// Queue of the state folder, which keeps bindings of names over a restart.
    pub(crate) book: Book,
    /// Tunnels paused at the start; later sets arrive as [`Message::Pause`].
    pub(crate) paused: Arc<Paused>,
    /// Token held by every shard and control task that accepts connections.
    pub(crate) accepting: Arc<()>,
    /// Limit on open file descriptors of the process, if there is one.
    pub(crate) open_files_max: Option<u64>,
}

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
    index: usize,
    peers: Arc<Peers>,
    clock: Clock,
    metrics: Arc<ShardMetrics>,
    registry: RefCell<Registry>,
    lost: RefCell<LostLinks>,
    /// Current auth snapshot; replaced as a whole.
    auth: RefCell<Arc<Snapshot>>,
    /// Paused tunnels; replaced as a whole.
    paused: RefCell<Arc<Paused>>,
    routes: RefCell<Routes<listen::http::Target>>,
    names: RefCell<Names>,
    /// Notes about names that wait for room in the state folder's queue.
    unsaved: RefCell<IndexMap<TunnelId, Box<Note>>>,
    /// Number of tunnels that this shard last reported to the metrics.
    counted_tunnels: Cell<usize>,
    mail: Rc<Mail>,
    log_budget: LogBudget,
    listeners: RefCell<Vec<(ListenKind, Rc<Listener>, usize)>>,
    /// Accept loops; they end before all other tasks.
    doors: Rc<Gate>,
    /// This shard's [`Peers::accepting`] token; dropped when the accept loops end.
    accepting: Cell<Option<Arc<()>>>,
    draining: Cell<bool>,
    gate: Rc<Gate>,
    read_block: Rc<ReadBlock>,
    link_block: LinkBlock,
    lanes: Rc<Lanes>,
    probed: Rc<ProbedLinks>,
    /// Start of the shard, and so of the relay.
    started: Moment,
    http_settings: Rc<listen::http::Settings>,
    sealer: Rc<listen::http::Sealer>,
    callers: Rc<Callers>,
    /// Callers that are being sent an overload answer because the relay has no room for them.
    told: Cell<usize>,
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
        let shards = peers.mailboxes.len();
        let mut names = Names::new(Rules {
            epoch_seconds: peers.epoch_seconds,
            shards,
            live: Arc::clone(&peers.live_tunnels),
            live_max: peers.config.max_tunnels,
            live_of_accounts: Arc::clone(&peers.live_of_accounts),
            is_kept: peers.book.is_kept(),
        });
        let mut routes = Routes::new(listen::http::Target::new);
        let clock = Clock::start();
        for it in restored.iter() {
            if home(&it.binding.tunnel, shards) == index {
                names.restore(it, clock.now());
            }
            routes.apply(Arc::clone(&it.update), clock.now());
        }
        drop(restored);
        let gate = Rc::<Gate>::default();
        let shard = Rc::new(Self {
            index,
            started: clock.now(),
            mail: Mail::new(&peers.mailboxes, clock, &metrics, &gate),
            callers: Rc::default(),
            told: Cell::new(0),
            http_settings: Rc::new(frontends::http_settings(&peers.config)),
            sealer: Rc::new(peers.sealer.clone()),
            clock,
            lanes: Lanes::new(index, Arc::clone(&metrics)),
            probed: Rc::default(),
            metrics,
            registry: RefCell::default(),
            lost: RefCell::default(),
            auth: RefCell::new(Arc::clone(&peers.auth)),
            paused: RefCell::new(Arc::clone(&peers.paused)),
            routes: RefCell::new(routes),
            names: RefCell::new(names),
            unsaved: RefCell::default(),
            counted_tunnels: Cell::new(0),
            log_budget: LogBudget::default(),
            listeners: RefCell::default(),
            doors: Rc::default(),
            accepting: Cell::new(Some(Arc::clone(&peers.accepting))),
            draining: Cell::new(false),
            gate,
            read_block: Rc::default(),
            link_block: LinkBlock::default(),
            peers,
        });
        let mailbox = mailbox.open()?;
        let ticking = Rc::clone(&shard);
        shard.gate.spawn(async move { ticking.tick().await });
        let (probed, clock) = (Rc::clone(&shard.probed), shard.clock);
        shard
            .gate
            .spawn(async move { probed.watch(|| clock.now()).await });
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
                fd,
                peer,
                stranger,
                greeting,
            } => self.serve_link(Socket::new(fd), (peer, stranger), greeting.map(|it| *it)),
            Message::Lane { fd, nonce } => self.lane_moved_here(fd, &nonce),
            Message::Frontend(frontend) => self.raw_moved_here(frontend),
            Message::Http { fd, peer, arrived } => self.http_moved_here(fd, peer, arrived),
            Message::Crossing { fd, request, back } => self.crossing_arrived(fd, request, back),
            Message::Claim(claim) => self.decide(*claim),
            Message::Release { tunnel, link, kind } => self.name_released(&tunnel, link, kind),
            Message::Route(update) => self.route_decided(&update),
            Message::RouteApplied {
                tunnel,
                revision,
                shard,
            } => {
                self.route_confirmed(&tunnel, revision, shard);
            }
            Message::Claimed {
                link,
                request,
                tunnel,
                generation,
            } => {
                self.claim_granted(link, request, tunnel, generation);
            }
            Message::ClaimRefused {
                link,
                request,
                tunnel,
                refusal,
            } => {
                self.claim_refused(link, request, &tunnel, refusal);
            }
            Message::Lost(told) => self.lost_told(&told),
            Message::Fence { link, reason } => self.fence(link, reason),
            Message::Listen {
                kind,
                socket,
                sockets,
            } => self.listen(kind, socket, sockets),
            // The control thread may have stopped waiting for any of these answers.
            Message::Report { after, answer } => drop(answer.send(self.report(&after))),
            Message::Detail { tunnel, answer } => drop(answer.send(self.detail(&tunnel))),
            Message::Forget { tunnel, answer } => self.forget_name(&tunnel, answer),
            Message::Kick { tunnel, answer } => drop(answer.send(self.kick(&tunnel))),
            Message::Pause { tunnels, answer } => drop(answer.send(self.pause(tunnels))),
            Message::Auth { snapshot, ended } => self.auth_changed(snapshot, ended),
            Message::Ruled(ruled) => self.ruled(&ruled.0, ruled.1),
            Message::Stop(_) => {}
            #[cfg(test)]
            Message::Panic => panic!("panic requested by a test"),
        }
    }

    /// Sweeps links, names, lost links and due permissions at a fixed period.
    async fn tick(self: Rc<Self>) {
        // A sixteenth of the stale timeout: pings leave in time, and an eviction is late by one period at most.
        let period = (self.peers.config.stale_timeout / 16)
            .clamp(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            sleep(period).await;
            self.sweep_links().await;
            self.sweep_names();
            self.sweep_lost();
            self.renew_permissions().await;
        }
    }

    /// Whether the log budget allows another line that a peer caused.
    fn may_log(&self) -> bool {
        self.log_budget.takes_one(self.clock.now())
    }

    fn seconds_since_1970() -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    }
}

/// Closes both gates on drop, so that every task and its sockets end however the shard ends.
struct ClosedAtTheEnd<'a>(&'a Shard);

impl Drop for ClosedAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.doors.close();
        self.0.gate.close();
    }
}

#[cfg(test)]
mod tests;
