//! Records which memory the reads and writes of connections use, for tests that look for copies. Covers the
//! test's own thread only.

use std::cell::RefCell;
use std::io::IoSlice;
use std::net::SocketAddr;

use tokio::net::TcpStream;

/// A connection: the agent's address, which several connections may share, and the peer's address.
pub(crate) type Connection = (SocketAddr, SocketAddr);

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

    /// True if `other` lies within this piece of memory.
    pub(crate) const fn holds(self, other: Self) -> bool {
        self.0 <= other.0 && other.0 + other.1 <= self.0 + self.1
    }
}

/// Reads and writes of a thread's connections.
#[derive(Debug, Default)]
struct Calls {
    /// Memory filled by each read.
    reads: Vec<(Connection, Place)>,
    /// Pieces offered to each write, and the number of bytes written.
    writes: Vec<(Connection, Vec<Place>, usize)>,
}

thread_local! {
    static CALLS: RefCell<Option<Calls>> = const { RefCell::new(None) };
}

/// Starts to record.
pub(crate) fn watch() {
    CALLS.set(Some(Calls::default()));
}

pub(crate) fn read(stream: &TcpStream, filled: &[u8]) {
    note(stream, |calls, at| {
        calls.reads.push((at, Place::of(filled)))
    });
}

pub(crate) fn written(stream: &TcpStream, offered: &[IoSlice<'_>], taken: usize) {
    note(stream, |calls, at| {
        let places = offered.iter().map(|slice| Place::of(slice)).collect();
        calls.writes.push((at, places, taken));
    });
}

fn note(stream: &TcpStream, act: impl FnOnce(&mut Calls, Connection)) {
    CALLS.with_borrow_mut(|calls| {
        if let Some(calls) = calls
            && let (Ok(ours), Ok(theirs)) = (stream.local_addr(), stream.peer_addr())
        {
            act(calls, (ours, theirs));
        }
    });
}

/// Memory filled by each read of a connection.
pub(crate) fn reads_of(connection: Connection) -> Vec<Place> {
    CALLS.with_borrow(|calls| {
        let reads = calls.iter().flat_map(|calls| &calls.reads);
        let ours = reads.filter(|(at, _)| *at == connection);
        ours.map(|(_, place)| *place).collect()
    })
}

/// Pieces offered to each write of a connection, and the number of bytes written.
pub(crate) fn writes_of(connection: Connection) -> Vec<(Vec<Place>, usize)> {
    CALLS.with_borrow(|calls| {
        let writes = calls.iter().flat_map(|calls| &calls.writes);
        let ours = writes.filter(|(at, ..)| *at == connection);
        ours.map(|(_, places, taken)| (places.clone(), *taken))
            .collect()
    })
}
