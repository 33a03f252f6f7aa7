//! Records where in memory a socket's reads and writes happen, for tests that look for copies. Records only calls
//! of the test's own thread.

use std::cell::RefCell;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, RawFd};

/// A piece of memory: its address and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(usize, usize);

impl Place {
    fn of(bytes: &[u8]) -> Self {
        Self(bytes.as_ptr().addr(), bytes.len())
    }

    pub(crate) const fn len(self) -> usize {
        self.1
    }

    /// True if all of `other` lies in this piece.
    pub(crate) const fn holds(self, other: Self) -> bool {
        self.0 <= other.0 && other.0 + other.1 <= self.0 + self.1
    }
}

/// Recorded reads and writes of one thread's sockets.
#[derive(Debug, Default)]
struct Calls {
    /// Memory that each read filled.
    reads: Vec<(RawFd, Place)>,
    /// Slices that each write was offered, and the number of bytes that it took.
    writes: Vec<(RawFd, Vec<Place>, usize)>,
}

thread_local! {
    static CALLS: RefCell<Option<Calls>> = const { RefCell::new(None) };
}

/// Starts recording on this thread.
pub(crate) fn watch() {
    CALLS.set(Some(Calls::default()));
}

pub(in crate::io) fn read(socket: impl AsFd, filled: &[u8]) {
    note(|calls| {
        let fd = socket.as_fd().as_raw_fd();
        calls.reads.push((fd, Place::of(filled)));
    });
}

pub(in crate::io) fn written(socket: impl AsFd, offered: &[IoSlice<'_>], taken: usize) {
    note(|calls| {
        let fd = socket.as_fd().as_raw_fd();
        let places = offered.iter().map(|slice| Place::of(slice)).collect();
        calls.writes.push((fd, places, taken));
    });
}

fn note(act: impl FnOnce(&mut Calls)) {
    CALLS.with_borrow_mut(|calls| calls.as_mut().map(act));
}

/// Memory that each read of a socket filled.
pub(crate) fn reads_of(fd: RawFd) -> Vec<Place> {
    CALLS.with_borrow(|calls| {
        let reads = calls.iter().flat_map(|calls| &calls.reads);
        let ours = reads.filter(|(of, _)| *of == fd);
        ours.map(|(_, place)| *place).collect()
    })
}

/// Slices that each write of a socket was offered, and the number of bytes that it took.
pub(crate) fn writes_of(fd: RawFd) -> Vec<(Vec<Place>, usize)> {
    CALLS.with_borrow(|calls| {
        let writes = calls.iter().flat_map(|calls| &calls.writes);
        let ours = writes.filter(|(of, ..)| *of == fd);
        ours.map(|(_, places, taken)| (places.clone(), *taken))
            .collect()
    })
}
