//! Tieline's relay: joins callers to agents that dialled out from behind NAT.
//! Long because a start is told in one place, and a stop beside it.
//!
//! ```no_run
//! use tieline_relay::{Config, Relay};
//!
//! # fn main() -> Result<(), tieline_relay::StartError> {
//! // Loopback only, every port chosen by the kernel.
//! let relay = Relay::start(Config::default())?;
//! println!("agents dial {:?}", relay.agent_addresses());
//! println!("callers use {:?}", relay.http_addresses());
//! relay.stop();
//! # Ok(())
//! # }
//! ```
//!
//! A relay owns its threads: one per shard, each with its own ring, and one for control. It runs
//! beside any other runtime of the process.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tracing::{error, info, warn};

mod audit;
mod auth;
pub mod cli;
mod clock;
pub mod config;
mod control;
mod doors;
pub mod error;
mod host;
mod inspector;
mod io;
mod limits;
mod link;
mod listen;
mod metrics;
mod registry;
mod session;
mod shard;
mod splice;
mod state;
mod takeover;

pub use auth::{issue_token, new_token};
pub use config::{
    Allowance, AuditConfig, Auth, CallerAuth, Config, DriverChoice, HttpConfig, JwksSource,
    JwtAuth, LimitsConfig, ProviderAuth, TokensAuth,
};
pub use error::{ConfigError, ListenKind, StartError};
pub use io::DriverReport;

use audit::{Audit, Entry, Kind};
use auth::{Snapshot, asking};
use config::PublicUrls;
use control::Control;
use doors::Doors;
use inspector::Inspector;
use io::Chosen;
use limits::{Limits, LiveTunnels, PerAddress};
use listen::http::Sealer;
use metrics::ShardMetrics;
use shard::limits::ADDRESS_QUESTIONS_MAX;
use shard::{Mailbox, MailboxSender, Message, Owners, Peers, Restored, Seed, Stop};
use state::{Folder, Kept, State};
use takeover::{Door, Offer, Successor};

/// Below this limit of open files an operator is told that it is low; systemd's default is 524288
/// (systemd.exec(5), `LimitNOFILE=`).
const FD_LIMIT_LOW: u64 = 4096;

/// A relay that runs. Dropping it stops it at once, without draining.
pub struct Relay {
    addresses: Addresses,
    driver: DriverReport,
    drain: Duration,
    shards: Vec<JoinHandle<()>>,
    peers: Arc<Peers>,
    control: Option<Control>,
    /// Writes what `peers.audit` is told.
    writer: Option<audit::Writer>,
    /// What outlasts a restart, until it is given up.
    state: takeover::Shared,
    /// Lets another relay take this one's place.
    offer: Option<Offer>,
}

/// A shard that ended although nobody had asked it to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardLost {
    /// Which one, counted from 0.
    pub shard: usize,
    /// Why.
    pub cause: String,
}

struct Addresses {
    agent: Vec<SocketAddr>,
    tcp: Vec<SocketAddr>,
    http: Vec<SocketAddr>,
}

impl Addresses {
    fn of(doors: &Doors) -> Self {
        Self {
            agent: doors.addresses(ListenKind::Agent),
            tcp: doors.addresses(ListenKind::Tcp),
            http: doors.addresses(ListenKind::Http),
        }
    }
}

impl Relay {
    /// Binds every listener, starts every thread, and returns once the relay serves.
    ///
    /// # Errors
    /// [`StartError`] names the address, driver or thread, and the likely cause.
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::start_watched(config, |_| {})
    }

    /// Like [`Relay::start`]. `lost` hears of a shard that ended although nobody had asked it to: its
    /// tunnels, and the names that it decides on, are gone, and new links may be lost with it, until
    /// this relay is stopped and another starts. It is called on the shard's thread, so it must not
    /// stop the relay itself.
    ///
    /// # Errors
    /// As [`Relay::start`].
    pub fn start_watched(
        config: Config,
        lost: impl Fn(ShardLost) + Clone + Send + 'static,
    ) -> Result<Self, StartError> {
        Self::start_succeeded(config, lost, || {})
    }

    /// Like [`Relay::start_watched`]. `taken` hears of another relay that has taken this one's place, with
    /// its sockets, and is ready: this one is to [`Relay::hand_over`] then.
    ///
    /// # Errors
    /// As [`Relay::start`].
    pub fn start_succeeded(
        config: Config,
        lost: impl Fn(ShardLost) + Clone + Send + 'static,
        taken: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        config.check()?;
        let fd_limit = io::raise_fd_limit();
        let (driver, report) = choose_driver(config.driver)?;
        match &report.reason {
            Some(reason) => warn!(driver = report.driver, "{reason}; going on with epoll"),
            None => info!(
                driver = report.driver,
                shards = config.shards,
                fd_limit,
                "relay starts"
            ),
        }
        if let Some(limit) = fd_limit.filter(|limit| *limit < FD_LIMIT_LOW) {
            warn!(
                fd_limit = limit,
                "only {limit} open files are allowed, one for each link and frontend: raise the \
                 hard limit, see `ulimit -n` or `LimitNOFILE=` of systemd"
            );
        }
        config.say_memory();
        let mut successor = ask_to_take_over(&config)?;
        let passed = successor.as_mut().map(|it| std::mem::take(&mut it.doors));
        let mut doors = Doors::bind(&config, passed.unwrap_or_default())?;
        let addresses = Addresses::of(&doors);
        if let Some(successor) = &mut successor {
            successor.bound()?;
        }
        let (state, kept) = take_state(&config)?;
        for told in config.warnings(&addresses.http) {
            warn!("{told}");
        }
        let (mailboxes, inboxes) = mailboxes(config.shards)?;
        let (audit, writer) = Audit::start(config.audit.as_ref())?;
        audit.note(|| Entry::new(Kind::Started).what(env!("CARGO_PKG_VERSION").to_owned()));
        let metrics: Vec<_> = (0..config.shards)
            .map(|_| Arc::new(ShardMetrics::new(config.shard_budget_bytes)))
            .collect();
        let (asks, asked) = asking();
        let peers = Arc::new(Peers {
            asks,
            public_urls: PublicUrls::new(&config, &addresses.http),
            mailboxes,
            loads: (0..config.shards).map(|_| AtomicUsize::new(0)).collect(),
            callers: Arc::default(),
            live_tunnels: Arc::default(),
            sealer: Sealer::keyed(&kept.seal_key),
            epoch_seconds: kept.epoch_seconds,
            live_of_accounts: Arc::new(LiveTunnels::new(&config)),
            book: state.as_ref().map(State::book).unwrap_or_default(),
            open_files_max: fd_limit,
            auth: Arc::new(Snapshot::of(&config)),
            audit,
            limits: Limits::new(&config.limits),
            new_links: PerAddress::new(config.limits.address_new_links),
            new_questions: match config.auth {
                Auth::Provider(_) => PerAddress::new(ADDRESS_QUESTIONS_MAX),
                _ => None,
            },
            config,
        });
        let mut relay = Self {
            addresses,
            driver: report,
            drain: peers.config.drain_timeout,
            shards: Vec::new(),
            peers: Arc::clone(&peers),
            control: None,
            writer,
            state: Arc::new(Mutex::new(state)),
            offer: None,
        };
        let restored = restored(kept);
        // From here on a failure drops `relay`, which stops what runs already.
        let (started, starts) = sync_channel(metrics.len());
        for (index, mailbox) in inboxes.into_iter().enumerate() {
            let seed = Seed {
                index,
                driver,
                mailbox,
                metrics: Arc::clone(&metrics[index]),
                peers: Arc::clone(&peers),
                restored: Arc::clone(&restored),
            };
            let (started, lost) = (started.clone(), lost.clone());
            let run = move || {
                let started = move |outcome| {
                    // Whoever waited has given up.
                    let _ = started.send(outcome);
                };
                let ended = catch_unwind(AssertUnwindSafe(|| shard::run(seed, started)));
                let cause = match ended {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => error.to_string(),
                    // Said on stderr already.
                    Err(_) => "a defect in the relay, see the panic above".to_owned(),
                };
                error!(shard = index, cause, "the shard is lost, and its tunnels");
                lost(ShardLost {
                    shard: index,
                    cause,
                });
            };
            let name = format!("shard-{index}");
            let thread = Builder::new().name(name.clone()).spawn(run);
            relay
                .shards
                .push(thread.map_err(|source| StartError::Thread { what: name, source })?);
        }
        drop((started, restored));
        for _ in 0..metrics.len() {
            let outcome = starts
                .recv()
                .unwrap_or_else(|_| Err(std::io::Error::other("it ended")));
            outcome.map_err(|source| StartError::Thread {
                what: "a shard".to_owned(),
                source,
            })?;
        }
        let inspect = Inspector {
            peers: Arc::clone(&peers),
            driver: relay.driver.clone(),
        };
        doors.listen(|kind| kind == ListenKind::Admin)?;
        let copies = doors.copies();
        let admin = doors.take_admin()?;
        relay.control = Some(Control::start(
            &peers.config,
            &peers.auth,
            asked,
            Arc::new(inspect),
            metrics,
            peers.audit.clone(),
            admin,
        )?);
        if let Some(mut successor) = successor {
            successor.ready()?;
        }
        relay.open(doors)?;
        relay.offer(copies, taken);
        Ok(relay)
    }

    /// Listens, and has the shards accept.
    fn open(&self, doors: Doors) -> Result<(), StartError> {
        doors.listen(|kind| kind != ListenKind::Admin)?;
        let mailboxes = &self.peers.mailboxes;
        for (kind, socket, place, sockets) in doors.into_sockets() {
            let listen = Message::Listen {
                kind,
                socket,
                sockets,
            };
            deliver(&mailboxes[place % mailboxes.len()], listen);
        }
        Ok(())
    }

    /// Lets another relay take this one's place, where there is a state folder to meet in.
    fn offer(
        &mut self,
        copies: std::io::Result<Vec<Door>>,
        taken: impl Fn() + Send + Sync + 'static,
    ) {
        let Some(path) = &self.peers.config.state_dir else {
            return;
        };
        let state = Arc::clone(&self.state);
        match copies.and_then(|doors| Offer::start(path, doors, state, taken)) {
            Ok(offer) => self.offer = Some(offer),
            Err(error) => warn!(%error, "no relay can take over from this one"),
        }
    }

    /// Where agents dial in.
    #[must_use]
    pub fn agent_addresses(&self) -> &[SocketAddr] {
        &self.addresses.agent
    }

    /// Where raw TCP frontends connect.
    #[must_use]
    pub fn tcp_addresses(&self) -> &[SocketAddr] {
        &self.addresses.tcp
    }

    /// Where HTTP frontends connect.
    #[must_use]
    pub fn http_addresses(&self) -> &[SocketAddr] {
        &self.addresses.http
    }

    /// Where tunnels, health and metrics are shown.
    #[must_use]
    pub fn admin_addresses(&self) -> &[SocketAddr] {
        self.control.as_ref().map_or(&[], Control::addresses)
    }

    /// How the shards talk to the kernel.
    #[must_use]
    pub const fn driver(&self) -> &DriverReport {
        &self.driver
    }

    /// Reads the files that decide who is let in again, also if they look unchanged, and opens the
    /// audit log's by its name. Files that change are read without being told, within some seconds.
    pub fn reload(&self) {
        if let Some(writer) = &self.writer {
            writer.reopen();
        }
        if let Some(control) = &self.control {
            control.reload();
        }
    }

    /// Gives the state folder up for another relay: all that was noted is on the disk then, and from now
    /// on this relay notes nothing more. It goes on without the folder.
    pub fn release_state(&mut self) {
        let state = self
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(mut state) = state {
            state.release();
        }
    }

    /// Accepts nothing new, lets sessions end within the drain timeout, and stops.
    pub fn stop(mut self) {
        self.stop_within(Stop {
            drain: self.drain,
            hands_over: false,
        });
    }

    /// Leaves what comes in to the relay that has taken this one's place, lets sessions end within the
    /// drain timeout, and stops.
    pub fn hand_over(mut self) {
        self.stop_within(Stop {
            drain: self.drain,
            hands_over: true,
        });
    }

    fn stop_within(&mut self, mut stop: Stop) {
        if self.shards.is_empty() {
            return;
        }
        // First: it has copies of the sockets that listen, and another relay may have them too by now.
        stop.hands_over |= self.offer.take().is_some_and(Offer::end);
        if let Some(control) = &self.control {
            control.drain();
        }
        for mailbox in &self.peers.mailboxes {
            deliver(mailbox, Message::Stop(stop));
        }
        // The next relay may need it while this one drains.
        self.release_state();
        for shard in self.shards.drain(..) {
            if shard.join().is_err() {
                warn!("whoever was told of a lost shard panicked");
            }
        }
        if let Some(control) = self.control.take() {
            control.stop();
        }
        // Last: whatever happened until now is in there.
        if let Some(writer) = self.writer.take() {
            self.peers.audit.note(|| Entry::new(Kind::Stopped));
            writer.stop();
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop_within(Stop {
            drain: Duration::ZERO,
            hands_over: false,
        });
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("driver", &self.driver)
            .finish_non_exhaustive()
    }
}

fn choose_driver(choice: DriverChoice) -> Result<(Chosen, DriverReport), StartError> {
    let wanted = match choice {
        DriverChoice::Auto => None,
        DriverChoice::Uring => Some(Chosen::Uring),
        DriverChoice::Epoll => Some(Chosen::Epoll),
    };
    io::choose(wanted).map_err(|reason| StartError::Driver {
        driver: "uring",
        reason,
    })
}

/// The state folder and what it holds; without a folder, what a relay that keeps nothing starts with.
fn take_state(config: &Config) -> Result<(Option<State>, Kept), StartError> {
    // Every live name, and as many again that are absent as shards remember.
    let names_max = config.max_tunnels.saturating_mul(3);
    if let Some((state, kept)) = state::take(config.state_dir.as_deref(), names_max)? {
        info!(names = kept.bindings.len(), "the state folder is taken");
        return Ok((Some(state), kept));
    }
    if !matches!(config.auth, Auth::Open { .. }) {
        warn!(
            "without state_dir a restart forgets who a requested name belongs to: the first agent \
             that asks for it then has it"
        );
    }
    Ok((None, Kept::nothing()?))
}

/// The names that were bound before this start, and their routes.
fn restored(kept: Kept) -> Arc<[Restored]> {
    let mut owners = Owners::default();
    let names = kept.bindings.into_iter();
    names
        .map(|binding| Restored::new(binding, kept.epoch_seconds, &mut owners))
        .collect()
}

/// Asks a relay that runs for its place, where that is wanted.
fn ask_to_take_over(config: &Config) -> Result<Option<Successor>, StartError> {
    match &config.state_dir {
        Some(path) if config.take_over => Successor::ask(Folder::open(path)?.path()),
        _ => Ok(None),
    }
}

fn mailboxes(shards: usize) -> Result<(Vec<MailboxSender>, Vec<Mailbox>), StartError> {
    let mailboxes: Result<Vec<_>, _> = (0..shards).map(|_| shard::mailbox()).collect();
    let mailboxes = mailboxes.map_err(|source| StartError::Thread {
        what: "a mailbox".to_owned(),
        source,
    })?;
    Ok(mailboxes.into_iter().unzip())
}

/// Delivers a message that must arrive. A shard always comes back to its mailbox, and one that is
/// gone takes everything.
fn deliver(mailbox: &MailboxSender, mut message: Message) {
    while let Err(back) = mailbox.try_send(message) {
        message = back;
        std::thread::yield_now();
    }
}
