//! A connected stream socket: readiness from the driver, bytes by direct calls.
//!
//! Every call uses `MSG_DONTWAIT`, whatever mode the descriptor is in. A socket owns no buffer.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketType};
use socket2::SockRef;
use tieline_transport::Received;

use super::driver::Interest;
use super::readiness::{Direction, Readiness};
use super::runtime::turn;

/// Asks for the number of unsent bytes of a socket (`linux/sockios.h`).
const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;

/// What the peer of an accepted connection sees if the connection is closed without [`Socket::finish`],
/// for example by the kernel after the process was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfinished {
    /// A reset: the peer cannot take a partial answer for a complete one (`SO_LINGER` of 0 s, socket(7)).
    Resets,
    /// An orderly end: the protocol on the connection marks its own lengths and ends.
    Ends,
}

/// A connected stream socket of this shard.
pub(crate) struct Socket {
    // Declared before `fd`, so that it is dropped first.
    readiness: Readiness,
    fd: OwnedFd,
    /// Bytes that the kernel took since the socket belongs to this shard, but for those of splice(2).
    written: Cell<u64>,
}

impl Socket {
    /// Attaches a descriptor to this shard.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        // SAFETY: `readiness` is dropped before the descriptor is closed, by the order of the fields, or given up.
        let readiness = unsafe { Readiness::new(fd.as_fd(), Interest::Both, true) };
        Self {
            readiness,
            fd,
            written: Cell::new(0),
        }
    }

    /// Detaches the descriptor, for another shard.
    pub(crate) fn into_fd(self) -> OwnedFd {
        let Self { readiness, fd, .. } = self;
        readiness.stays_open();
        drop(readiness);
        fd
    }

    /// Ready while a read may return something.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.readiness.poll(Direction::In, cx)
    }

    /// Ready while a write may take something.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.readiness.poll(Direction::Out, cx)
    }

    /// Waits until a read may return something.
    pub(crate) async fn readable(&self) {
        poll_fn(|cx| self.poll_readable(cx)).await;
    }

    /// Waits until a write may take something.
    pub(crate) async fn writable(&self) {
        poll_fn(|cx| self.poll_writable(cx)).await;
    }

    /// Waits until a read may return something, after all other tasks had a turn.
    pub(crate) async fn readable_next_turn(&self) {
        turn().await;
        self.readable().await;
    }

    /// Notes that a write took `taken` of `offered` bytes.
    fn wrote(&self, taken: usize, offered: usize) -> usize {
        self.written.set(self.written.get() + taken as u64);
        if taken < offered {
            self.readiness.spend(Direction::Out);
        }
        taken
    }

    /// Notes that a call other than a read found nothing to read.
    pub(super) fn found_nothing(&self) {
        self.readiness.spend(Direction::In);
    }

    /// Notes that a call other than a write found no room.
    pub(super) fn found_no_room(&self) {
        self.readiness.spend(Direction::Out);
    }

    /// Appends up to `max` bytes to `buffer`, without waiting.
    pub(crate) fn recv(&self, buffer: &mut BytesMut, max: usize) -> io::Result<Received> {
        buffer.reserve(max);
        let spare = buffer.spare_capacity_mut();
        let max = max.min(spare.len());
        let count = match self.receive(&mut spare[..max])? {
            Received::Bytes(count) => count,
            other => return Ok(other),
        };
        // SAFETY: `receive` initialised `count` bytes of the spare capacity.
        unsafe { buffer.advance_mut(count) };
        #[cfg(test)]
        super::tests::witness::read(self, &buffer[buffer.len() - count..]);
        Ok(Received::Bytes(count))
    }

    /// Reads into uninitialised memory, without waiting.
    pub(crate) fn recv_uninit(&self, buffer: &mut [MaybeUninit<u8>]) -> io::Result<Received> {
        self.receive(buffer)
    }

    fn receive(&self, buffer: &mut [MaybeUninit<u8>]) -> io::Result<Received> {
        if buffer.is_empty() {
            return Ok(Received::Nothing);
        }
        loop {
            let room = buffer.len();
            match rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((([], _), _)) => return Ok(Received::End),
                Ok(((taken, _), _)) => {
                    let count = taken.len();
                    // A short read means that no more bytes are there; an end would have been reported.
                    if count < room {
                        self.readiness.spend_by_short_read();
                    }
                    return Ok(Received::Bytes(count));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    self.readiness.spend(Direction::In);
                    return Ok(Received::Nothing);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads without removing the bytes, without waiting.
    pub(super) fn peek(&self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            match rustix::net::recv(
                &self.fd,
                &mut *buffer,
                RecvFlags::DONTWAIT | RecvFlags::PEEK,
            ) {
                Ok((0, _)) => return Ok(Received::End),
                Ok((count, _)) => return Ok(Received::Bytes(count.min(buffer.len()))),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    self.found_nothing();
                    return Ok(Received::Nothing);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes what the kernel takes at once; 0 means: wait for readiness.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let taken = retry(|| rustix::net::send(&self.fd, bytes, flags))?;
        #[cfg(test)]
        super::tests::witness::written(self, &[IoSlice::new(bytes)], taken);
        Ok(self.wrote(taken, bytes.len()))
    }

    /// Like [`Socket::send`], for several slices.
    pub(crate) fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // send(2) costs less than sendmsg(2).
        if let [slice] = slices {
            return self.send(slice);
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let taken = retry(|| {
            rustix::net::sendmsg(&self.fd, slices, &mut SendAncillaryBuffer::default(), flags)
        })?;
        #[cfg(test)]
        super::tests::witness::written(self, slices, taken);
        Ok(self.wrote(taken, slices.iter().map(|slice| slice.len()).sum()))
    }

    /// Makes the socket non-blocking, for splice(2): it has no flag that keeps a socket from blocking.
    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        SockRef::from(&self.fd).set_nonblocking(true)
    }

    /// Removes the listener's limit on how long the peer may take nothing.
    pub(crate) fn remove_send_timeout(&self) {
        let _ = SockRef::from(&self.fd).set_tcp_user_timeout(None);
    }

    /// Sets what the peer sees if the socket is closed without [`Socket::finish`].
    pub(super) fn set_unfinished(&self, unfinished: Unfinished) {
        let linger = (unfinished == Unfinished::Resets).then_some(Duration::ZERO);
        let _ = SockRef::from(&self.fd).set_linger(linger);
    }

    /// Ends the sending direction in order, after all written bytes.
    pub(crate) fn finish(&self) {
        // The listener set `SO_LINGER` of 0, so that a close before this is a reset.
        let _ = SockRef::from(&self.fd).set_linger(None);
        // Fails if the peer is gone already, which ends the direction as well.
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Write);
    }

    /// Ends both directions; wakes the tasks that wait on the socket.
    pub(crate) fn shutdown(&self) {
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Both);
    }

    /// Makes the coming close a reset (RST) instead of an end, and wakes tasks that wait to read.
    pub(crate) fn abort(&self) {
        // Fails on a Unix socket, which has no RST; there, the close itself tells the peer.
        let _ = SockRef::from(&self.fd).set_linger(Some(Duration::ZERO));
        // Reads end at once; the write side stays open, so that the close resets it.
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Read);
    }

    /// True once the peer has reset the connection, or the kernel has given it up. Reads and writes fail
    /// then as well.
    pub(crate) fn is_broken(&self) -> bool {
        // No events are requested: errors are always reported (poll(2)). A hang-up alone is not an error: two
        // orderly ends look the same while bytes are unread.
        let mut polled = [PollFd::new(self, PollFlags::empty())];
        rustix::event::poll(&mut polled, Some(&Timespec::default())).is_ok()
            && polled[0].revents().contains(PollFlags::ERR)
    }

    /// Number of bytes that the kernel still holds for the peer.
    pub(crate) fn unsent(&self) -> usize {
        // SAFETY: SIOCOUTQ writes one int (tcp(7)), which the getter provides.
        let unsent = unsafe {
            rustix::ioctl::ioctl(
                &self.fd,
                rustix::ioctl::Getter::<SIOCOUTQ, std::ffi::c_int>::new(),
            )
        };
        unsent
            .ok()
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or(0)
    }

    /// Bytes written since the socket belongs to this shard: those that the peer's kernel has acknowledged, and those
    /// that it has not. Bytes of splice(2) do not count as written.
    pub(crate) fn acked_and_unacked(&self) -> (u64, u64) {
        let unacked = self.unsent() as u64;
        (self.written.get().saturating_sub(unacked), unacked)
    }

    /// Sets options of a link: how long bytes may stay unacknowledged, and how many unsent bytes the kernel
    /// may hold, so that its buffer does not undo the mux's order of sending.
    pub(crate) fn tune_link(&self, user_timeout: Duration, notsent_bytes: u32) {
        let socket = SockRef::from(&self.fd);
        // Failures are ignored: the heartbeat finds a dead link as well, only later.
        let _ = socket.set_tcp_user_timeout(Some(user_timeout));
        let _ = socket.set_tcp_notsent_lowat(notsent_bytes);
    }
}

impl tieline_transport::Socket for Socket {
    fn recv(&self, buffer: &mut BytesMut, max: usize) -> io::Result<Received> {
        Self::recv(self, buffer, max)
    }

    fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Self::send_vectored(self, slices)
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        Self::poll_readable(self, cx)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        Self::poll_writable(self, cx)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Two connected sockets within this process, for a connection that crosses shards.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?)
}

/// A connection, and its peer, on which `before!after` has arrived with `!` as urgent data; its options are
/// those of connections that our listeners accept.
#[cfg(test)]
pub(super) fn with_urgent_byte() -> (Socket, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let caller = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let inline = SockRef::from(&accepted).set_out_of_band_inline(true);
    inline.unwrap();
    let sender = SockRef::from(&caller);
    sender.send(b"before").unwrap();
    sender.send_out_of_band(b"!").unwrap();
    sender.send(b"after").unwrap();
    (Socket::new(accepted.into()), caller)
}

fn retry(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Ok(count) => return Ok(count),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;
    use crate::io::{Chosen, choose, run, sleep};

    /// True once the peer's end has arrived, even behind unread bytes.
    fn has_ended(socket: &Socket) -> bool {
        let mut polled = [PollFd::new(socket, PollFlags::RDHUP)];
        rustix::event::poll(&mut polled, Some(&Timespec::default())).unwrap() > 0
    }

    #[test]
    fn bytes_that_a_peer_does_not_read_are_unacked_and_acked_once_it_does() {
        let (best, _) = choose(None).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        run(best, async {
            let socket = Socket::new(accepted.into());
            let piece = vec![7; 1024 * 1024];
            socket.writable().await;
            let mut sent = 0;
            loop {
                match socket.send(&piece).unwrap() {
                    0 => break,
                    count => sent += count,
                }
            }
            let (acked, unacked) = socket.acked_and_unacked();
            assert!(acked > 0 && unacked > 0, "{acked} {unacked}");
            assert_eq!(acked + unacked, sent as u64);
            socket.finish();
            let mut rest = Vec::new();
            caller.read_to_end(&mut rest).unwrap();
            assert_eq!(rest.len(), sent);
            while socket.acked_and_unacked() != (sent as u64, 0) {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .unwrap();
    }

    #[test]
    fn a_reset_shows_behind_bytes_that_nobody_reads_and_an_orderly_end_is_none() {
        let (best, _) = choose(None).unwrap();
        for driver in [best, Chosen::Epoll] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            caller.write_all(b"unread").unwrap();
            run(driver, async {
                let socket = Socket::new(accepted.into());
                socket.readable().await;
                assert!(!socket.is_broken());
                socket.finish();
                caller.shutdown(Shutdown::Write).unwrap();
                while !has_ended(&socket) {
                    sleep(Duration::from_millis(1)).await;
                }
                assert!(!socket.is_broken());
            })
            .unwrap();

            let mut caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            caller.write_all(b"unread").unwrap();
            run(driver, async {
                let socket = Socket::new(accepted.into());
                SockRef::from(&caller)
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
                drop(caller);
                while !socket.is_broken() {
                    sleep(Duration::from_millis(1)).await;
                }
            })
            .unwrap();
        }
    }
}
