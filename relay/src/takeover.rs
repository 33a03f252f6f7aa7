//! How a relay takes the place of a running one: over a socket in the state folder it gets the sockets
//! that listen and the folder, while the other goes on; once it is ready, the other drains.
//!
//! ```text
//! new: ask          old: a message with each socket, sent      serves, and keeps its folder
//! new: bound        old: released, with the folder's lock      serves, and notes nothing
//! new: serving                                                 drains, and closes once it accepts nothing more
//! ```
//!
//! `serving` decides. It has arrived once it is sent, also at a relay that is halted and reads it later, so no step
//! after it can fail. A relay that waited too long for it first shuts its end, and then looks once more whether it
//! is there: either the one has sent it, or it cannot any more. If the new relay is gone before, the old one goes
//! on with its folder. If the old one is gone or stops, the new one starts as ever, with the sockets that it has.
//!
//! Long because both sides of one conversation stand here, word for word beside each other.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use crate::control::Changes;
use crate::error::{ListenKind, StartError};
use crate::io::{Channel, Entrance};
use crate::state::{Lock, State};

/// The socket in the state folder.
const SOCKET_FILE: &str = "take-over.sock";

/// The version of what both say.
const VERSION: u32 = 2;

/// How long the answer to `ask` may take: above [`SETTLE_TIMEOUT`].
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one that is refused may take to ask.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a relay may take to bind addresses, to start its threads, or to write its folder: above the time
/// for the disk, and for changes of operators.
const WORK_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a relay that has just started may keep another one waiting for its place, until the agents of its
/// predecessor have come. Callers who wait for an agent would be turned away by a relay that drains.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it looks whether they have.
const SETTLE_PAUSE: Duration = Duration::from_millis(10);

/// How long a relay that is to stop waits for a relay that is about to take over.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// How long changes of operators may take that are under way: above the time that shards have for them.
const CHANGES_TIMEOUT: Duration = Duration::from_secs(6);

/// How long the new relay waits for the old one to accept nothing more, before it says that it is ready. An old one
/// that is halted accepts nothing either.
const PARTING_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause after a failed accept: descriptors may be lacking.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Sockets that are passed at most.
const SOCKETS_MAX: usize = 16 * 1024;

/// What both say. Unknown fields are for later versions.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
enum Word {
    Ask {
        version: u32,
    },
    Socket {
        kind: String,
        asked: SocketAddr,
        place: usize,
    },
    Sent {
        sockets: usize,
    },
    Bound,
    Released,
    Serving,
    /// The old relay ends: its ports and its folder are free.
    Stopping,
    Refused {
        reason: String,
    },
}

/// A socket that listens, or will.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) kind: ListenKind,
    /// The address in the configuration, whose port may be 0.
    pub(crate) asked: SocketAddr,
    /// Its place among the sockets of that address, in the order in which they came to listen.
    pub(crate) place: usize,
    pub(crate) socket: TcpListener,
}

/// The state folder of a running relay.
pub(crate) type Shared = Arc<Mutex<Option<State>>>;

/// What a relay has that another one may take.
pub(crate) struct Estate {
    pub(crate) doors: Vec<Door>,
    pub(crate) state: Shared,
    /// Held while another relay reads the folder, and from then on.
    pub(crate) changes: Changes,
    /// Whether the agents of this relay's predecessor have come.
    pub(crate) is_settled: Box<dyn Fn() -> bool + Send + Sync>,
}

/// How far a take-over is.
#[derive(Debug, Default)]
struct Stage {
    /// Another process has the sockets that this relay listens on, which must shut none.
    is_passed_on: bool,
    /// Another relay has asked, and has not been answered for good.
    is_busy: bool,
    /// This relay stops: none can ask any more.
    is_closing: bool,
    /// The way to the relay that has taken over, which waits for its end.
    parting: Option<Channel>,
}

/// The stage, and word of its changes.
#[derive(Debug, Default)]
struct Course {
    stage: Mutex<Stage>,
    changed: Condvar,
}

impl Course {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a take-over; false if there is one, or this relay stops.
    fn begin(&self) -> Result<(), Word> {
        let mut stage = self.stage();
        if stage.is_closing {
            return Err(Word::Stopping);
        }
        if std::mem::replace(&mut stage.is_busy, true) {
            let reason = "another relay is about to take over".to_owned();
            return Err(Word::Refused { reason });
        }
        Ok(())
    }

    /// Waits until `is_done`, or this relay is to stop, for so long at most.
    fn wait(&self, limit: Duration, pause: Duration, is_done: impl Fn() -> bool) {
        let deadline = Instant::now() + limit;
        let mut stage = self.stage();
        while !stage.is_closing && !is_done() && Instant::now() < deadline {
            let waited = self.changed.wait_timeout(stage, pause);
            stage = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// This relay stops: lets none ask any more, and waits for one that has asked.
    fn close(&self) -> Ended {
        let mut stage = self.stage();
        stage.is_closing = true;
        self.changed.notify_all();
        let waited = self
            .changed
            .wait_timeout_while(stage, STOP_TIMEOUT, |stage| stage.is_busy);
        let mut stage = waited.unwrap_or_else(PoisonError::into_inner).0;
        Ended {
            is_passed_on: stage.is_passed_on,
            parting: stage.parting.take(),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Stage)) {
        change(&mut self.stage());
        self.changed.notify_all();
    }
}

/// How an [`Offer`] ended.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// Another relay has the sockets. It goes on with them, so they may be closed and not shut.
    pub(crate) is_passed_on: bool,
    /// To be dropped once this relay accepts nothing more: the other one waits for it.
    pub(crate) parting: Option<Channel>,
}

/// Lets another relay take the place of this one, until it is closed.
#[derive(Debug)]
pub(crate) struct Offer {
    entrance: Arc<Entrance>,
    course: Arc<Course>,
    /// Dropped when this relay stops: then there is nothing to give.
    doors: Option<Arc<Vec<Door>>>,
    thread: Option<JoinHandle<()>>,
}

impl Offer {
    /// Listens in the state folder at `path`; `taken` hears that another relay serves.
    pub(crate) fn start(
        path: &Path,
        estate: Estate,
        taken: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let entrance = Arc::new(Entrance::open(path.join(SOCKET_FILE))?);
        let doors = Arc::new(estate.doors);
        let course = Arc::<Course>::default();
        let giver = Arc::new(Giver {
            entrance: Arc::clone(&entrance),
            course: Arc::clone(&course),
            doors: Arc::downgrade(&doors),
            state: estate.state,
            changes: estate.changes,
            is_settled: estate.is_settled,
            started: Instant::now(),
            taken: Box::new(taken),
        });
        let run = move || giver.run();
        let thread = Builder::new().name("take-over".to_owned()).spawn(run)?;
        Ok(Self {
            entrance,
            course,
            doors: Some(doors),
            thread: Some(thread),
        })
    }

    /// Ends it, once a relay that has asked has taken over or has failed to.
    pub(crate) fn end(mut self) -> Ended {
        let ended = self.course.close();
        self.close(ended.is_passed_on);
        ended
    }

    fn close(&mut self, is_passed_on: bool) {
        self.doors = None;
        if let Some(thread) = self.thread.take() {
            self.entrance.close(is_passed_on);
            if thread.join().is_err() {
                error!("the take-over thread had panicked");
            }
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.close(false);
    }
}

/// The old relay's part.
struct Giver {
    entrance: Arc<Entrance>,
    course: Arc<Course>,
    doors: Weak<Vec<Door>>,
    state: Shared,
    changes: Changes,
    is_settled: Box<dyn Fn() -> bool + Send + Sync>,
    started: Instant,
    taken: Box<dyn Fn() + Send + Sync>,
}

impl Giver {
    fn run(self: Arc<Self>) {
        loop {
            let accepted = self.entrance.accept();
            if self.entrance.is_closed() {
                return;
            }
            let channel = match accepted {
                Ok(channel) => channel,
                Err(error) => {
                    warn!(%error, "cannot hear a relay that wants to take over");
                    thread::park_timeout(ACCEPT_PAUSE);
                    continue;
                }
            };
            if !channel.is_trusted() {
                warn!("a process of another user asked to take over");
                continue;
            }
            if let Err(word) = self.course.begin() {
                // A close in front of an unread word would destroy the answer.
                let _ = hear(&channel, REFUSAL_TIMEOUT);
                let _ = say(&channel, &word);
                continue;
            }
            let giver = Arc::clone(&self);
            let give = move || match giver.give(&channel) {
                Ok(()) => giver.course.change(|stage| {
                    stage.parting = Some(channel);
                    stage.is_busy = false;
                }),
                Err(word) => {
                    // The other one may be gone.
                    let _ = say(&channel, &word);
                    giver.course.change(|stage| {
                        stage.is_passed_on = false;
                        stage.is_busy = false;
                    });
                    // Told last: the next relay may ask as soon as an operator reads it.
                    warn!("not taken over; this relay goes on: {}", reason_in(&word));
                }
            };
            if let Err(error) = Builder::new().name("give".to_owned()).spawn(give) {
                warn!(%error, "cannot hand over");
                self.course.change(|stage| stage.is_busy = false);
            }
        }
    }

    fn give(&self, channel: &Channel) -> Result<(), Word> {
        match hear(channel, ANSWER_TIMEOUT)? {
            Word::Ask { version: VERSION } => {}
            Word::Ask { version } => {
                let reason = format!("it speaks version {version}, this relay {VERSION}");
                return Err(refusal(reason));
            }
            word => return Err(refusal(format!("it said {word:?} first"))),
        }
        info!(process = channel.process(), "a relay asks to take over");
        let left = SETTLE_TIMEOUT.saturating_sub(self.started.elapsed());
        self.course.wait(left, SETTLE_PAUSE, &self.is_settled);
        self.pass_doors(channel)?;
        match hear(channel, WORK_TIMEOUT)? {
            Word::Bound => {}
            word => return Err(refusal(format!("it said {word:?}"))),
        }
        if !self.changes.hold(CHANGES_TIMEOUT) {
            let reason = "an operator's order is still being carried out".to_owned();
            return Err(refusal(reason));
        }
        let given = self.give_folder(channel);
        if given.is_err() {
            self.with_state(State::go_on);
            self.changes.go_on();
            return given;
        }
        // The path is the other one's, also if this relay was halted until now.
        self.entrance.close(true);
        (self.taken)();
        Ok(())
    }

    /// Lends the folder, and waits for the word that decides.
    fn give_folder(&self, channel: &Channel) -> Result<(), Word> {
        let lock = match self.with_state(State::lend) {
            Some(Some(lock)) => lock,
            Some(None) => return Err(refusal("the state folder cannot be written".to_owned())),
            None => return Err(Word::Stopping),
        };
        say_with(channel, &Word::Released, Some(lock.as_fd())).map_err(refusal)?;
        drop(lock);
        let heard = match hear(channel, WORK_TIMEOUT) {
            Err(word) => {
                channel.shut();
                // It may have been said until now.
                hear(channel, Duration::from_millis(1)).map_err(|_| word)
            }
            heard => heard,
        };
        match heard? {
            Word::Serving => Ok(()),
            word => Err(refusal(format!("it said {word:?}"))),
        }
    }

    fn pass_doors(&self, channel: &Channel) -> Result<(), Word> {
        self.course.change(|stage| stage.is_passed_on = true);
        let doors = self.doors.upgrade().ok_or(Word::Stopping)?;
        for door in &*doors {
            let word = Word::Socket {
                kind: door.kind.word().to_owned(),
                asked: door.asked,
                place: door.place,
            };
            let sent = say_with(channel, &word, Some(door.socket.as_fd()));
            sent.map_err(|error| refusal(format!("cannot pass a socket: {error}")))?;
        }
        let sockets = doors.len();
        say(channel, &Word::Sent { sockets }).map_err(refusal)
    }

    /// Nothing if this relay has given the folder up.
    fn with_state<T>(&self, act: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.as_mut().map(act)
    }
}

/// The new relay's part: what it got of the running one.
#[derive(Debug)]
pub(crate) struct Successor {
    /// Nothing once the old relay is gone.
    channel: Option<Channel>,
    pub(crate) doors: Vec<Door>,
}

impl Successor {
    /// Asks the relay that runs with the state folder at `path`; nothing if none does.
    ///
    /// # Errors
    /// It refuses, or does not answer.
    pub(crate) fn ask(path: &Path) -> Result<Option<Self>, StartError> {
        let channel = match Channel::connect(&path.join(SOCKET_FILE)) {
            Ok(channel) => channel,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                    _ => Err(StartError::TakeOver(format!("cannot ask it: {error}"))),
                };
            }
        };
        if !channel.is_trusted() {
            let text = "it runs as another user".to_owned();
            return Err(StartError::TakeOver(text));
        }
        // One that refuses at once may be gone; why is read below.
        let _ = say(&channel, &Word::Ask { version: VERSION });
        let mut doors = Vec::new();
        loop {
            match listen_to(&channel, ANSWER_TIMEOUT)? {
                // Its ports are free, or will be in a moment.
                None => return Ok(None),
                Some((Word::Socket { kind, asked, place }, Some(fd)))
                    if doors.len() < SOCKETS_MAX =>
                {
                    let socket = TcpListener::from(fd);
                    if let Some(kind) = ListenKind::of_word(&kind) {
                        doors.push(Door {
                            kind,
                            asked,
                            place,
                            socket,
                        });
                    }
                }
                Some((Word::Sent { .. }, _)) => break,
                Some((word, _)) => return Err(unexpected(&word)),
            }
        }
        info!(
            process = channel.process(),
            sockets = doors.len(),
            "taking over from the relay that runs"
        );
        Ok(Some(Self {
            channel: Some(channel),
            doors,
        }))
    }

    /// Every address is bound: has the state folder lent, and returns its lock. Nothing if the running relay is
    /// gone, or ends.
    ///
    /// # Errors
    /// The running relay keeps it, or does not answer.
    pub(crate) fn bound(&mut self) -> Result<Option<Lock>, StartError> {
        let Some(channel) = &self.channel else {
            return Ok(None);
        };
        // One that is gone is seen at the read, behind its last word.
        let _ = say(channel, &Word::Bound);
        match listen_to(channel, WORK_TIMEOUT)? {
            None => {
                info!("the relay that ran is gone; going on without it");
                self.channel = None;
                Ok(None)
            }
            Some((Word::Released, Some(fd))) => Ok(Some(Lock::passed_on(fd))),
            Some((word, _)) => Err(unexpected(&word)),
        }
    }

    /// Everything is ready but for the accepting: from now on the place is this relay's.
    ///
    /// # Errors
    /// The running relay has given it up, and goes on.
    pub(crate) fn serving(&mut self) -> Result<(), StartError> {
        let Some(channel) = &self.channel else {
            return Ok(());
        };
        if say(channel, &Word::Serving).is_ok() {
            return Ok(());
        }
        // It is gone, or has said why it goes on.
        match listen_to(channel, REFUSAL_TIMEOUT)? {
            None => self.channel = None,
            Some((word, _)) => return Err(unexpected(&word)),
        }
        Ok(())
    }

    /// Waits until what comes is this relay's alone.
    pub(crate) fn part(self) {
        if let Some(channel) = self.channel {
            // It says nothing more; its end, or that it takes too long, is what is heard.
            let _ = channel.receive(PARTING_TIMEOUT);
        }
    }
}

fn refusal(reason: String) -> Word {
    Word::Refused { reason }
}

fn reason_in(word: &Word) -> &str {
    match word {
        Word::Refused { reason } => reason,
        _ => "it stops",
    }
}

fn unexpected(word: &Word) -> StartError {
    StartError::TakeOver(format!("it said {word:?}"))
}

fn say(channel: &Channel, word: &Word) -> Result<(), String> {
    say_with(channel, word, None)
}

fn say_with(channel: &Channel, word: &Word, fd: Option<BorrowedFd<'_>>) -> Result<(), String> {
    let bytes = serde_json::to_vec(word).map_err(|error| error.to_string())?;
    channel.send(&bytes, fd).map_err(|error| error.to_string())
}

/// Why nothing was heard.
enum Unheard {
    TooLate(Duration),
    Failed(String),
}

/// The next word and what came with it; nothing if the other end is gone.
fn read(channel: &Channel, limit: Duration) -> Result<Option<(Word, Option<OwnedFd>)>, Unheard> {
    let received = match channel.receive(limit) {
        Ok(received) => received,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(Unheard::TooLate(limit));
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
        Err(error) => return Err(Unheard::Failed(error.to_string())),
    };
    let Some((bytes, fd)) = received else {
        return Ok(None);
    };
    let word = serde_json::from_slice(&bytes);
    let word = word.map_err(|_| Unheard::Failed("it said something else".to_owned()))?;
    Ok(Some((word, fd)))
}

/// What the new relay says next, to the old one.
fn hear(channel: &Channel, limit: Duration) -> Result<Word, Word> {
    match read(channel, limit) {
        Ok(Some((word, _))) => Ok(word),
        Ok(None) => Err(refusal("it is gone".to_owned())),
        Err(Unheard::TooLate(limit)) => Err(refusal(format!("it said nothing for {limit:?}"))),
        Err(Unheard::Failed(reason)) => Err(refusal(reason)),
    }
}

/// What the old relay says next, to the new one; nothing if it is gone, or stops.
fn listen_to(
    channel: &Channel,
    limit: Duration,
) -> Result<Option<(Word, Option<OwnedFd>)>, StartError> {
    let failed = |text: String| Err(StartError::TakeOver(text));
    match read(channel, limit) {
        Ok(None | Some((Word::Stopping, _))) => Ok(None),
        Ok(Some((Word::Refused { reason }, _))) => failed(reason),
        Ok(heard) => Ok(heard),
        Err(Unheard::Failed(reason)) => failed(reason),
        Err(Unheard::TooLate(limit)) => {
            let (name, pid) = match channel.process() {
                Some(pid) => (format!("process {pid}"), pid.to_string()),
                None => ("it".to_owned(), "PID".to_owned()),
            };
            failed(format!(
                "{name} said nothing for {limit:?}, so it is halted or hangs: continue it \
                 (`kill -CONT {pid}`) or end it (`kill -KILL {pid}`), and start this one again"
            ))
        }
    }
}
