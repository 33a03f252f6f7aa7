//! Take-over of a running relay by a new one. Over a socket in the state folder the new relay gets the listening
//! sockets and the folder, while the old one goes on; once the new one is ready, the old one drains.
//!
//! ```text
//! new sends   old answers                          the old relay then
//! ask         each socket in a message, sent       serves, and keeps its folder
//! bound       released, with the folder's lock     serves, and writes nothing to the folder
//! serving     -                                    drains, and closes the channel once it accepts nothing more
//! ```
//!
//! `serving` decides. It counts once it is sent, even if the old relay is stopped (SIGSTOP) and reads it later, so no
//! later step can fail. An old relay that has waited too long for it first closes its receiving side, and then reads
//! once more: either the new relay has sent it, or cannot send it any more. If the new relay ends before, the old one
//! goes on with its folder. If the old one ends first, the new one starts with the sockets that it has got.
//!
//! UDP sockets, of QUIC, have one reader at a time, because a packet that one relay has read is lost to the other: the
//! new relay begins to read them once the old one has closed the channel. Connections over QUIC do not stay with the old
//! relay, which closes them before; their agents dial again.
//!
//! Long because both sides of the conversation stand beside each other.

use std::io;
use std::net::SocketAddr;
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

/// Name of the socket in the state folder.
const SOCKET_FILE: &str = "take-over.sock";

/// Version of the conversation.
const VERSION: u32 = 2;

/// Time for the answer to `ask`; longer than [`SETTLE_TIMEOUT`].
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that a request waits for a take-over in progress to fail: a relay that was killed is noticed within
/// milliseconds, on a busy machine within a second.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for another relay to send its request after it connected, which it does at once. Shorter than [`BUSY_TIMEOUT`],
/// so that a silent connection does not make the next request fail.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Time to read the refusal of an old relay that reads no more messages.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Time for the other relay to bind addresses, start threads or write the folder; longer than the limits on
/// the disk and on operators' changes.
const WORK_TIMEOUT: Duration = Duration::from_secs(30);

/// Time that a freshly started relay makes the next one wait for the agents of its predecessor to come back. A draining
/// relay would refuse callers that wait for an agent.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time between two checks for these agents.
const SETTLE_PAUSE: Duration = Duration::from_millis(10);

/// Time that a stopping relay waits for a take-over in progress.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for operators' changes in progress; longer than shards take for them.
const CHANGES_TIMEOUT: Duration = Duration::from_secs(6);

/// Time that the new relay waits for the old one to accept nothing more, before it reports that it is ready. A stopped
/// (SIGSTOP) relay accepts nothing either. On a busy machine the old relay may take more than a second, and the new one
/// must not answer packets of QUIC connections that the old one has not closed yet.
const PARTING_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a failed accept, for example for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Limit of passed sockets.
const SOCKETS_MAX: usize = 16 * 1024;

/// A message of the conversation. Unknown fields are ignored, for later versions.
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
    /// The old relay ends: its ports and its folder become free.
    Stopping,
    Refused {
        reason: String,
    },
}

/// A socket that listens, or is going to; or a UDP socket, which receives.
#[derive(Debug)]
pub(crate) struct BoundSocket {
    pub(crate) kind: ListenKind,
    /// Address in the configuration, whose port may be 0.
    pub(crate) asked: SocketAddr,
    /// Position among the sockets of that address, in the order in which they started to listen, or were bound (UDP).
    pub(crate) place: usize,
    pub(crate) socket: OwnedFd,
}

/// State folder of a running relay; `None` once it is given up.
pub(crate) type Shared = Arc<Mutex<Option<State>>>;

/// Everything that a relay hands over besides its sockets.
pub(crate) struct Handover {
    pub(crate) state: Shared,
    /// Held back while another relay reads the folder, and after the take-over.
    pub(crate) changes: Changes,
    /// Returns whether the agents of this relay's predecessor are back.
    pub(crate) is_settled: Box<dyn Fn() -> bool + Send + Sync>,
}

/// State of a take-over.
#[derive(Debug, Default)]
struct Stage {
    /// Another process has this relay's listening sockets, so they must be closed without shutdown(2).
    is_passed_on: bool,
    /// A take-over is in progress.
    is_busy: bool,
    /// This relay stops, and refuses further take-overs.
    is_closing: bool,
    /// Channel to the relay that has taken over, which waits for its close.
    parting: Option<Channel>,
}

/// A [`Stage`] with notification of its changes.
#[derive(Debug, Default)]
struct Course {
    stage: Mutex<Stage>,
    changed: Condvar,
}

impl Course {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a take-over, after one in progress has failed. Fails with the answer to send if that one goes on, or if
    /// this relay stops.
    fn begin(&self) -> Result<(), Word> {
        let stage = self.stage();
        let goes_on = |stage: &mut Stage| stage.is_busy && !stage.is_closing;
        let waited = self
            .changed
            .wait_timeout_while(stage, BUSY_TIMEOUT, goes_on);
        let mut stage = waited.unwrap_or_else(PoisonError::into_inner).0;
        if stage.is_closing {
            return Err(Word::Stopping);
        }
        if std::mem::replace(&mut stage.is_busy, true) {
            let reason = "another relay is about to take over".to_owned();
            return Err(Word::Refused { reason });
        }
        Ok(())
    }

    /// Waits until `is_done` or this relay stops, at most `limit`.
    fn wait(&self, limit: Duration, pause: Duration, is_done: impl Fn() -> bool) {
        let deadline = Instant::now() + limit;
        let mut stage = self.stage();
        while !stage.is_closing && !is_done() && Instant::now() < deadline {
            let waited = self.changed.wait_timeout(stage, pause);
            stage = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Refuses further take-overs because this relay stops, and waits for one in progress.
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

/// Outcome of an ended [`Offer`].
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// Another relay uses the sockets, so they must be closed without shutdown(2).
    pub(crate) is_passed_on: bool,
    /// To be dropped once this relay accepts nothing more: the other relay waits for that.
    pub(crate) parting: Option<Channel>,
}

/// Lets another relay take over from this one, until it ends.
#[derive(Debug)]
pub(crate) struct Offer {
    entrance: Arc<Entrance>,
    course: Arc<Course>,
    /// Dropped when this relay stops, so that no sockets are passed on any more.
    doors: Option<Arc<Vec<BoundSocket>>>,
    thread: Option<JoinHandle<()>>,
}

impl Offer {
    /// Listens in the state folder at `path`; `taken` is called once another relay has taken over.
    pub(crate) fn start(
        path: &Path,
        doors: Vec<BoundSocket>,
        estate: Handover,
        taken: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let entrance = Arc::new(Entrance::open(path.join(SOCKET_FILE))?);
        let doors = Arc::new(doors);
        let course = Arc::<Course>::default();
        let giver = Arc::new(Giver {
            entrance: Arc::clone(&entrance),
            course: Arc::clone(&course),
            doors: Arc::downgrade(&doors),
            estate,
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

    /// Ends the offer, after a take-over in progress has succeeded or failed.
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
                error!("the take-over thread panicked");
            }
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.close(false);
    }
}

/// The old relay's side.
struct Giver {
    entrance: Arc<Entrance>,
    course: Arc<Course>,
    doors: Weak<Vec<BoundSocket>>,
    estate: Handover,
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
                    warn!(%error, "cannot accept a connection of a relay that wants to take over");
                    thread::park_timeout(ACCEPT_PAUSE);
                    continue;
                }
            };
            if !channel.is_trusted() {
                warn!("a process of another user asked to take over");
                continue;
            }
            if let Err(word) = self.course.begin() {
                // Read first: closing the channel with an unread message would destroy the answer.
                let _ = hear(&channel, REQUEST_TIMEOUT);
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
                    // Fails if the other relay is gone.
                    let _ = say(&channel, &word);
                    giver.course.change(|stage| {
                        stage.is_passed_on = false;
                        stage.is_busy = false;
                    });
                    // Logged last: once an operator reads it, the next relay may ask.
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
        match hear(channel, REQUEST_TIMEOUT)? {
            Word::Ask { version: VERSION } => {}
            Word::Ask { version } => {
                let reason = format!("new relay speaks version {version}, this one {VERSION}");
                return Err(refusal(reason));
            }
            word => return Err(refusal(format!("the new relay began with {word:?}"))),
        }
        info!(process = channel.process(), "a relay asks to take over");
        let left = SETTLE_TIMEOUT.saturating_sub(self.started.elapsed());
        let is_settled = &self.estate.is_settled;
        self.course.wait(left, SETTLE_PAUSE, is_settled);
        self.pass_doors(channel)?;
        match hear(channel, WORK_TIMEOUT)? {
            Word::Bound => {}
            word => return Err(refusal(format!("the new relay sent {word:?}"))),
        }
        if !self.estate.changes.hold(CHANGES_TIMEOUT) {
            let reason = "an operator's order is still being carried out".to_owned();
            return Err(refusal(reason));
        }
        let given = self.give_folder(channel);
        if given.is_err() {
            self.with_state(State::go_on);
            self.estate.changes.go_on();
            return given;
        }
        // The path belongs to the other relay now, even if this one was stopped (SIGSTOP) until now.
        self.entrance.close(true);
        (self.taken)();
        Ok(())
    }

    /// Lends the folder, and waits for the message that decides.
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
                // The message may have been sent until then.
                hear(channel, Duration::from_millis(1)).map_err(|_| word)
            }
            heard => heard,
        };
        match heard? {
            Word::Serving => Ok(()),
            word => Err(refusal(format!("the new relay sent {word:?}"))),
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

    /// Calls `act` on the state folder; `None` if this relay has given it up.
    fn with_state<T>(&self, act: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut state = self
            .estate
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        state.as_mut().map(act)
    }
}

/// The new relay's side, with what it got from the running one.
#[derive(Debug)]
pub(crate) struct Successor {
    /// `None` once the old relay is gone.
    channel: Option<Channel>,
    pub(crate) doors: Vec<BoundSocket>,
}

impl Successor {
    /// Asks the relay that runs with the state folder at `path`; `None` if none runs.
    ///
    /// # Errors
    /// The running relay refuses, or does not answer.
    pub(crate) fn ask(path: &Path) -> Result<Option<Self>, StartError> {
        let channel = match Channel::connect(&path.join(SOCKET_FILE)) {
            Ok(channel) => channel,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                    _ => Err(StartError::TakeOver(format!("cannot reach it: {error}"))),
                };
            }
        };
        if !channel.is_trusted() {
            let text = "the running relay belongs to another user".to_owned();
            return Err(StartError::TakeOver(text));
        }
        // A relay that refuses at once may have closed the channel; its reason is read below.
        let _ = say(&channel, &Word::Ask { version: VERSION });
        let mut doors = Vec::new();
        loop {
            match listen_to(&channel, ANSWER_TIMEOUT)? {
                // The old relay's ports are free, or soon will be.
                None => return Ok(None),
                Some((Word::Socket { kind, asked, place }, Some(fd)))
                    if doors.len() < SOCKETS_MAX =>
                {
                    if let Some(kind) = ListenKind::of_word(&kind) {
                        doors.push(BoundSocket {
                            kind,
                            asked,
                            place,
                            socket: fd,
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
            "taking over from the running relay"
        );
        Ok(Some(Self {
            channel: Some(channel),
            doors,
        }))
    }

    /// Reports that every address is bound; the running relay then lends the state folder, whose lock is returned.
    /// `None` if the running relay is gone, or ends.
    ///
    /// # Errors
    /// The running relay keeps the folder, or does not answer.
    pub(crate) fn bound(&mut self) -> Result<Option<Lock>, StartError> {
        let Some(channel) = &self.channel else {
            return Ok(None);
        };
        // If the old relay is gone, the read below shows it, after its last message.
        let _ = say(channel, &Word::Bound);
        match listen_to(channel, WORK_TIMEOUT)? {
            None => {
                info!("the running relay has ended; going on without it");
                self.channel = None;
                Ok(None)
            }
            Some((Word::Released, Some(fd))) => Ok(Some(Lock::passed_on(fd))),
            Some((word, _)) => Err(unexpected(&word)),
        }
    }

    /// Reports that everything is ready except for accepting: from now on this relay is in charge.
    ///
    /// # Errors
    /// The running relay has cancelled the take-over, and goes on.
    pub(crate) fn serving(&mut self) -> Result<(), StartError> {
        let Some(channel) = &self.channel else {
            return Ok(());
        };
        if say(channel, &Word::Serving).is_ok() {
            return Ok(());
        }
        // The old relay is gone, or has sent why it goes on.
        match listen_to(channel, REFUSAL_TIMEOUT)? {
            None => self.channel = None,
            Some((word, _)) => return Err(unexpected(&word)),
        }
        Ok(())
    }

    /// Waits until the old relay accepts nothing more.
    pub(crate) fn part(self) {
        if let Some(channel) = self.channel {
            // The old relay sends nothing more: this waits for it to close the channel, or for the timeout.
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
        _ => "the old relay stops",
    }
}

fn unexpected(word: &Word) -> StartError {
    StartError::TakeOver(format!("the running relay sent {word:?}"))
}

fn say(channel: &Channel, word: &Word) -> Result<(), String> {
    say_with(channel, word, None)
}

fn say_with(channel: &Channel, word: &Word, fd: Option<BorrowedFd<'_>>) -> Result<(), String> {
    let bytes = serde_json::to_vec(word).map_err(|error| error.to_string())?;
    channel.send(&bytes, fd).map_err(|error| error.to_string())
}

/// The next message and the descriptor sent along; `None` if the other end is gone.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] if no message came within `limit`.
fn read(channel: &Channel, limit: Duration) -> io::Result<Option<(Word, Option<OwnedFd>)>> {
    let received = match channel.receive(limit) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
        received => received?,
    };
    let Some((bytes, fd)) = received else {
        return Ok(None);
    };
    match serde_json::from_slice(&bytes) {
        Ok(word) => Ok(Some((word, fd))),
        Err(_) => Err(io::Error::other("unknown message received")),
    }
}

/// Old relay's side: the next message of the new relay; an error is the answer to send.
fn hear(channel: &Channel, limit: Duration) -> Result<Word, Word> {
    match read(channel, limit) {
        Ok(Some((word, _))) => Ok(word),
        Ok(None) => Err(refusal("the new relay is gone".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(refusal(format!("new relay silent for {limit:?}")))
        }
        Err(error) => Err(refusal(error.to_string())),
    }
}

/// New relay's side: the next message of the old relay; `None` if that is gone, or stops.
fn listen_to(
    channel: &Channel,
    limit: Duration,
) -> Result<Option<(Word, Option<OwnedFd>)>, StartError> {
    let failed = |text: String| Err(StartError::TakeOver(text));
    match read(channel, limit) {
        Ok(None | Some((Word::Stopping, _))) => Ok(None),
        Ok(Some((Word::Refused { reason }, _))) => failed(reason),
        Ok(heard) => Ok(heard),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => failed(error.to_string()),
        Err(_) => {
            let (name, pid) = match channel.process() {
                Some(pid) => (format!("process {pid}"), pid.to_string()),
                None => ("the running relay".to_owned(), "PID".to_owned()),
            };
            failed(format!(
                "{name} said nothing for {limit:?}, so it is stopped or hangs: continue it \
                 (`kill -CONT {pid}`) or end it (`kill -KILL {pid}`), and start this one again"
            ))
        }
    }
}
