//! The relay's listening sockets: all are bound first, and listen only after that. Sockets that a running relay
//! passed on listen already; they are used if the configuration still names their
//! address.

use std::net::{SocketAddr, TcpListener};

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
    /// In the order in which they must start to listen.
    sockets: Vec<TcpListener>,
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
                    let is_at = || door.socket.local_addr().is_ok_and(|it| it == asked);
                    door.kind == kind && (door.asked == asked || is_at())
                };
                let mut sockets: Vec<TcpListener> = passed
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
                    Some(first) => first.local_addr().and_then(|local| {
                        let missing = wanted.saturating_sub(inherited);
                        Ok((local, io::more(local, missing, accepted)?))
                    }),
                    None => io::bind(asked, wanted, accepted),
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
        for it in &self.addresses {
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
                let copy = socket
                    .set_nonblocking(true)
                    .and_then(|()| socket.try_clone());
                let copy = copy.map_err(|source| listen_error(it.kind, it.asked, source))?;
                admin.push((it.local, copy));
            }
        }
        Ok(admin)
    }

    fn of_kind(&self, kind: ListenKind) -> impl Iterator<Item = &Address> {
        self.addresses.iter().filter(move |it| it.kind == kind)
    }

    /// The shards' sockets.
    pub(crate) fn into_sockets(self) -> impl Iterator<Item = ShardSocket> {
        let shards = self.addresses.into_iter();
        let shards = shards.filter(|it| it.kind != ListenKind::Admin);
        shards.flat_map(|it| {
            let sockets = it.sockets.len();
            let all = it.sockets.into_iter().enumerate();
            all.map(move |(place, socket)| ShardSocket {
                kind: it.kind,
                is_tls: it.is_tls,
                socket,
                place,
                sockets,
            })
        })
    }
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
