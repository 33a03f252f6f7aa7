//! A connected stream socket: readiness from the driver, bytes by direct calls.
//!
//! Every call here says `MSG_DONTWAIT`, whatever mode the descriptor is in. A socket that nobody
//! reads owns no buffer.

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

use super::driver::Ways;
use super::readiness::{Readiness, Way};
use super::runtime::turn;

/// `linux/sockios.h`: unsent bytes of a socket.
const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;

/// What a direct read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// So many bytes.
    Bytes(usize),
    /// The peer ended its direction.
    End,
    /// Nothing yet: wait for readiness.
    Nothing,
}

/// A connected stream socket of this shard.
pub(crate) struct Socket {
    // In front of the descriptor, so that it goes first.
    readiness: Readiness,
    fd: OwnedFd,
}

impl Socket {
    /// Takes a descriptor into this shard.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        // SAFETY: the descriptor is closed, or leaves, after it.
        let readiness = unsafe { Readiness::new(fd.as_fd(), Ways::Both, true) };
        Self { readiness, fd }
    }

    /// Gives the descriptor up, for another shard.
    pub(crate) fn into_fd(self) -> OwnedFd {
        let Self { readiness, fd } = self;
        readiness.stays_open();
        drop(readiness);
        fd
    }

    /// Ready while a read may bring something.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.readiness.poll(Way::In, cx)
    }

    /// Ready while a write may take something.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.readiness.poll(Way::Out, cx)
    }

    /// Waits until a read may bring something.
    pub(crate) async fn readable(&self) {
        poll_fn(|cx| self.poll_readable(cx)).await;
    }

    /// Waits until a write may take something.
    pub(crate) async fn writable(&self) {
        poll_fn(|cx| self.poll_writable(cx)).await;
    }

    /// Waits until a read may bring something, and lets everybody else have a turn before.
    pub(crate) async fn readable_next_turn(&self) {
        turn().await;
        self.readable().await;
    }

    /// A write took `taken` of `offered` bytes.
    fn wrote(&self, taken: usize, offered: usize) -> usize {
        if taken < offered {
            self.readiness.spend(Way::Out);
        }
        taken
    }

    /// A call other than a read found nothing to read.
    pub(super) fn found_nothing(&self) {
        self.readiness.spend(Way::In);
    }

    /// A call other than a write found no room.
    pub(super) fn found_no_room(&self) {
        self.readiness.spend(Way::Out);
    }

    /// Reads up to `max` bytes behind what `buffer` holds, without waiting.
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
        super::witness::read(self, &buffer[buffer.len() - count..]);
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
                    // A stream that fills no buffer has no more; its end would have been said.
                    if count < room {
                        self.readiness.spend_by_short_read();
                    }
                    return Ok(Received::Bytes(count));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    self.readiness.spend(Way::In);
                    return Ok(Received::Nothing);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Looks at what a read would bring, without taking it.
    pub(crate) fn peek(&self, buffer: &mut [u8]) -> io::Result<Received> {
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
        super::witness::written(self, &[IoSlice::new(bytes)], taken);
        Ok(self.wrote(taken, bytes.len()))
    }

    /// Like [`Socket::send`], gathered.
    pub(crate) fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let taken = retry(|| {
            rustix::net::sendmsg(&self.fd, slices, &mut SendAncillaryBuffer::default(), flags)
        })?;
        #[cfg(test)]
        super::witness::written(self, slices, taken);
        Ok(self.wrote(taken, slices.iter().map(|slice| slice.len()).sum()))
    }

    /// For splice(2), which knows no flag that would keep a socket from blocking.
    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        SockRef::from(&self.fd).set_nonblocking(true)
    }

    /// Lifts the listener's limit on how long the peer may take nothing.
    pub(crate) fn wait_for_ever(&self) {
        let _ = SockRef::from(&self.fd).set_tcp_user_timeout(None);
    }

    /// Ends our direction in order, behind what was written: the peer has all that there is.
    pub(crate) fn finish(&self) {
        // The listener had it set, so that whatever ends before this is a reset.
        let _ = SockRef::from(&self.fd).set_linger(None);
        // The peer may be gone already, which ends the direction as well.
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Write);
    }

    /// Ends both directions: whoever waits on the socket wakes up.
    pub(crate) fn shutdown(&self) {
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Both);
    }

    /// Makes the coming close a reset (RST) instead of an end, and wakes whoever waits.
    pub(crate) fn abort(&self) {
        // Fails on a socket without TCP, which has no RST; its close tells the peer as much.
        let _ = SockRef::from(&self.fd).set_linger(Some(Duration::ZERO));
        // Reads end at once; the write side is left for the close to reset.
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Read);
    }

    /// True once the peer has reset the connection, or the kernel has given it up. Whoever reads or
    /// writes hears of it anyway.
    pub(crate) fn is_broken(&self) -> bool {
        // Nothing is asked for: errors are always reported (poll(2)). A hang-up alone is none, for
        // that is also what two orderly ends look like while bytes still wait to be read.
        let mut polled = [PollFd::new(self, PollFlags::empty())];
        rustix::event::poll(&mut polled, Some(&Timespec::default())).is_ok()
            && polled[0].revents().contains(PollFlags::ERR)
    }

    /// Bytes that the kernel still holds for the peer.
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

    /// Options of a link: how long unacknowledged bytes may linger, and how many unsent bytes
    /// the kernel may hold, so that its buffer does not undo the mux's order.
    pub(crate) fn tune_link(&self, user_timeout: Duration, notsent_bytes: u32) {
        let socket = SockRef::from(&self.fd);
        // Each only sharpens what the heartbeat does anyway.
        let _ = socket.set_tcp_user_timeout(Some(user_timeout));
        let _ = socket.set_tcp_notsent_lowat(notsent_bytes);
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

/// A connection on which `before!after` has come, the `!` as urgent data, with the options of those that
/// our listeners accept; and its peer.
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
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;
    use crate::io::{Chosen, choose, run, sleep};

    /// True once the peer's end is here, also behind bytes that nobody read.
    fn has_ended(socket: &Socket) -> bool {
        let mut polled = [PollFd::new(socket, PollFlags::RDHUP)];
        rustix::event::poll(&mut polled, Some(&Timespec::default())).unwrap() > 0
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
