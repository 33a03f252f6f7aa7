//! How a relay takes the place of a running one: over a socket in the state folder it gets the sockets
//! that listen, while the other goes on; once it is ready, the other drains.
//!
//! ```text
//! new: ask          old: a message with each socket, sent      still serves, and keeps its folder
//! new: bound        old: released                              has written its folder, and lent it
//! new: ready        old: draining                              accepts nothing more
//! ```
//!
//! If the new relay is gone before it said `ready`, the old one takes its folder back and goes on. If the
//! old one is gone, the new one starts as ever, with the sockets that it has. Each step has a deadline.
//!
//! Long because both sides of one conversation stand here, word for word beside each other.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use crate::error::{ListenKind, StartError};
use crate::io::{Channel, Entrance};
use crate::state::State;

/// The socket in the state folder.
const SOCKET_FILE: &str = "take-over.sock";

/// The version of what both say.
const VERSION: u32 = 1;

/// How long a step that needs no work may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one that is refused may take to ask.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a relay may take to bind addresses, and to start its threads.
const WORK_TIMEOUT: Duration = Duration::from_secs(60);

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
    Ready,
    Draining,
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

/// Whether another process has the sockets that this relay listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passed {
    No,
    /// It has them, and this relay must shut none.
    Yes,
    /// This relay stops, and passes none on.
    Closed,
}

/// Lets another relay take the place of this one, until it is closed.
#[derive(Debug)]
pub(crate) struct Offer {
    entrance: Arc<Entrance>,
    passed: Arc<Mutex<Passed>>,
    /// Dropped when this relay stops: then there is nothing to give.
    doors: Option<Arc<Vec<Door>>>,
    thread: Option<JoinHandle<()>>,
}

impl Offer {
    /// Listens in the state folder at `path`; `taken` hears that another relay is ready.
    pub(crate) fn start(
        path: &Path,
        doors: Vec<Door>,
        state: Shared,
        taken: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let entrance = Arc::new(Entrance::open(path.join(SOCKET_FILE))?);
        let doors = Arc::new(doors);
        let passed = Arc::new(Mutex::new(Passed::No));
        let giver = Arc::new(Giver {
            entrance: Arc::clone(&entrance),
            passed: Arc::clone(&passed),
            doors: Arc::downgrade(&doors),
            state,
            is_busy: AtomicBool::new(false),
            taken: Box::new(taken),
        });
        let run = move || giver.run();
        let thread = Builder::new().name("take-over".to_owned()).spawn(run)?;
        Ok(Self {
            entrance,
            passed,
            doors: Some(doors),
            thread: Some(thread),
        })
    }

    /// Ends it; true if another relay has the sockets already. That one goes on with them, so they may be
    /// closed and not shut.
    pub(crate) fn end(mut self) -> bool {
        let before = replace(&self.passed, Passed::Closed);
        self.close();
        before == Passed::Yes
    }

    fn close(&mut self) {
        self.doors = None;
        if let Some(thread) = self.thread.take() {
            self.entrance.close();
            if thread.join().is_err() {
                error!("the take-over thread had panicked");
            }
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.close();
    }
}

/// The old relay's part.
struct Giver {
    entrance: Arc<Entrance>,
    passed: Arc<Mutex<Passed>>,
    doors: Weak<Vec<Door>>,
    state: Shared,
    is_busy: AtomicBool,
    taken: Box<dyn Fn() + Send + Sync>,
}

impl Giver {
    fn run(self: Arc<Self>) {
        loop {
            let channel = match self.entrance.accept() {
                Ok(channel) => channel,
                Err(error) => {
                    if self.doors.strong_count() > 0 {
                        warn!(%error, "no relay can take over from this one any more");
                    }
                    return;
                }
            };
            if !channel.is_trusted() {
                warn!("a process of another user asked to take over");
                continue;
            }
            if self.is_busy.swap(true, Ordering::AcqRel) {
                // A close in front of an unread word would destroy the answer.
                let _ = hear(&channel, REFUSAL_TIMEOUT);
                refuse(&channel, "another relay is about to take over");
                continue;
            }
            let giver = Arc::clone(&self);
            let give = move || {
                let given = giver.give(&channel);
                giver.is_busy.store(false, Ordering::Release);
                if let Err(reason) = given {
                    giver.keep_doors();
                    warn!(reason, "not taken over; this relay goes on");
                    refuse(&channel, &reason);
                }
            };
            if let Err(error) = Builder::new().name("give".to_owned()).spawn(give) {
                warn!(%error, "cannot hand over");
                self.is_busy.store(false, Ordering::Release);
            }
        }
    }

    fn give(&self, channel: &Channel) -> Result<(), String> {
        match hear(channel, ANSWER_TIMEOUT)? {
            Word::Ask { version: VERSION } => {}
            Word::Ask { version } => {
                return Err(format!("it speaks version {version}, this relay {VERSION}"));
            }
            word => return Err(format!("it said {word:?} first")),
        }
        info!("a relay asks to take over");
        self.pass_doors(channel)?;
        expect(channel, WORK_TIMEOUT, |word| matches!(word, Word::Bound))?;
        if !self.with_state(State::lend) {
            return Err("the state folder cannot be written, or this relay stops".to_owned());
        }
        let ready = say(channel, &Word::Released)
            .and_then(|()| expect(channel, WORK_TIMEOUT, |word| matches!(word, Word::Ready)));
        if let Err(reason) = ready {
            // First: the other one must not believe that it has the folder.
            refuse(channel, &reason);
            if !self.with_state(|state| state.reclaim().inspect_err(log).is_ok()) {
                error!("the state folder is lost to this relay; what it decides is not kept");
            }
            return Err(reason);
        }
        self.entrance.close();
        (self.taken)();
        // The other one goes on without it too.
        let _ = say(channel, &Word::Draining);
        Ok(())
    }

    /// The other relay ends: the sockets are this one's alone again.
    fn keep_doors(&self) {
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        if *passed == Passed::Yes {
            *passed = Passed::No;
        }
    }

    fn pass_doors(&self, channel: &Channel) -> Result<(), String> {
        {
            let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
            if *passed == Passed::Closed {
                return Err("this relay stops".to_owned());
            }
            *passed = Passed::Yes;
        }
        let doors = self.doors.upgrade().ok_or("this relay stops")?;
        for door in &*doors {
            let word = Word::Socket {
                kind: door.kind.word().to_owned(),
                asked: door.asked,
                place: door.place,
            };
            let bytes = serde_json::to_vec(&word).map_err(|error| error.to_string())?;
            let sent = channel.send(&bytes, Some(door.socket.as_fd()));
            sent.map_err(|error| format!("cannot pass a socket: {error}"))?;
        }
        say(
            channel,
            &Word::Sent {
                sockets: doors.len(),
            },
        )
    }

    fn with_state(&self, act: impl FnOnce(&mut State) -> bool) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.as_mut().is_some_and(act)
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
            let Some((word, fd)) = read(&channel, ANSWER_TIMEOUT).map_err(StartError::TakeOver)?
            else {
                // It died; its ports are free.
                return Ok(None);
            };
            match (word, fd) {
                (Word::Socket { kind, asked, place }, Some(fd)) if doors.len() < SOCKETS_MAX => {
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
                (Word::Sent { .. }, _) => break,
                (Word::Refused { reason }, _) => return Err(StartError::TakeOver(reason)),
                (word, _) => return Err(StartError::TakeOver(format!("it said {word:?}"))),
            }
        }
        info!(
            sockets = doors.len(),
            "taking over from the relay that runs"
        );
        Ok(Some(Self {
            channel: Some(channel),
            doors,
        }))
    }

    /// Every address is bound: has the state folder lent.
    ///
    /// # Errors
    /// The running relay keeps it.
    pub(crate) fn bound(&mut self) -> Result<(), StartError> {
        self.step(&Word::Bound, |word| matches!(word, Word::Released))
    }

    /// Everything is ready but for the accepting: from now on the running relay accepts nothing.
    ///
    /// # Errors
    /// The running relay goes on.
    pub(crate) fn ready(&mut self) -> Result<(), StartError> {
        self.step(&Word::Ready, |word| matches!(word, Word::Draining))
    }

    fn step(&mut self, word: &Word, wanted: fn(&Word) -> bool) -> Result<(), StartError> {
        let Some(channel) = &self.channel else {
            return Ok(());
        };
        // One that is gone is seen at the read, behind its last word.
        let _ = say(channel, word);
        match read(channel, WORK_TIMEOUT).map_err(StartError::TakeOver)? {
            None => {
                warn!("the relay that ran is gone");
                self.channel = None;
                Ok(())
            }
            Some((word, _)) if wanted(&word) => Ok(()),
            Some((Word::Refused { reason }, _)) => Err(StartError::TakeOver(reason)),
            Some((word, _)) => Err(StartError::TakeOver(format!("it said {word:?}"))),
        }
    }
}

fn replace(passed: &Mutex<Passed>, with: Passed) -> Passed {
    let mut passed = passed.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::replace(&mut passed, with)
}

fn log(error: &StartError) {
    error!(%error, "cannot take the state folder back");
}

fn refuse(channel: &Channel, reason: &str) {
    let reason = reason.to_owned();
    // It may be gone.
    let _ = say(channel, &Word::Refused { reason });
}

fn say(channel: &Channel, word: &Word) -> Result<(), String> {
    let bytes = serde_json::to_vec(word).map_err(|error| error.to_string())?;
    channel
        .send(&bytes, None)
        .map_err(|error| error.to_string())
}

type Heard = (Word, Option<std::os::fd::OwnedFd>);

fn read(channel: &Channel, limit: Duration) -> Result<Option<Heard>, String> {
    let received = match channel.receive(limit) {
        Ok(received) => received,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(format!("it said nothing for {limit:?}"));
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
        Err(error) => return Err(error.to_string()),
    };
    let Some((bytes, fd)) = received else {
        return Ok(None);
    };
    let word = serde_json::from_slice(&bytes).map_err(|_| "it said something else".to_owned())?;
    Ok(Some((word, fd)))
}

fn hear(channel: &Channel, limit: Duration) -> Result<Word, String> {
    let heard = read(channel, limit)?;
    heard
        .map(|(word, _)| word)
        .ok_or_else(|| "it is gone".to_owned())
}

fn expect(channel: &Channel, limit: Duration, wanted: fn(&Word) -> bool) -> Result<(), String> {
    match hear(channel, limit)? {
        word if wanted(&word) => Ok(()),
        word => Err(format!("it said {word:?}")),
    }
}
