//! Listening sockets: one per shard and address, with shared ports.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;
use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags};
use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, TcpKeepalive, Type};

use super::driver::Interest;
use super::readiness::{Direction, Readiness};
use super::socket::Unfinished;
use super::steering;
use super::stream::Stream;

/// Connections that may wait to be accepted; the kernel lowers the limit to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// How long a peer may leave bytes unacknowledged, or its window closed, before the kernel ends the
/// connection: the caller does not read, or is gone.
const STALL_TIMEOUT: Duration = Duration::from_secs(300);

/// Congestion control of connections within this machine: one without pacing. BBR paces even on
/// loopback, with a timer per segment (ADR 17). The kernel always has Reno. It must be inherited from the
/// listener: a socket that began to pace never stops.
const LOOPBACK_CONGESTION: &[u8] = b"reno";

/// Idle time before the kernel's first keep-alive probe, and interval of further probes. The kernel
/// gives up after [`STALL_TIMEOUT`].
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Time for which binding to a taken address is retried: after a relay was killed, the kernel needs a
/// moment to take its ring apart, and closes the listeners with it (5 ms, measured).
const TAKEN_TIMEOUT: Duration = Duration::from_millis(500);
const TAKEN_PAUSE: Duration = Duration::from_millis(5);

/// Options that the connections accepted by a listener inherit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accepted {
    pub(crate) unfinished: Unfinished,
    /// Unsent bytes that the kernel may hold for a slow reader, in addition to the session's buffers.
    /// Without a limit they grow to `net.ipv4.tcp_wmem`, and a few hundred callers that do not read use up
    /// the memory for all TCP connections (`net.ipv4.tcp_mem`), or a cgroup's.
    pub(crate) notsent_bytes: u32,
}

/// Binds `count` sockets to one address, over which the kernel spreads connections.
///
/// The sockets do not listen before [`listen`], which must be called in their order: the first gets place 0.
/// For port 0 the kernel chooses one port for all of them.
/// The address is first bound alone, because with `SO_REUSEPORT` a second relay of the same user
/// would silently share it.
pub(crate) fn bind(
    address: SocketAddr,
    count: usize,
    accepted: Accepted,
) -> io::Result<(SocketAddr, Vec<StdTcpListener>)> {
    while_taken(|| bind_once(address, count, accepted))
}

/// Calls `bind` again for [`TAKEN_TIMEOUT`] while the address is taken.
#[expect(
    clippy::disallowed_methods,
    reason = "runs before any shard, and no event reports a freed address"
)]
pub(super) fn while_taken<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + TAKEN_TIMEOUT;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(TAKEN_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

fn bind_once(
    address: SocketAddr,
    count: usize,
    accepted: Accepted,
) -> io::Result<(SocketAddr, Vec<StdTcpListener>)> {
    let probe = socket(address, false, accepted)?;
    let bound = local_address(&probe, address)?;
    drop(probe);
    Ok((bound, more(bound, count, accepted)?))
}

/// Binds `count` more sockets to an address that this relay has bound already.
pub(crate) fn more(
    bound: SocketAddr,
    count: usize,
    accepted: Accepted,
) -> io::Result<Vec<StdTcpListener>> {
    let sockets = (0..count).map(|_| socket(bound, true, accepted).map(StdTcpListener::from));
    sockets.collect()
}

/// Makes a bound socket listen.
pub(crate) fn listen(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).listen(BACKLOG)
}

fn socket(address: SocketAddr, shared: bool, accepted: Accepted) -> io::Result<RawSocket> {
    let socket = RawSocket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    // Accepted sockets inherit all of these options (tcp(7)), which saves a call for each.
    socket.set_tcp_nodelay(true)?;
    // Without this option, reads skip a byte that the peer sent as urgent.
    socket.set_out_of_band_inline(true)?;
    socket.set_tcp_user_timeout(Some(STALL_TIMEOUT))?;
    let probes = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&probes)?;
    if accepted.unfinished == Unfinished::Resets {
        socket.set_linger(Some(Duration::ZERO))?;
    }
    // Failures are ignored: without these options connections are only slower.
    let _ = socket.set_tcp_notsent_lowat(accepted.notsent_bytes);
    if address.ip().to_canonical().is_loopback() {
        let _ = socket.set_tcp_congestion(LOOPBACK_CONGESTION);
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The address that a socket is bound to; `asked` if the kernel does not tell.
pub(crate) fn local_address(socket: &impl AsFd, asked: SocketAddr) -> io::Result<SocketAddr> {
    let bound = SockRef::from(socket).local_addr()?;
    Ok(bound.as_socket().unwrap_or(asked))
}

/// Stands for a peer address that the kernel did not tell.
const UNKNOWN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A shard's listening socket.
pub(crate) struct Listener {
    // Declared before `fd`, so that it is dropped first.
    readiness: Readiness,
    fd: OwnedFd,
    /// Spare descriptor, given up for a moment to accept a connection when no other is left.
    reserve: Cell<Option<OwnedFd>>,
    /// Least number that the reserve should have, if such a descriptor is free.
    reserve_from: Cell<RawFd>,
}

/// A descriptor without a use of its own, numbered `from` or above if such a number is free.
fn spare(from: RawFd) -> Option<OwnedFd> {
    let lowest = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).ok()?;
    if lowest.as_raw_fd() >= from {
        return Some(lowest);
    }
    let copy = rustix::io::fcntl_dupfd_cloexec(&lowest, from);
    Some(copy.unwrap_or(lowest))
}

/// True if the process or the system has no descriptor left (accept(2), EMFILE and ENFILE).
pub(crate) fn lacks_descriptors(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    let is = |errno: Errno| code == Some(errno.raw_os_error());
    is(Errno::MFILE) || is(Errno::NFILE)
}

impl Listener {
    pub(crate) fn new(listener: StdTcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let fd = OwnedFd::from(listener);
        // SAFETY: `readiness` is dropped before the descriptor, by the order of the fields.
        let readiness = unsafe { Readiness::new(fd.as_fd(), Interest::In, true) };
        Ok(Self {
            readiness,
            fd,
            reserve: Cell::new(spare(0)),
            reserve_from: Cell::new(0),
        })
    }

    /// Makes the reserve's number `from` or above, a range that connections may not keep: another thread may take
    /// the number first when the reserve is given up, and must not keep it.
    pub(crate) fn keep_reserve_from(&self, from: u64) {
        let from = RawFd::try_from(from).unwrap_or(0);
        self.reserve_from.set(from);
        self.reserve.set(spare(from));
    }

    /// Accepts the next connection.
    pub(crate) async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        loop {
            poll_fn(|cx| self.readiness.poll(Direction::In, cx)).await;
            match self.accept_once() {
                Ok((fd, peer)) => return Ok((Stream::new(fd), peer)),
                Err(Errno::AGAIN) => self.readiness.spend(Direction::In),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Accepts a connection that is waiting, if there is one.
    pub(crate) fn accept_waiting(&self) -> Option<(Stream, SocketAddr)> {
        loop {
            match self.accept_once() {
                Ok((fd, peer)) => return Some((Stream::new(fd), peer)),
                // The caller disconnected, or a signal arrived: another connection may be waiting.
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }

    fn accept_once(&self) -> Result<(OwnedFd, SocketAddr), Errno> {
        let (fd, peer) = rustix::net::acceptfrom_with(&self.fd, SocketFlags::CLOEXEC)?;
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        Ok((fd, peer.unwrap_or(UNKNOWN)))
    }

    /// Begins no more connections: a new caller gets no answer, and tries again after a second. Connections that
    /// have begun can still be accepted.
    pub(crate) fn turn_away(&self) -> io::Result<()> {
        steering::turn_away(self.fd.as_fd())
    }

    /// After [`Listener::accept`] lacked a descriptor: accepts the next connection, passes its peer to `refused`
    /// and resets it. False if no connection was waiting, or there is no reserve to accept it with.
    pub(crate) fn refuse_next(&self, refused: impl FnOnce(SocketAddr)) -> bool {
        let from = self.reserve_from.get();
        let Some(reserve) = self.reserve.take().or_else(|| spare(from)) else {
            return false;
        };
        drop(reserve);
        let next = self.accept_once();
        let is_taken = next.is_ok();
        match next {
            Ok((fd, peer)) => {
                refused(peer);
                // An orderly end would look like an empty answer.
                let _ = SockRef::from(&fd).set_linger(Some(Duration::ZERO));
            }
            Err(Errno::AGAIN) => self.readiness.spend(Direction::In),
            Err(_) => {}
        }
        // The connection's descriptor is free again, unless another thread took it.
        self.reserve.set(spare(from));
        is_taken
    }

    /// Spreads the connections of this port over the sockets at `places`; see [`bind`] for their
    /// order.
    pub(crate) fn steer(&self, places: &[u32]) -> io::Result<()> {
        steering::steer(self.fd.as_fd(), places)
    }

    /// Stops listening: connections that wait are refused, and accepts fail with `InvalidInput` (accept(2),
    /// EINVAL).
    pub(crate) fn shut(&self) {
        // Fails only if the listener was shut before.
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Read);
    }
}

/// Listening sockets on one loopback address.
#[cfg(test)]
pub(super) fn listening(count: usize, accepted: Accepted) -> (SocketAddr, Vec<StdTcpListener>) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (bound, sockets) = bind(any, count, accepted).unwrap();
    for socket in &sockets {
        listen(socket).unwrap();
    }
    (bound, sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Accepted = with(Unfinished::Ends);

    const fn with(unfinished: Unfinished) -> Accepted {
        Accepted {
            unfinished,
            notsent_bytes: 200_000,
        }
    }

    #[test]
    fn port_zero_is_chosen_once_for_all_shards() {
        let (bound, sockets) = listening(3, PLAIN);
        assert_ne!(bound.port(), 0);
        for socket in sockets {
            assert_eq!(socket.local_addr().unwrap(), bound);
        }
    }

    #[test]
    fn waiting_for_a_connection_holds_up_nothing_else_and_can_be_ended() {
        use crate::io::{Chosen, choose, run, sleep, spawn};
        use std::time::Duration;

        let (best, _) = choose(None).unwrap();
        for driver in [best, Chosen::Epoll] {
            let (bound, sockets) = listening(1, PLAIN);
            let _caller = std::net::TcpStream::connect(bound).unwrap();
            let ended = run(driver, async {
                let socket = sockets.into_iter().next().unwrap();
                let listener = std::rc::Rc::new(Listener::new(socket).unwrap());
                let ours = std::rc::Rc::clone(&listener);
                let accepting = spawn(async move {
                    let _first = ours.accept().await.unwrap();
                    // No second connection comes: this accept waits until the listener is shut.
                    ours.accept().await.err().unwrap().kind()
                });
                sleep(Duration::from_millis(20)).await;
                listener.shut();
                accepting.await
            });
            assert_eq!(ended.unwrap(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn accepted_connections_inherit_their_limits() {
        let (bound, sockets) = listening(1, PLAIN);
        let _caller = std::net::TcpStream::connect(bound).unwrap();
        let (accepted, _) = sockets[0].accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(STALL_TIMEOUT));
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(accepted.tcp_notsent_lowat().unwrap(), PLAIN.notsent_bytes);
        let congestion = accepted.tcp_congestion().unwrap();
        assert!(congestion.starts_with(LOOPBACK_CONGESTION));
        assert!(accepted.keepalive().unwrap() && accepted.tcp_nodelay().unwrap());
        assert!(accepted.out_of_band_inline().unwrap());
    }

    #[test]
    fn what_is_closed_without_an_orderly_end_is_reset_where_that_is_wanted() {
        use std::io::Read;

        for (unfinished, is_finished, resets) in [
            (Unfinished::Resets, false, true),
            (Unfinished::Resets, true, false),
            (Unfinished::Ends, false, false),
        ] {
            let (bound, sockets) = listening(1, with(unfinished));
            let mut caller = std::net::TcpStream::connect(bound).unwrap();
            crate::io::run(crate::io::Chosen::Epoll, async {
                let socket = sockets.into_iter().next().unwrap();
                let (accepted, _) = Listener::new(socket).unwrap().accept().await.unwrap();
                assert_eq!(accepted.send(b"some").unwrap(), 4);
                if is_finished {
                    accepted.finish().await;
                }
            })
            .unwrap();
            let end = caller.read_to_end(&mut Vec::new());
            let is_reset = end.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset);
            assert_eq!(is_reset, resets, "{unfinished:?}, finished: {is_finished}");
        }
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "the test needs real time to pass"
    )]
    fn a_port_that_becomes_free_in_a_moment_is_waited_for() {
        let (bound, sockets) = listening(2, PLAIN);
        let leaving = thread::spawn(move || {
            thread::sleep(TAKEN_TIMEOUT / 10);
            drop(sockets);
        });
        assert_eq!(bind(bound, 2, PLAIN).unwrap().0, bound);
        leaving.join().unwrap();
    }

    #[test]
    fn a_taken_port_is_an_error_although_ports_are_shared() {
        let (bound, _sockets) = listening(2, PLAIN);
        assert_eq!(
            bind(bound, 2, PLAIN).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
    }
}
