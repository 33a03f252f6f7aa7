//! The sockets that a relay listens on: bound first, all of them, and only then listening. Those that a
//! running relay passed on listen already, and are used where the configuration still names their
//! address.

use std::net::{SocketAddr, TcpListener};

use crate::config::Config;
use crate::error::{ListenKind, StartError};
use crate::io::{self, Accepted, Unfinished};
use crate::takeover::Door;

/// Every address, and the sockets of each.
#[derive(Default)]
pub(crate) struct Doors {
    addresses: Vec<Address>,
}

struct Address {
    kind: ListenKind,
    asked: SocketAddr,
    local: SocketAddr,
    /// In the order in which they are to listen.
    sockets: Vec<TcpListener>,
    /// How many of them an earlier relay passed on.
    inherited: usize,
}

impl Doors {
    /// Binds what the configuration names and `passed` does not have, so that each address has a socket
    /// for each shard. What `passed` has besides is closed.
    ///
    /// # Errors
    /// [`StartError::Listen`] names the address.
    pub(crate) fn bind(config: &Config, mut passed: Vec<Door>) -> Result<Self, StartError> {
        let mut doors = Self::default();
        passed.sort_by_key(|door| door.place);
        for kind in ListenKind::ALL {
            for asked in config.listen(kind) {
                // A port of the kernel's choice may be named by its number now.
                let is_its = |door: &mut Door| {
                    let is_at = || door.socket.local_addr().is_ok_and(|it| it == *asked);
                    door.kind == kind && (door.asked == *asked || is_at())
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
                    unfinished: unfinished(kind),
                    notsent_bytes: config.notsent_bytes(),
                };
                let bound = match sockets.first() {
                    Some(first) => first.local_addr().and_then(|local| {
                        let missing = wanted.saturating_sub(inherited);
                        Ok((local, io::more(local, missing, accepted)?))
                    }),
                    None => io::bind(*asked, wanted, accepted),
                };
                let (local, more) = bound.map_err(|source| listen_error(kind, *asked, source))?;
                sockets.extend(more);
                doors.addresses.push(Address {
                    kind,
                    asked: *asked,
                    local,
                    sockets,
                    inherited,
                });
            }
        }
        Ok(doors)
    }

    /// Where the relay listens for that.
    pub(crate) fn addresses(&self, kind: ListenKind) -> Vec<SocketAddr> {
        self.of_kind(kind).map(|it| it.local).collect()
    }

    /// Has those listen that do not yet.
    ///
    /// # Errors
    /// Another process listens there.
    pub(crate) fn listen(&self) -> Result<(), StartError> {
        for it in &self.addresses {
            for socket in &it.sockets[it.inherited..] {
                io::listen(socket).map_err(|source| listen_error(it.kind, it.asked, source))?;
            }
        }
        Ok(())
    }

    /// The same sockets once more, to be passed on.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub(crate) fn copies(&self) -> std::io::Result<Vec<Door>> {
        let mut copies = Vec::new();
        for it in &self.addresses {
            for (place, socket) in it.sockets.iter().enumerate() {
                copies.push(Door {
                    kind: it.kind,
                    asked: it.asked,
                    place,
                    socket: socket.try_clone()?,
                });
            }
        }
        Ok(copies)
    }

    /// The admin sockets once more, with their addresses; they do not block.
    ///
    /// # Errors
    /// The kernel refuses.
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

    /// The shards' sockets: for what, the socket, its place, and how many there are of its address.
    pub(crate) fn into_sockets(
        self,
    ) -> impl Iterator<Item = (ListenKind, TcpListener, usize, usize)> {
        let shards = self.addresses.into_iter();
        let shards = shards.filter(|it| it.kind != ListenKind::Admin);
        shards.flat_map(|it| {
            let count = it.sockets.len();
            let sockets = it.sockets.into_iter().enumerate();
            sockets.map(move |(place, socket)| (it.kind, socket, place, count))
        })
    }
}

/// What an agent's connection carries says itself where it ends, and an operator's answer has a length.
const fn unfinished(kind: ListenKind) -> Unfinished {
    match kind {
        ListenKind::Agent | ListenKind::Admin => Unfinished::Ends,
        ListenKind::Tcp | ListenKind::Http => Unfinished::Resets,
    }
}

const fn listen_error(kind: ListenKind, address: SocketAddr, source: std::io::Error) -> StartError {
    StartError::Listen {
        kind,
        address,
        source,
    }
}
