//! Where bytes lie when connections are read and written, for tests that look for copies. Only
//! what the test's own thread does. A connection goes by the agent's address of it.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::SocketAddr;

/// A piece of memory: where it starts, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(usize, usize);

impl Place {
    fn of(bytes: &[u8]) -> Self {
        Self(bytes.as_ptr().addr(), bytes.len())
    }

    pub(crate) const fn len(self) -> usize {
        self.1
    }

    /// True if all of `other` lies in it.
    pub(crate) const fn holds(self, other: Self) -> bool {
        self.0 <= other.0 && other.0 + other.1 <= self.0 + self.1
    }
}

/// What the connections of a thread did.
#[derive(Debug, Default)]
struct Calls {
    /// Memory that reads filled.
    reads: Vec<(SocketAddr, Place)>,
    /// Pieces that writes were offered, and how many bytes they took.
    writes: Vec<(SocketAddr, Vec<Place>, usize)>,
}

thread_local! {
    static CALLS: RefCell<Option<Calls>> = const { RefCell::new(None) };
}

/// Begins to take note.
pub(crate) fn watch() {
    CALLS.set(Some(Calls::default()));
}

pub(crate) fn read(connection: io::Result<SocketAddr>, filled: &[u8]) {
    note(connection, |calls, at| {
        calls.reads.push((at, Place::of(filled)))
    });
}

pub(crate) fn written(connection: io::Result<SocketAddr>, offered: &[IoSlice<'_>], taken: usize) {
    note(connection, |calls, at| {
        let places = offered.iter().map(|slice| Place::of(slice)).collect();
        calls.writes.push((at, places, taken));
    });
}

fn note(connection: io::Result<SocketAddr>, act: impl FnOnce(&mut Calls, SocketAddr)) {
    CALLS.with_borrow_mut(|calls| {
        if let (Some(calls), Ok(at)) = (calls, connection) {
            act(calls, at);
        }
    });
}

/// What each read of a connection filled.
pub(crate) fn reads_of(connection: SocketAddr) -> Vec<Place> {
    CALLS.with_borrow(|calls| {
        let reads = calls.iter().flat_map(|calls| &calls.reads);
        let ours = reads.filter(|(at, _)| *at == connection);
        ours.map(|(_, place)| *place).collect()
    })
}

/// What each write of a connection was offered, and how many bytes it took.
pub(crate) fn writes_of(connection: SocketAddr) -> Vec<(Vec<Place>, usize)> {
    CALLS.with_borrow(|calls| {
        let writes = calls.iter().flat_map(|calls| &calls.writes);
        let ours = writes.filter(|(at, ..)| *at == connection);
        ours.map(|(_, places, taken)| (places.clone(), *taken))
            .collect()
    })
}
