//! Messages that carry descriptors between processes of this machine (unix(7), `SCM_RIGHTS`).

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::SockRef;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags,
    SocketType,
};

/// Longest message, in bytes.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Connections that may wait; one is served at a time, and the next is told that the relay is busy.
const BACKLOG: i32 = 4;

/// Time for the other end to make room for a connection or a message.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// A listening Unix socket at a path, for other processes of the same user.
#[derive(Debug)]
pub(crate) struct Entrance {
    fd: OwnedFd,
    path: PathBuf,
    is_closed: AtomicBool,
}

impl Entrance {
    /// Listens at `path`; replaces a file that an earlier process left there.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let fd = socket()?;
        rustix::net::bind(&fd, &SocketAddrUnix::new(&path)?)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        rustix::net::listen(&fd, BACKLOG)?;
        Ok(Self {
            fd,
            path,
            is_closed: AtomicBool::new(false),
        })
    }

    /// Waits for the next connection.
    pub(crate) fn accept(&self) -> io::Result<Channel> {
        loop {
            match rustix::net::accept_with(&self.fd, SocketFlags::CLOEXEC) {
                Ok(fd) => {
                    SockRef::from(&fd).set_write_timeout(Some(SEND_TIMEOUT))?;
                    return Ok(Channel(fd));
                }
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Accepts no more connections; a waiting accept fails. The path stays if it `is_passed_on`: another process
    /// has put its own socket there, or is about to.
    pub(crate) fn close(&self, is_passed_on: bool) {
        if self.is_closed.swap(true, Ordering::AcqRel) {
            return;
        }
        if !is_passed_on {
            // Fails if the file was removed by hand.
            let _ = fs::remove_file(&self.path);
        }
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Both);
    }

    /// Whether the entrance was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }
}

/// A connection between two processes that keeps message boundaries.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Connects to the socket at `path`.
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        let fd = socket()?;
        // A stopped process accepts nothing: neither call may block for ever then.
        SockRef::from(&fd).set_write_timeout(Some(SEND_TIMEOUT))?;
        rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(Self(fd))
    }

    /// Process id of the other end; `None` if the process is outside this process's PID namespace.
    pub(crate) fn process(&self) -> Option<u32> {
        let peer = rustix::net::sockopt::socket_peercred(&self.0).ok()?;
        u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
    }

    /// Refuses further messages: the other end's next send fails. Messages sent before can still be
    /// received.
    pub(crate) fn shut(&self) {
        let _ = rustix::net::shutdown(&self.0, Shutdown::Read);
    }

    /// Whether the other end's process runs as the same user, or as root.
    pub(crate) fn is_trusted(&self) -> bool {
        let user = rustix::process::geteuid();
        rustix::net::sockopt::socket_peercred(&self.0)
            .is_ok_and(|peer| peer.uid == user || peer.uid.is_root())
    }

    /// Sends a message, with a descriptor if there is one.
    pub(crate) fn send(&self, message: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = fd.map(|fd| [fd]);
        if let Some(fds) = &fds {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let slices = [IoSlice::new(message)];
        rustix::net::sendmsg(&self.0, &slices, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Receives the next message within `limit`, with the descriptor sent along; `None` at the end.
    pub(crate) fn receive(
        &self,
        limit: Duration,
    ) -> io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
        SockRef::from(&self.0).set_read_timeout(Some(limit))?;
        let mut message = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut message)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            match rustix::net::recvmsg(&self.0, &mut slices, &mut control, flags) {
                Err(rustix::io::Errno::INTR) => {}
                received => break received?,
            }
        };
        let fds = control.drain().filter_map(|it| match it {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        // Further descriptors are closed here.
        let fd = fds.flatten().next();
        if received.bytes == 0 {
            return Ok(None);
        }
        if received
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            return Err(io::ErrorKind::InvalidData.into());
        }
        message.truncate(received.bytes);
        Ok(Some((message, fd)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn socket() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(rustix::net::socket_with(
        family,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}
