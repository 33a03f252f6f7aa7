//! What a relay keeps over its own restarts, in a folder of its own: the names that are bound and their
//! owners, the key of its marks, and the number of its last start.
//!
//! One relay at a time has the folder, by a lock on a file in it. A relay that is taken over lends the folder
//! ([`State::lend`]): it writes what it noted, and then nothing more, and the other relay gets its lock and reads
//! the folder ([`State::take_lent`]). One of the two goes on ([`State::go_on`]): the other one, or this one with the
//! journal that it still has open. The other one writes into the journal only then, so a take-over that fails
//! changes nothing. What the old relay decides while it drains is not written any more:
//! [`Book::note`] takes it and forgets it, and the successor hears of agents from the agents themselves.
//! [`Folder::open`] takes no lock, so a successor can look for its predecessor's socket in the folder
//! before that.

mod binding;
mod decision;
mod folder;
mod journal;
mod writer;

use std::collections::HashSet;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};
use tieline_wire::TunnelId;
use tracing::{error, warn};

pub(crate) use self::binding::{Binding, Note};
pub(crate) use self::decision::Decision;
pub(crate) use self::folder::{Folder, Lock};
use self::journal::Journal;
use self::writer::{Order, Writer};
use crate::config::Denied;
use crate::error::StartError;

/// Notes that may wait for the writer; a shard keeps what finds no room, and tries again.
const NOTES_MAX: usize = 8192;

/// How long a stop, or a hand-over, waits for the disk.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// The file with the key that seals marks, 32 random bytes.
const SEAL_FILE: &str = "seal-key";

/// The file with the number of the last start.
const EPOCH_FILE: &str = "epoch";

/// The file with the names.
const NAMES_FILE: &str = "names.journal";

/// The relay's folder, while this relay has it. Dropped, it is given up as by [`State::release`].
#[derive(Debug)]
pub(crate) struct State {
    orders: SyncSender<Order>,
    lock: Option<Lock>,
    /// While another relay may write the journal: the word to go on.
    go_on: Option<SyncSender<()>>,
}

/// What the folder held when a relay took it.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The number of this start: higher than that of every earlier one, whatever the clock says.
    pub(crate) epoch_seconds: u64,
    /// The key that seals marks.
    pub(crate) seal_key: [u8; 32],
    /// Every name that is bound.
    pub(crate) bindings: Vec<Binding>,
    /// Tunnels whose callers are turned away.
    pub(crate) paused: HashSet<TunnelId>,
    /// What was revoked, and until which second since 1970; those first that end first.
    pub(crate) revoked: Vec<(Denied, u64)>,
}

impl Kept {
    /// What a relay starts with that keeps nothing.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(crate) fn nothing() -> Result<Self, StartError> {
        Ok(Self {
            epoch_seconds: now_seconds(),
            seal_key: random_key()?,
            bindings: Vec::new(),
            paused: HashSet::new(),
            revoked: Vec::new(),
        })
    }
}

impl State {
    /// Takes the folder for this relay, and reads what it holds; at most `names_max` names.
    ///
    /// # Errors
    /// Another relay has the folder, or a file in it cannot be read or written.
    pub(crate) fn take(folder: &Folder, names_max: usize) -> Result<(Self, Kept), StartError> {
        let lock = folder.lock()?;
        Self::with(folder, lock, None, names_max)
    }

    /// Reads the folder that another relay has lent with its `lock`. What is noted waits for
    /// [`State::go_on`]; dropped before that, this leaves the journal as it was.
    ///
    /// # Errors
    /// A file in it cannot be read or written.
    pub(crate) fn take_lent(
        folder: &Folder,
        lock: Lock,
        names_max: usize,
    ) -> Result<(Self, Kept), StartError> {
        let go_on = sync_channel(1);
        Self::with(folder, lock, Some(go_on), names_max)
    }

    fn with(
        folder: &Folder,
        lock: Lock,
        go_on: Option<(SyncSender<()>, Receiver<()>)>,
        names_max: usize,
    ) -> Result<(Self, Kept), StartError> {
        let epoch_seconds = next_epoch(folder)?;
        let seal_key = seal_key(folder)?;
        let path = folder.path().join(NAMES_FILE);
        let opened = match &go_on {
            None => Journal::open(&path, names_max),
            Some(_) => Journal::open_as_it_is(&path, names_max),
        };
        let (journal, content) = opened.map_err(|source| StartError::State {
            path,
            problem: format!("cannot be used: {source}"),
        })?;
        let (orders, taken) = sync_channel(NOTES_MAX);
        let (go_on, begin) = go_on.unzip();
        Writer::start(journal, taken, begin)?;
        let state = Self {
            orders,
            lock: Some(lock),
            go_on,
        };
        let (paused, revoked) = content.decisions.into_parts();
        let kept = Kept {
            epoch_seconds,
            seal_key,
            bindings: content.bindings.into_values().collect(),
            paused,
            revoked,
        };
        Ok((state, kept))
    }

    /// The way into the journal, for every shard.
    pub(crate) fn book(&self) -> Book {
        Book(Some(self.orders.clone()))
    }

    /// Writes what was noted so far, and then nothing until [`State::go_on`]. The lock for the relay that
    /// reads the folder now; nothing if the disk does not take all of it.
    pub(crate) fn lend(&mut self) -> Option<Lock> {
        let copy = match self.lock.as_ref()?.copy() {
            Ok(copy) => copy,
            Err(error) => {
                error!(%error, "the lock of the state folder cannot be passed on");
                return None;
            }
        };
        let (done, is_done) = sync_channel(1);
        let (go_on, goes_on) = sync_channel(1);
        let order = Order::Stop(done, Some(goes_on));
        let is_told = send_within(&self.orders, order, RELEASE_TIMEOUT);
        if !is_told || is_done.recv_timeout(RELEASE_TIMEOUT).is_err() {
            error!("the state folder takes nothing; it is not given to another relay");
            return None;
        }
        self.go_on = Some(go_on);
        Some(copy)
    }

    /// The folder is this relay's alone: writes what was noted meanwhile, and what will be.
    pub(crate) fn go_on(&mut self) {
        if let (Some(go_on), Some(lock)) = (self.go_on.take(), &self.lock) {
            lock.note_holder();
            // The thread waits for it.
            let _ = go_on.try_send(());
        }
    }

    /// Writes what was noted so far, stops to write, and gives the folder up for another relay. Where one
    /// has the folder already, nothing is written.
    pub(crate) fn release(&mut self) {
        let Some(lock) = self.lock.take() else {
            return;
        };
        if self.go_on.take().is_some() {
            return;
        }
        let (done, is_done) = sync_channel(1);
        let is_told = send_within(&self.orders, Order::Stop(done, None), RELEASE_TIMEOUT);
        if !is_told || is_done.recv_timeout(RELEASE_TIMEOUT).is_err() {
            error!("the state folder takes nothing; the last bindings of names are lost");
        }
        drop(lock);
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.release();
    }
}

/// Where a shard notes what becomes of its names; nowhere, without a state folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book(Option<SyncSender<Order>>);

impl Book {
    /// Whether there is a folder.
    pub(crate) const fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Notes something without waiting for the disk. What is noted after the folder was given up is
    /// forgotten.
    ///
    /// # Errors
    /// There is no room for it now; the shard keeps it and tries again.
    pub(crate) fn note(&self, note: Box<Note>) -> Result<(), Box<Note>> {
        let Some(orders) = &self.0 else {
            return Ok(());
        };
        match orders.try_send(Order::Note(note)) {
            Err(TrySendError::Full(Order::Note(note))) => Err(note),
            _ => Ok(()),
        }
    }

    /// Notes what an operator decided, so that it outlasts this relay.
    pub(crate) fn decide(&self, decision: Decision) {
        let Some(orders) = &self.0 else {
            return;
        };
        let noted = orders.try_send(Order::Decision(Box::new(decision)));
        if let Err(TrySendError::Full(_)) = noted {
            error!("the state folder takes nothing; an operator's decision ends with this relay");
        }
    }
}

/// Puts an order behind what waits already, if there is room within `timeout`.
#[expect(
    clippy::disallowed_methods,
    reason = "the thread that stops the relay waits for the disk"
)]
fn send_within(orders: &SyncSender<Order>, mut order: Order, timeout: Duration) -> bool {
    const PAUSE: Duration = Duration::from_millis(5);
    let mut left = timeout;
    loop {
        match orders.try_send(order) {
            Ok(()) => return true,
            Err(TrySendError::Disconnected(_)) => return false,
            Err(TrySendError::Full(_)) if left.is_zero() => return false,
            Err(TrySendError::Full(back)) => order = back,
        }
        std::thread::sleep(PAUSE);
        left = left.saturating_sub(PAUSE);
    }
}

/// Seconds since 1970.
pub(crate) fn now_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The number of this start, which is on the disk before anything is numbered by it.
fn next_epoch(folder: &Folder) -> Result<u64, StartError> {
    let last = match folder.read(EPOCH_FILE)? {
        Some(bytes) => match parse_epoch(&bytes) {
            Some(last) => last,
            None => {
                let path = folder.path().join(EPOCH_FILE);
                warn!(path = %path.display(), "holds no number; the clock says the epoch");
                0
            }
        },
        None => 0,
    };
    let epoch = now_seconds().max(last + 1);
    folder.replace(EPOCH_FILE, format!("{epoch}\n").as_bytes())?;
    Ok(epoch)
}

/// The number in the file; none beyond the year 3000, which would leave later starts no room.
fn parse_epoch(bytes: &[u8]) -> Option<u64> {
    const EPOCH_MAX: u64 = 32_503_680_000;
    let text = std::str::from_utf8(bytes).ok()?;
    let number = text.trim().parse().ok()?;
    (number <= EPOCH_MAX).then_some(number)
}

fn seal_key(folder: &Folder) -> Result<[u8; 32], StartError> {
    if let Some(bytes) = folder.read(SEAL_FILE)? {
        let key: Result<[u8; 32], _> = bytes.try_into();
        return key.map_err(|_| StartError::State {
            path: folder.path().join(SEAL_FILE),
            problem: "is damaged; remove it (sessions that are bound to one agent begin anew)"
                .to_owned(),
        });
    }
    let key = random_key()?;
    folder.replace(SEAL_FILE, &key)?;
    Ok(key)
}

fn random_key() -> Result<[u8; 32], StartError> {
    let mut key = [0; 32];
    let filled = SystemRandom::new().fill(&mut key);
    filled.map_err(|_| StartError::Randomness)?;
    Ok(key)
}

/// Opens a relay's folder and takes it, where one is named; with the lock that the relay which has it passed on,
/// if there is one.
pub(crate) fn take(
    dir: Option<&Path>,
    lent: Option<Lock>,
    names_max: usize,
) -> Result<Option<(State, Kept)>, StartError> {
    let Some(dir) = dir else {
        return Ok(None);
    };
    let folder = Folder::open(dir)?;
    let taken = match lent {
        Some(lock) => State::take_lent(&folder, lock, names_max),
        None => State::take(&folder, names_max),
    };
    taken.map(Some)
}

#[cfg(test)]
mod tests;
