//! The relay's listening sockets: all are bound first, and listen only after that. Sockets that a running relay
//! passed on listen already; they are used if the configuration still names their
//! address. UDP sockets, of QUIC, do not listen: they receive from the moment that they are bound.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use crate::config::{Config, ListenAddress};
use crate::error::{ListenKind, StartError};
use crate::io::{self, Accepted};
use crate::takeover::BoundSocket;

/// All listening addresses, with their sockets.
#[derive(Default)]
pub(crate) struct Listeners {
    addresses: Vec<Address>,
}

struct Address {
    kind: ListenKind,
    asked: SocketAddr,
    local: SocketAddr,
    /// Whether connections begin with TLS, as the configuration has it; an earlier relay's sockets know nothing of it.
    is_tls: bool,
    /// In the order in which they must start to listen, or were bound (UDP).
    sockets: Vec<OwnedFd>,
    /// Number of the sockets that an earlier relay passed on.
    inherited: usize,
}

impl Listeners {
    /// Makes one socket per shard for each configured address: uses those in `passed`, and binds those that are
    /// missing. Other sockets in `passed` are closed.
    ///
    /// # Errors
    /// [`StartError::Listen`] names the address.
    pub(crate) fn bind(config: &Config, mut passed: Vec<BoundSocket>) -> Result<Self, StartError> {
        let mut doors = Self::default();
        passed.sort_by_key(|door| door.place);
        for kind in ListenKind::ALL {
            for ListenAddress {
                address: asked,
                is_tls,
            } in config.listen(kind)
            {
                // The configuration may now name the port that the kernel chose for port 0 before.
                let is_its = |door: &mut BoundSocket| {
                    let is_at =
                        || io::local_address(&door.socket, asked).is_ok_and(|it| it == asked);
                    door.kind == kind && (door.asked == asked || is_at())
                };
                let mut sockets: Vec<OwnedFd> = passed
                    .extract_if(.., is_its)
                    .map(|door| door.socket)
                    .collect();
                let wanted = match kind {
                    ListenKind::Admin => 1,
                    _ => config.shards,
                };
                let inherited = sockets.len();
                let accepted = Accepted {
                    unfinished: kind.unfinished(),
                    notsent_bytes: config.notsent_bytes(),
                };
                let bound = match sockets.first() {
                    Some(first) => io::local_address(first, asked).and_then(|local| {
                        let missing = wanted.saturating_sub(inherited);
                        Ok((local, bind_more(kind, local, missing, accepted)?))
                    }),
                    None => bind_first(kind, asked, wanted, accepted),
                };
                let (local, more) = bound.map_err(|source| listen_error(kind, asked, source))?;
                sockets.extend(more);
                doors.addresses.push(Address {
                    kind,
                    asked,
                    local,
                    is_tls,
                    sockets,
                    inherited,
                });
            }
        }
        Ok(doors)
    }

    /// Bound addresses.
    pub(crate) fn addresses(&self) -> Vec<(ListenKind, ListenAddress)> {
        let bound = |it: &Address| ListenAddress {
            address: it.local,
            is_tls: it.is_tls,
        };
        let all = self.addresses.iter();
        all.map(|it| (it.kind, bound(it))).collect()
    }

    /// Makes all sockets listen that do not listen yet.
    ///
    /// # Errors
    /// Another process listens on the address.
    pub(crate) fn listen(&self) -> Result<(), StartError> {
        let tcp = self.addresses.iter();
        for it in tcp.filter(|it| it.kind != ListenKind::Quic) {
            for socket in &it.sockets[it.inherited..] {
                io::listen(socket).map_err(|source| listen_error(it.kind, it.asked, source))?;
            }
        }
        Ok(())
    }

    /// Duplicates of all sockets, to be passed on.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub(crate) fn copies(&self) -> std::io::Result<Vec<BoundSocket>> {
        let mut copies = Vec::new();
        for it in &self.addresses {
            for (place, socket) in it.sockets.iter().enumerate() {
                copies.push(BoundSocket {
                    kind: it.kind,
                    asked: it.asked,
                    place,
                    socket: socket.try_clone()?,
                });
            }
        }
        Ok(copies)
    }

    /// Non-blocking duplicates of the admin sockets, with their addresses.
    ///
    /// # Errors
    /// The kernel refuses to duplicate a socket.
    pub(crate) fn admin(&self) -> Result<Vec<(SocketAddr, TcpListener)>, StartError> {
        let mut admin = Vec::new();
        for it in self.of_kind(ListenKind::Admin) {
            for socket in &it.sockets {
                let copy = socket.try_clone().map(TcpListener::from);
                let copy = copy.and_then(|it| it.set_nonblocking(true).map(|()| it));
                let copy = copy.map_err(|source| listen_error(it.kind, it.asked, source))?;
                admin.push((it.local, copy));
            }
        }
        Ok(admin)
    }

    fn of_kind(&self, kind: ListenKind) -> impl Iterator<Item = &Address> {
        self.addresses.iter().filter(move |it| it.kind == kind)
    }

    /// Warns the operator, in a line for each, of small buffers of UDP sockets.
    pub(crate) fn buffer_warnings(&self) -> Vec<String> {
        // The kernel gives all of them the same.
        let first = self.of_kind(ListenKind::Quic).next();
        let socket = first.and_then(|it| it.sockets.first());
        socket.map(io::buffer_warnings).unwrap_or_default()
    }

    /// Takes the UDP sockets out, which must not be read before an earlier relay has stopped reading them.
    pub(crate) fn take_quic(&mut self) -> Vec<QuicDoor> {
        let quic = self
            .addresses
            .extract_if(.., |it| it.kind == ListenKind::Quic);
        let doors = quic.map(|it| QuicDoor {
            asked: it.asked,
            sockets: it.sockets.into_iter().map(UdpSocket::from).collect(),
        });
        doors.collect()
    }

    /// The shards' listening sockets.
    pub(crate) fn into_sockets(self) -> impl Iterator<Item = ShardSocket> {
        let shards = self.addresses.into_iter();
        let shards = shards.filter(|it| !matches!(it.kind, ListenKind::Admin | ListenKind::Quic));
        shards.flat_map(|it| {
            let sockets = it.sockets.len();
            let all = it.sockets.into_iter().enumerate();
            all.map(move |(place, socket)| ShardSocket {
                kind: it.kind,
                is_tls: it.is_tls,
                socket: socket.into(),
                place,
                sockets,
            })
        })
    }
}

/// Binds the first `count` sockets of an address.
fn bind_first(
    kind: ListenKind,
    asked: SocketAddr,
    count: usize,
    accepted: Accepted,
) -> std::io::Result<(SocketAddr, Vec<OwnedFd>)> {
    match kind {
        ListenKind::Quic => io::bind_packets(asked, count).map(|(at, all)| (at, fds(all))),
        _ => io::bind(asked, count, accepted).map(|(at, all)| (at, fds(all))),
    }
}

/// Binds `count` more sockets to an address that is bound already.
fn bind_more(
    kind: ListenKind,
    bound: SocketAddr,
    count: usize,
    accepted: Accepted,
) -> std::io::Result<Vec<OwnedFd>> {
    match kind {
        ListenKind::Quic => io::more_packets(bound, count).map(fds),
        _ => io::more(bound, count, accepted).map(fds),
    }
}

fn fds<T: Into<OwnedFd>>(sockets: Vec<T>) -> Vec<OwnedFd> {
    sockets.into_iter().map(Into::into).collect()
}

/// The UDP sockets of an address, in the order in which they were bound.
pub(crate) struct QuicDoor {
    /// Address in the configuration, whose port may be 0.
    pub(crate) asked: SocketAddr,
    pub(crate) sockets: Vec<UdpSocket>,
}

/// A listening socket for a shard.
pub(crate) struct ShardSocket {
    pub(crate) kind: ListenKind,
    /// Whether its connections begin with TLS.
    pub(crate) is_tls: bool,
    pub(crate) socket: TcpListener,
    /// Position among the sockets of its address.
    pub(crate) place: usize,
    /// Number of sockets of its address.
    pub(crate) sockets: usize,
}

const fn listen_error(kind: ListenKind, address: SocketAddr, source: std::io::Error) -> StartError {
    StartError::Listen {
        kind,
        address,
        source,
    }
}
