//! An admin listener that keeps a file descriptor in reserve for when the process has no other left.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::task::Poll;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::time;

use crate::io::lacks_descriptors;
use crate::listen::Room;

/// Time between two checks for waiting connections while descriptors are lacking.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A listener and a reserved descriptor, which is given up to accept a connection.
///
/// The reserve's number lies above those that callers and agents may keep. If a connection of theirs takes the number
/// first when the reserve is given up, and no lower one is free, that connection is refused and closed at once.
#[derive(Debug)]
pub(super) struct GuardedListener {
    listener: TcpListener,
    reserve: Option<OwnedFd>,
}

impl GuardedListener {
    pub(super) fn new(listener: TcpListener) -> Self {
        let reserve = copy_of(&listener);
        Self { listener, reserve }
    }

    /// Accepts the next connection, giving up the reserve if needed. Dropping the future loses no connection.
    ///
    /// # Errors
    /// accept(2) failed. It fails for lack of a descriptor only if a connection waits and the reserve is gone.
    pub(super) async fn accept(&mut self) -> io::Result<TcpStream> {
        loop {
            if self.reserve.is_none() {
                self.reserve = copy_of(&self.listener);
            }
            let error = match self.listener.accept().await {
                Ok((stream, _)) => return Ok(stream),
                Err(error) if !lacks_descriptors(&error) => return Err(error),
                Err(error) => error,
            };
            // accept(2) fails for lack of descriptors before it checks whether a connection waits.
            if !is_awaited(&self.listener) {
                time::sleep(LOOK_INTERVAL).await;
                continue;
            }
            if self.reserve.take().is_none() {
                return Err(error);
            }
            let once = poll_fn(|cx| Poll::Ready(self.listener.poll_accept(cx)));
            if let Poll::Ready(accepted) = once.await {
                return accepted.map(|(stream, _)| stream);
            }
        }
    }

    /// True if the reserve was given up and could not be made again yet.
    pub(super) const fn is_spent(&self) -> bool {
        self.reserve.is_none()
    }
}

/// Reserves a descriptor by duplicating the listener's.
fn copy_of(listener: &TcpListener) -> Option<OwnedFd> {
    let limit = getrlimit(Resource::Nofile).current;
    let from = RawFd::try_from(Room::beyond_agents(limit)).unwrap_or(0);
    let copy = fcntl_dupfd_cloexec(listener, from);
    copy.or_else(|_| fcntl_dupfd_cloexec(listener, 0)).ok()
}

/// True if a connection waits to be accepted.
fn is_awaited(listener: impl AsFd) -> bool {
    let mut polled = [PollFd::new(&listener, PollFlags::IN)];
    // An error, such as an interruption by a signal, counts as no: the next accept finds the connection.
    poll(&mut polled, Some(&Timespec::default())).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_that_waits_is_seen_and_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert!(!is_awaited(&listener));
        let address = listener.local_addr().unwrap();
        let mut door = GuardedListener::new(listener);
        assert!(!door.is_spent());
        // On loopback, connect returns after the handshake.
        let caller = TcpStream::connect(address).await.unwrap();
        assert!(is_awaited(&door.listener));
        // The reserve is made again as soon as a descriptor is free.
        door.reserve = None;
        let stream = door.accept().await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), caller.local_addr().unwrap());
        assert!(!door.is_spent());
    }
}
