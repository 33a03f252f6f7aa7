//! State that a relay keeps over its restarts, in a folder of its own: bound names and their owners, operators'
//! decisions, the keys that seal references to one agent and that QUIC needs, and the number of the last start.
//!
//! One relay at a time has the folder, by a lock on a file in it. In a take-over, the old relay lends the folder
//! ([`State::lend`]): it writes its notes, then stops writing, and the new relay gets the lock and reads the folder
//! ([`State::take`]). One of the two then goes on ([`State::go_on`]): the new relay, or the old one with the journal
//! that it still has open. The new relay writes into the journal only then, so a take-over that fails changes nothing.
//! Decisions of the old relay while it drains are not written any more: [`NoteQueue::note`] accepts and drops them, and
//! the agents register with the new relay themselves. [`Folder::open`] takes no lock, so that the new relay can look
//! for the old one's socket in the folder before that.

mod binding;
mod decision;
mod folder;
mod journal;
mod writer;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use tieline_wire::TunnelId;
use tracing::{error, warn};

pub(crate) use self::binding::{Binding, Note};
pub(crate) use self::decision::Decision;
pub(crate) use self::folder::{Folder, Lock};
use self::journal::Journal;
use self::writer::{OVER, Order, Writer};
pub(crate) use crate::clock::now_seconds;
use crate::config::Denied;
use crate::error::StartError;

/// Notes that may wait for the writer; a shard keeps notes beyond that, and tries again.
const NOTES_MAX: usize = 8192;

/// Decisions of operators that may wait for the writer besides the notes: more than all tunnels that can be paused and
/// all revocations that are kept, so that no decision is lost while the disk takes nothing.
const DECISIONS_MAX: usize = 16_384;

/// Time for which a stop or a hand-over waits for the disk.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// The file with the key that seals references to one agent, 32 random bytes.
const SEAL_FILE: &str = "seal-key";

/// The file with the key of QUIC, 32 random bytes: what a relay told clients about their connections before a restart
/// stays readable after it.
const QUIC_FILE: &str = "quic-key";

/// The file with the number of the last start, the epoch.
const EPOCH_FILE: &str = "epoch";

/// The journal of names and of operators' decisions.
const NAMES_FILE: &str = "names.journal";

/// The relay's folder, while this relay has it. Dropping it has the effect of [`State::release`].
#[derive(Debug)]
pub(crate) struct State {
    queue: Queue,
    lock: Option<Lock>,
    /// Sends the order to go on writing; set while another relay may write the journal.
    go_on: Option<SyncSender<()>>,
}

/// Content of the folder when a relay took it.
#[derive(Debug)]
pub(crate) struct StoredState {
    /// Number of this start: higher than that of every earlier start, even if the clock went back.
    pub(crate) epoch_seconds: u64,
    /// The key that seals references to one agent.
    pub(crate) seal_key: [u8; 32],
    /// The key of QUIC, from which keys for resets, tokens and connection IDs are made.
    pub(crate) quic_key: [u8; 32],
    /// Bindings of all bound names.
    pub(crate) bindings: Vec<Binding>,
    /// Tunnels whose callers are turned away.
    pub(crate) paused: HashSet<TunnelId>,
    /// Denied tokens, subjects and keys, each until a second since 1970; sorted by that second.
    pub(crate) revoked: Vec<(Denied, u64)>,
}

impl StoredState {
    /// Content for a relay without a folder.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(crate) fn nothing() -> Result<Self, StartError> {
        Ok(Self {
            epoch_seconds: now_seconds(),
            seal_key: random_key()?,
            quic_key: random_key()?,
            bindings: Vec::new(),
            paused: HashSet::new(),
            revoked: Vec::new(),
        })
    }
}

impl State {
    /// Takes the folder for this relay, and reads at most `names_max` names from it. With the lock that another relay
    /// has `lent`, notes wait for [`State::go_on`]; if the returned state is dropped before that, the journal stays as
    /// it was.
    ///
    /// # Errors
    /// Another relay has the folder, or a file in it cannot be read or written.
    pub(crate) fn take(
        folder: &Folder,
        lent: Option<Lock>,
        names_max: usize,
    ) -> Result<(Self, StoredState), StartError> {
        let (lock, go_on) = match lent {
            Some(lock) => (lock, Some(sync_channel(1))),
            None => (folder.lock()?, None),
        };
        let epoch_seconds = next_epoch(folder)?;
        let lost = "MCP sessions bound to one agent must start again";
        let seal_key = stored_key(folder, SEAL_FILE, lost)?;
        let lost = "agents over QUIC notice the restart later";
        let quic_key = stored_key(folder, QUIC_FILE, lost)?;
        let path = folder.path().join(NAMES_FILE);
        let opened = match &go_on {
            None => Journal::open(&path, names_max),
            Some(_) => Journal::open_as_it_is(&path, names_max),
        };
        let (journal, content) = opened
            .map_err(|source| StartError::state(&path, format!("cannot be used: {source}")))?;
        let (orders, taken) = sync_channel(NOTES_MAX + DECISIONS_MAX);
        let notes_waiting = Arc::new(AtomicUsize::new(0));
        let (go_on, begin) = go_on.unzip();
        Writer::start(journal, taken, Arc::clone(&notes_waiting), begin)?;
        let state = Self {
            queue: Queue {
                orders,
                notes_waiting,
            },
            lock: Some(lock),
            go_on,
        };
        let (paused, revoked) = content.decisions.into_parts();
        let kept = StoredState {
            epoch_seconds,
            seal_key,
            quic_key,
            bindings: content.bindings.into_values().collect(),
            paused,
            revoked,
        };
        Ok((state, kept))
    }

    /// The queue of notes for the journal, for every shard.
    pub(crate) fn book(&self) -> NoteQueue {
        NoteQueue(Some(self.queue.clone()))
    }

    /// Writes all notes so far, then nothing until [`State::go_on`]. Returns the lock for the relay that reads the
    /// folder next, or `None` if the disk does not take all of the notes.
    pub(crate) fn lend(&mut self) -> Option<Lock> {
        let copy = match self.lock.as_ref()?.copy() {
            Ok(copy) => copy,
            Err(error) => {
                error!(%error, "cannot duplicate the descriptor of the state folder's lock");
                return None;
            }
        };
        let (go_on, goes_on) = sync_channel(1);
        if !self.stop_writing(Some(goes_on)) {
            error!("the state folder cannot be written; it is not handed over to another relay");
            return None;
        }
        self.go_on = Some(go_on);
        Some(copy)
    }

    /// Takes the folder as this relay's alone: writes the notes that waited, and all later ones.
    pub(crate) fn go_on(&mut self) {
        if let (Some(go_on), Some(lock)) = (self.go_on.take(), &self.lock) {
            lock.note_holder();
            // The writer thread waits for this order.
            let _ = go_on.try_send(());
        }
    }

    /// Writes all notes so far, stops writing, and unlocks the folder for another relay. Writes nothing if another
    /// relay has the folder already.
    pub(crate) fn release(&mut self) {
        let Some(lock) = self.lock.take() else {
            return;
        };
        if self.go_on.take().is_some() {
            return;
        }
        if !self.stop_writing(None) {
            error!("the state folder cannot be written; the last bindings of names are lost");
        }
        drop(lock);
    }

    /// Has all notes so far written, and then nothing: until `go_on` receives an order, or for ever. False if the disk
    /// does not take the notes in time.
    fn stop_writing(&self, go_on: Option<Receiver<()>>) -> bool {
        let (done, is_done) = sync_channel(1);
        let order = Order::Stop(done, go_on);
        send_within(&self.queue.orders, order, RELEASE_TIMEOUT)
            && is_done.recv_timeout(RELEASE_TIMEOUT).is_ok()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.release();
    }
}

/// Queue of a shard's notes about its names; drops them if the relay has no state folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct NoteQueue(Option<Queue>);

/// The writer's queue, and how many of its orders are notes.
#[derive(Clone, Debug)]
struct Queue {
    orders: SyncSender<Order>,
    notes_waiting: Arc<AtomicUsize>,
}

impl NoteQueue {
    /// Whether the relay has a state folder.
    pub(crate) const fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Queues a note without waiting for the disk. A note after the folder's release is dropped.
    ///
    /// # Errors
    /// The queue is full; the shard keeps the note and tries again.
    pub(crate) fn note(&self, note: Box<Note>) -> Result<(), Box<Note>> {
        let Some(queue) = &self.0 else {
            return Ok(());
        };
        let change = |to: fn(usize) -> usize| {
            let change = |count| (count != OVER).then(|| to(count));
            queue.notes_waiting.fetch_update(Relaxed, Relaxed, change)
        };
        match change(|count| count + 1) {
            Err(_) => return Ok(()),
            Ok(count) if count < NOTES_MAX => {}
            Ok(_) => {
                let _ = change(|count| count - 1);
                return Err(note);
            }
        }
        let Err(error) = queue.orders.try_send(Order::Note(note)) else {
            return Ok(());
        };
        let _ = change(|count| count - 1);
        match error {
            TrySendError::Full(Order::Note(note)) => Err(note),
            _ => Ok(()),
        }
    }

    /// Queues an operator's decision, which is to outlast this relay. It has room that notes cannot take.
    pub(crate) fn decide(&self, decision: Decision) {
        let Some(queue) = &self.0 else {
            return;
        };
        let noted = queue.orders.try_send(Order::Decision(Box::new(decision)));
        if let Err(TrySendError::Full(_)) = noted {
            error!(
                "the state folder's queue is full; an operator's decision will be lost at the next restart"
            );
        }
    }
}

/// Puts an order into the queue, if there is room within `timeout`.
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

/// Makes the number of this start, and writes it to the disk before the relay uses it.
fn next_epoch(folder: &Folder) -> Result<u64, StartError> {
    let last = folder.read(EPOCH_FILE)?.map(|bytes| parse_epoch(&bytes));
    if last == Some(None) {
        let path = folder.path().join(EPOCH_FILE);
        warn!(path = %path.display(), "the file has no valid number; the epoch is taken from the clock");
    }
    let epoch = now_seconds().max(last.flatten().unwrap_or(0) + 1);
    folder.replace(EPOCH_FILE, format!("{epoch}\n").as_bytes())?;
    Ok(epoch)
}

/// The number in the file; `None` beyond the year 3000, since such a number would leave no room for later starts.
fn parse_epoch(bytes: &[u8]) -> Option<u64> {
    const EPOCH_MAX: u64 = 32_503_680_000;
    let text = std::str::from_utf8(bytes).ok()?;
    let number = text.trim().parse().ok()?;
    (number <= EPOCH_MAX).then_some(number)
}

/// The key in a file, which is made if it is missing. `lost` is the effect of removing a damaged one.
fn stored_key(folder: &Folder, file: &str, lost: &str) -> Result<[u8; 32], StartError> {
    if let Some(bytes) = folder.read(file)? {
        let key: Result<[u8; 32], _> = bytes.try_into();
        let problem = format!("is damaged; remove it ({lost})");
        return key.map_err(|_| StartError::state(&folder.path().join(file), problem));
    }
    let key = random_key()?;
    folder.replace(file, &key)?;
    Ok(key)
}

fn random_key() -> Result<[u8; 32], StartError> {
    let mut key = [0; 32];
    let filled = SystemRandom::new().fill(&mut key);
    filled.map_err(|_| StartError::Randomness)?;
    Ok(key)
}

#[cfg(test)]
mod tests;
