//! Tieline's relay: joins callers to agents that dialled out from behind NAT.
//! Long because starting and stopping a relay are described in one place.
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
//! A relay owns its threads: one per shard, each with its own ring, and the control thread. It can run beside any
//! other runtime in the process.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

mod audit;
mod auth;
mod certificates;
pub mod cli;
mod clock;
pub mod config;
mod control;
mod directory;
mod doors;
pub mod error;
mod host;
mod inspector;
mod io;
mod limits;
mod link;
mod listen;
mod metrics;
mod quic;
mod registry;
mod session;
mod shard;
mod splice;
mod state;
mod takeover;

pub use auth::{issue_token, new_token};
pub use config::{
    AcmeConfig, Allowance, AuditConfig, Auth, CallerAuth, CallersConfig, CertificateFiles, Config,
    DriverChoice, JwksSource, JwtAuth, LimitsConfig, ListenAddress, ProviderAuth, TlsConfig,
    TokensAuth,
};
pub use error::{ConfigError, ListenKind, StartError};
pub use io::DriverReport;

use audit::{Audit, Entry, Kind};
use auth::{RequestQueue, Snapshot, request_queue};
use certificates::Certificates;
use config::listener_of_urls;
use control::{Changes, Control, Decided, Shown};
use directory::{Owners, PublicUrls, Restored};
use doors::{Listeners, QuicDoor, ShardSocket};
use inspector::Inspector;
use io::{Chosen, PacketSteering};
use limits::{Limits, LiveTunnels, PerAddress};
use listen::http::MarkKey;
use metrics::ShardMetrics;
use quic::QuicKeys;
use shard::{
    ADDRESS_HANDSHAKES_MAX, ADDRESS_QUESTIONS_MAX, CallerCount, Mailbox, MailboxSender, Message,
    Peers, QuicMessage, Seed, Stop,
};
use state::{Folder, NoteQueue, State, StoredState};
use takeover::{BoundSocket, Handover, Offer, Successor};

/// Limit of open files below which the relay warns at the start; systemd's default is 524288
/// (systemd.exec(5), `LimitNOFILE=`).
const FD_LIMIT_LOW: u64 = 4096;

/// Time for the accepting tasks to end when the relay stops, and interval of checking. They take milliseconds, on a busy
/// machine longer; only a shard that hangs needs the whole time.
const DOORS_TIMEOUT: Duration = Duration::from_secs(4);
const DOORS_PAUSE: Duration = Duration::from_millis(1);

/// Attempts of a relay with `take_over` to find the running relay while the addresses are taken; each attempt
/// takes half a second.
const TAKE_OVER_TRIES: usize = 4;

/// A running relay. Dropping it stops it at once, without draining.
pub struct Relay {
    addresses: Addresses,
    driver: DriverReport,
    shards: Vec<JoinHandle<()>>,
    peers: Arc<Peers>,
    control: Option<Control>,
    /// Writes the audit entries sent to `peers.audit`.
    writer: Option<audit::Writer>,
    /// The state folder, until it is given up.
    state: takeover::Shared,
    /// Gate for operators' changes.
    changes: Changes,
    /// Lets another relay take over from this one.
    offer: Option<Offer>,
}

/// A shard that ended without being stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardLost {
    /// Number of the shard, counted from 0.
    pub shard: usize,
    /// Why the shard ended.
    pub cause: String,
}

/// Bound addresses.
struct Addresses {
    agent: Vec<SocketAddr>,
    tcp: Vec<SocketAddr>,
    http: Vec<SocketAddr>,
    quic: Vec<SocketAddr>,
    /// Those above and of the admin pages.
    all: Vec<(ListenKind, ListenAddress)>,
}

impl Addresses {
    fn new(all: Vec<(ListenKind, ListenAddress)>) -> Self {
        let of = |kind| -> Vec<SocketAddr> {
            let those = all.iter().filter(|(other, _)| *other == kind);
            those.map(|(_, it)| it.address).collect()
        };
        Self {
            agent: of(ListenKind::Agent),
            tcp: of(ListenKind::Tcp),
            http: of(ListenKind::Http),
            quic: of(ListenKind::Quic),
            all,
        }
    }

    /// The addresses for `kind`.
    fn listening(&self, kind: ListenKind) -> Vec<ListenAddress> {
        let those = self.all.iter().filter(|(other, _)| *other == kind);
        those.map(|(_, it)| *it).collect()
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

    /// Like [`Relay::start`]. `lost` is called when a shard ends without being stopped. The shard's tunnels and the
    /// names that it decides on are lost, and new links may be lost as well, until this relay is stopped and
    /// another starts. `lost` is called on the shard's thread, so it must not stop the
    /// relay itself.
    ///
    /// # Errors
    /// As [`Relay::start`].
    pub fn start_watched(
        config: Config,
        lost: impl Fn(ShardLost) + Clone + Send + 'static,
    ) -> Result<Self, StartError> {
        Self::start_succeeded(config, lost, || {}, || true)
    }

    /// Like [`Relay::start_watched`]. `taken` is called when another relay has taken over this one's sockets and is
    /// ready: call [`Relay::hand_over`] then. `may_serve` is called when everything is ready, before anything is
    /// accepted; if it returns false, this relay ends, and the relay that it would have replaced goes on.
    ///
    /// # Errors
    /// As [`Relay::start`]; [`StartError::Cancelled`] if `may_serve` returns false.
    pub fn start_succeeded(
        config: Config,
        lost: impl Fn(ShardLost) + Clone + Send + 'static,
        taken: impl Fn() + Send + Sync + 'static,
        may_serve: impl FnOnce() -> bool,
    ) -> Result<Self, StartError> {
        config.check()?;
        let certificates = Certificates::read(&config.tls, config.acme.as_ref())?;
        let fd_limit = io::raise_fd_limit();
        let (driver, report) = choose_driver(config.driver)?;
        say_start(&config, &report, fd_limit);
        say_certificates(&config, certificates.as_ref());
        let (mut successor, mut doors) = ask_and_bind(&config)?;
        let addresses = Addresses::new(doors.addresses());
        let (state, kept) = take_state(&config, successor.as_mut())?;
        for told in config.warnings(&addresses.listening(ListenKind::Http)) {
            warn!("{told}");
        }
        for told in doors.buffer_warnings() {
            warn!("{told}");
        }
        let metrics: Vec<_> = (0..config.shards)
            .map(|_| Arc::new(ShardMetrics::new(config.shard_budget_bytes)))
            .collect();
        let book = state.as_ref().map(State::book).unwrap_or_default();
        let (mut peers, inboxes, asked, writer) = peers(config, &kept, book, &addresses, fd_limit)?;
        peers.tls = certificates.as_ref().map(Certificates::configs);
        peers.challenges = certificates.as_ref().and_then(|it| it.challenges.clone());
        let peers = Arc::new(peers);
        let decided = Decided {
            paused: Arc::clone(&peers.paused),
            revoked: kept.revoked.clone(),
            book: peers.book.clone(),
            changes: Changes::default(),
        };
        let mut relay = Self {
            addresses,
            driver: report,
            shards: Vec::new(),
            peers,
            control: None,
            writer,
            state: Arc::new(Mutex::new(state)),
            changes: decided.changes.clone(),
            offer: None,
        };
        let live = kept.bindings.iter();
        let live = live.filter(|it| it.away_since.is_none()).count();
        // From here on, a failure drops `relay`, which stops what is running.
        relay.start_shards(driver, inboxes, &metrics, restored(kept), lost)?;
        relay.start_control(asked, certificates, metrics, decided, &doors)?;
        if !may_serve() {
            return Err(StartError::Cancelled);
        }
        let copies = doors.copies();
        doors.listen()?;
        if let Some(successor) = &mut successor {
            successor.serving()?;
        }
        let quic = doors.take_quic();
        relay.open(doors);
        relay.offer(copies, live, taken);
        if let Some(successor) = successor {
            successor.part();
        }
        // A packet that the old relay read now would be lost.
        relay.open_quic(quic);
        Ok(relay)
    }

    /// Starts one thread per shard, and waits until each shard is ready.
    fn start_shards(
        &mut self,
        driver: Chosen,
        inboxes: Vec<Mailbox>,
        metrics: &[Arc<ShardMetrics>],
        restored: Arc<[Restored]>,
        lost: impl Fn(ShardLost) + Clone + Send + 'static,
    ) -> Result<(), StartError> {
        let (started, starts) = sync_channel(metrics.len());
        for (index, mailbox) in inboxes.into_iter().enumerate() {
            let seed = Seed {
                index,
                driver,
                mailbox,
                metrics: Arc::clone(&metrics[index]),
                peers: Arc::clone(&self.peers),
                restored: Arc::clone(&restored),
            };
            let (started, lost) = (started.clone(), lost.clone());
            let name = format!("shard-{index}");
            let thread = Builder::new()
                .name(name.clone())
                .spawn(move || run_shard(seed, started, lost));
            self.shards
                .push(thread.map_err(|source| StartError::Thread { what: name, source })?);
        }
        drop((started, restored));
        for _ in 0..metrics.len() {
            let outcome = starts
                .recv()
                .unwrap_or_else(|_| Err(std::io::Error::other("the shard ended")));
            outcome.map_err(|source| StartError::Thread {
                what: "a shard".to_owned(),
                source,
            })?;
        }
        Ok(())
    }

    /// Starts the control thread, which accepts no connections yet.
    fn start_control(
        &mut self,
        asked: RequestQueue,
        certificates: Option<Certificates>,
        metrics: Vec<Arc<ShardMetrics>>,
        decided: Decided,
        doors: &Listeners,
    ) -> Result<(), StartError> {
        let peers = &self.peers;
        let inspect = Inspector {
            peers: Arc::clone(peers),
            driver: self.driver.clone(),
        };
        let shown = Shown {
            inspect: Arc::new(inspect),
            metrics,
            audit: peers.audit.clone(),
            accepting: Arc::clone(&peers.accepting),
        };
        let admin = doors.admin()?;
        let (config, snapshot) = (&peers.config, &peers.auth);
        let control = Control::start(config, snapshot, certificates, asked, shown, decided, admin)?;
        self.control = Some(control);
        Ok(())
    }

    /// Makes the shards and the control thread accept connections; the state folder belongs to this relay from now on.
    fn open(&self, doors: Listeners) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = &mut *state {
            state.go_on();
        }
        drop(state);
        if let Some(control) = &self.control {
            control.serve();
        }
        let mailboxes = &self.peers.mailboxes;
        for ShardSocket {
            kind,
            is_tls,
            socket,
            place,
            sockets,
        } in doors.into_sockets()
        {
            let listen = Message::Listen {
                kind,
                is_tls,
                socket,
                sockets,
            };
            deliver(&mailboxes[place % mailboxes.len()], listen);
        }
    }

    /// Makes the kernel steer the packets of each UDP address, and the shards read its sockets.
    fn open_quic(&self, doors: Vec<QuicDoor>) {
        let mailboxes = &self.peers.mailboxes;
        for (address, QuicDoor { asked, sockets }) in doors.into_iter().enumerate() {
            let steering = PacketSteering::new(self.peers.quic.steering(), sockets.len());
            if let Some(Err(error)) = sockets.first().map(|it| steering.steer(it.as_fd())) {
                // Shards hand each other the packets that come to the wrong one.
                warn!(%error, address = %asked, "cannot steer QUIC packets to their shards; the relay is slower");
            }
            for (place, socket) in sockets.into_iter().enumerate() {
                let listen = QuicMessage::Listen {
                    address,
                    socket,
                    steering,
                };
                let mailbox = &mailboxes[place % mailboxes.len()];
                deliver(mailbox, Message::Quic(listen));
            }
        }
    }

    /// Offers other relays to take over, if there is a state folder to meet in. `live` is the number of names that
    /// agents served when this relay's predecessor ended.
    fn offer(
        &mut self,
        copies: std::io::Result<Vec<BoundSocket>>,
        live: usize,
        taken: impl Fn() + Send + Sync + 'static,
    ) {
        let Some(path) = &self.peers.config.state_dir else {
            return;
        };
        let live_now = Arc::clone(&self.peers.live_tunnels);
        let estate = Handover {
            state: Arc::clone(&self.state),
            changes: self.changes.clone(),
            is_settled: Box::new(move || live_now.load(Ordering::Relaxed) >= live),
        };
        match copies.and_then(|doors| Offer::start(path, doors, estate, taken)) {
            Ok(offer) => self.offer = Some(offer),
            Err(error) => warn!(%error, "another relay cannot take over from this one"),
        }
    }

    /// Addresses that agents connect to.
    #[must_use]
    pub fn agent_addresses(&self) -> &[SocketAddr] {
        &self.addresses.agent
    }

    /// Addresses for raw TCP callers.
    #[must_use]
    pub fn tcp_addresses(&self) -> &[SocketAddr] {
        &self.addresses.tcp
    }

    /// Addresses for HTTP callers.
    #[must_use]
    pub fn http_addresses(&self) -> &[SocketAddr] {
        &self.addresses.http
    }

    /// UDP addresses for agents and callers over QUIC.
    #[must_use]
    pub fn quic_addresses(&self) -> &[SocketAddr] {
        &self.addresses.quic
    }

    /// Addresses of the admin pages: tunnels, health, metrics.
    #[must_use]
    pub fn admin_addresses(&self) -> &[SocketAddr] {
        self.control.as_ref().map_or(&[], Control::addresses)
    }

    /// Addresses of the listeners for `kind`, as [`Config::listen`] has them, with the ports that the kernel chose.
    #[must_use]
    pub fn listening(&self, kind: ListenKind) -> Vec<ListenAddress> {
        self.addresses.listening(kind)
    }

    /// Driver that the shards use.
    #[must_use]
    pub const fn driver(&self) -> &DriverReport {
        &self.driver
    }

    /// Reads the files that decide about admission again, and the certificates, even if they look unchanged. Changed
    /// files are also found without this call, within some seconds.
    pub fn reload(&self) {
        if let Some(control) = &self.control {
            control.reload();
        }
    }

    /// Waits until no task accepts connections any more, at most [`DOORS_TIMEOUT`].
    #[expect(
        clippy::disallowed_methods,
        reason = "this thread waits for tasks of all shards, and there is no single event for that"
    )]
    fn wait_for_doors(&self) {
        let deadline = Instant::now() + DOORS_TIMEOUT;
        // One reference is the peers' own.
        while Arc::strong_count(&self.peers.accepting) > 1 && Instant::now() < deadline {
            std::thread::sleep(DOORS_PAUSE);
        }
    }

    /// Stops the relay: accepts nothing new, and lets sessions end within the drain timeout.
    pub fn stop(mut self) {
        self.stop_within(self.peers.config.drain_timeout, false);
    }

    /// Stops the relay after another has taken over: leaves new connections to the other relay, and lets sessions end
    /// within the drain timeout.
    pub fn hand_over(mut self) {
        self.stop_within(self.peers.config.drain_timeout, true);
    }

    fn stop_within(&mut self, drain: Duration, hands_over: bool) {
        if self.shards.is_empty() {
            return;
        }
        // First: the offer has copies of the listening sockets, and another relay may have them, too, by now.
        let ended = self.offer.take().map(Offer::end).unwrap_or_default();
        let hands_over = hands_over || ended.is_passed_on;
        if let Some(control) = &self.control {
            control.drain();
        }
        for mailbox in &*self.peers.mailboxes {
            deliver(mailbox, Message::Stop(Stop { drain, hands_over }));
        }
        let state = self
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if state.is_some() {
            // Operators' changes would not be stored from now on.
            self.changes.close();
        }
        // The next relay may need the folder while this one drains.
        drop(state);
        if let Some(parting) = ended.parting {
            self.wait_for_doors();
            drop(parting);
        }
        for shard in self.shards.drain(..) {
            if shard.join().is_err() {
                warn!("the handler of a lost shard panicked");
            }
        }
        if let Some(control) = self.control.take() {
            control.stop();
        }
        // Last, so that all entries until now are in the file.
        if let Some(writer) = self.writer.take() {
            self.peers.audit.note(|| Entry::new(Kind::Stopped));
            writer.stop();
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop_within(Duration::ZERO, false);
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("driver", &self.driver)
            .finish_non_exhaustive()
    }
}

/// Runs a shard on its own thread. `started` receives the outcome of the start; `lost` is called if the shard ends
/// without being stopped.
fn run_shard(seed: Seed, started: SyncSender<std::io::Result<()>>, lost: impl FnOnce(ShardLost)) {
    let index = seed.index;
    let started = move |outcome| {
        // The starting thread may have given up waiting.
        let _ = started.send(outcome);
    };
    let ended = catch_unwind(AssertUnwindSafe(|| shard::run(seed, started)));
    let cause = match ended {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        // The panic's message is on stderr already.
        Err(_) => "a defect in the relay, see the panic above".to_owned(),
    };
    error!(shard = index, cause, "a shard is lost, with its tunnels");
    lost(ShardLost {
        shard: index,
        cause,
    });
}

/// Logs the driver and the memory; warns if the relay must do without io_uring, or if a limit is low.
fn say_start(config: &Config, report: &DriverReport, fd_limit: Option<u64>) {
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
}

/// Logs the certificates; warns if none is for the host names or the address of public URLs.
fn say_certificates(config: &Config, certificates: Option<&Certificates>) {
    let Some(Certificates { table, .. }) = certificates else {
        return;
    };
    match table.is_empty() {
        true => warn!(
            "no certificate yet: TLS handshakes are refused until the CA has issued one for acme_domains"
        ),
        false => info!(certificates = %table, "certificates read"),
    }
    for told in table.authorities() {
        warn!("{told}");
    }
    let is_public = config.http_listen.iter().any(|it| it.is_tls);
    let domain = config.domain.as_deref().filter(|_| is_public);
    let acme = config.acme.as_ref();
    let is_ordered = |name: &str| acme.is_some_and(|it| it.has(name));
    if let Some(told) = domain.and_then(|domain| table.warning(domain, is_ordered)) {
        warn!("{told}");
    }
    let is_named = config.domain.is_some() || config.public_url.is_some();
    let listener = listener_of_urls(&config.http_listen).filter(|it| it.is_tls && !is_named);
    let address = listener.map(|it| it.address.ip());
    // `Config::warnings` warns of an unspecified address, such as 0.0.0.0, which no URL can name.
    let address = address.filter(|it| !it.to_canonical().is_unspecified());
    if let Some(told) = address.and_then(|address| table.address_warning(address)) {
        warn!("{told}");
    }
}

fn choose_driver(choice: DriverChoice) -> Result<(Chosen, DriverReport), StartError> {
    let wanted = match choice {
        DriverChoice::Auto => None,
        DriverChoice::Uring => Some(Chosen::Uring),
        DriverChoice::Epoll => Some(Chosen::Epoll),
    };
    io::choose(wanted).map_err(StartError::Driver)
}

/// The state folder and its content, opened with the lock that the running relay lends to its `successor`, if it does;
/// without a folder, the content of an empty one.
fn take_state(
    config: &Config,
    successor: Option<&mut Successor>,
) -> Result<(Option<State>, StoredState), StartError> {
    let lent = match successor {
        Some(successor) => successor.bound()?,
        None => None,
    };
    // All live names, and twice as many absent names, which shards remember.
    let names_max = config.max_tunnels.saturating_mul(3);
    if let Some(dir) = &config.state_dir {
        let (state, kept) = State::take(&Folder::open(dir)?, lent, names_max)?;
        info!(names = kept.bindings.len(), "state folder opened");
        return Ok((Some(state), kept));
    }
    if !matches!(config.auth, Auth::Open { .. }) {
        warn!(
            "without state_dir a restart forgets the owners of requested names: the first agent that asks \
             for a name then gets it"
        );
    }
    Ok((None, StoredState::nothing()?))
}

/// The state that all shards share, with the other ends of its queues: the mailboxes, the shards' requests to the
/// control thread, and the writer of the audit log.
fn peers(
    config: Config,
    kept: &StoredState,
    book: NoteQueue,
    addresses: &Addresses,
    open_files_max: Option<u64>,
) -> Result<(Peers, Vec<Mailbox>, RequestQueue, Option<audit::Writer>), StartError> {
    let (mailboxes, inboxes) = mailboxes(config.shards)?;
    let (audit, writer) = Audit::start(config.audit.as_ref())?;
    audit.note(|| Entry::new(Kind::Started).what(env!("CARGO_PKG_VERSION").to_owned()));
    let (asks, asked) = request_queue();
    let mut auth = Snapshot::of(&config);
    auth.deny(kept.revoked.iter().map(|(denied, _)| denied));
    let peers = Peers {
        asks,
        public_urls: PublicUrls::new(&config, &addresses.listening(ListenKind::Http)),
        mailboxes: mailboxes.into(),
        loads: (0..config.shards).map(|_| AtomicUsize::new(0)).collect(),
        callers: CallerCount::default(),
        live_tunnels: Arc::default(),
        mark_key: MarkKey::of(&kept.seal_key),
        quic: QuicKeys::of(&kept.quic_key),
        epoch_seconds: kept.epoch_seconds,
        live_of_accounts: Arc::new(LiveTunnels::new(&config)),
        book,
        paused: Arc::new(kept.paused.clone()),
        accepting: Arc::default(),
        open_files_max,
        auth: Arc::new(auth),
        tls: None,
        challenges: None,
        audit,
        limits: Limits::new(&config.limits),
        new_links: PerAddress::new(config.limits.address_new_links),
        handshakes: PerAddress::new(ADDRESS_HANDSHAKES_MAX),
        new_questions: match config.auth {
            Auth::Provider(_) => PerAddress::new(ADDRESS_QUESTIONS_MAX),
            _ => None,
        },
        config,
    };
    Ok((peers, inboxes, asked, writer))
}

/// The names that were bound before this start, with their routes.
fn restored(kept: StoredState) -> Arc<[Restored]> {
    let mut owners = Owners::default();
    let names = kept.bindings.into_iter();
    names
        .map(|binding| Restored::new(binding, kept.epoch_seconds, &mut owners))
        .collect()
}

/// Binds every address; with `take_over`, uses the sockets of the running relay.
fn ask_and_bind(config: &Config) -> Result<(Option<Successor>, Listeners), StartError> {
    let mut tries_left = TAKE_OVER_TRIES;
    loop {
        let mut successor = ask_to_take_over(config)?;
        let passed = successor.as_mut().map(|it| std::mem::take(&mut it.doors));
        tries_left -= 1;
        match Listeners::bind(config, passed.unwrap_or_default()) {
            // A relay runs after all: it has just taken over itself, and cannot be asked yet.
            Err(error)
                if config.take_over
                    && successor.is_none()
                    && tries_left > 0
                    && error.is_address_taken() => {}
            bound => return bound.map(|doors| (successor, doors)),
        }
    }
}

/// Asks the running relay to hand over, if `take_over` is set.
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

/// Delivers a message that must arrive. A shard always returns to its mailbox, and the mailbox of a lost shard
/// accepts everything.
fn deliver(mailbox: &MailboxSender, mut message: Message) {
    while let Err(back) = mailbox.try_send(message) {
        message = back;
        std::thread::yield_now();
    }
}
