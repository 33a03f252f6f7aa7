//! A path of UDP datagrams between an agent and a relay: the agent's address can change on it, and it can die, or carry
//! handshakes alone.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Largest UDP datagram, in bytes.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Receive buffer of each socket, in bytes; the kernel may lower it.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// A forwarder of UDP datagrams, as a router with address translation is one. Dropping it ends the path.
#[derive(Debug)]
pub struct DatagramPath {
    address: SocketAddr,
    shared: Arc<Shared>,
    carrying: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    front: UdpSocket,
    relay: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Local address of the next ways.
    from: IpAddr,
    is_dead: bool,
    /// True if nothing from the relay gets through behind the handshake of a connection.
    is_cut: bool,
    /// Datagrams that have come from agents, also those that were lost.
    heard: usize,
    /// A way for each address of the agent.
    ways: HashMap<SocketAddr, Way>,
    made: usize,
}

/// The socket that the relay sees in place of an agent's.
#[derive(Debug)]
struct Way {
    socket: Arc<UdpSocket>,
    /// Carries what comes from the relay.
    back: JoinHandle<()>,
    /// True once the agent has ended its handshake.
    is_shaken: bool,
}

impl Drop for Way {
    fn drop(&mut self) {
        self.back.abort();
    }
}

impl DatagramPath {
    /// Starts a path to `relay`.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(relay: SocketAddr) -> io::Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), relay)
    }

    /// Starts a path to `relay` that begins at `address`.
    ///
    /// # Errors
    /// The address is taken.
    pub fn start_at(address: SocketAddr, relay: SocketAddr) -> io::Result<Self> {
        let front = socket(address)?;
        let address = front.local_addr()?;
        let shared = Arc::new(Shared {
            front,
            relay,
            state: Mutex::new(State {
                from: Ipv4Addr::LOCALHOST.into(),
                is_dead: false,
                is_cut: false,
                heard: 0,
                ways: HashMap::new(),
                made: 0,
            }),
        });
        let carrying = tokio::spawn(Arc::clone(&shared).carry());
        Ok(Self {
            address,
            shared,
            carrying,
        })
    }

    /// Address at which the path begins.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// URL that agents dial.
    #[must_use]
    pub fn url(&self) -> String {
        format!("quic://{}", self.address)
    }

    /// From now on the relay sees agents at new ports of `from`, and the old ones lead nowhere.
    pub fn moves_to(&self, from: IpAddr) {
        let mut state = self.shared.lock();
        state.from = from;
        state.ways.clear();
    }

    /// The path loses everything in both directions from now on, or carries it again.
    pub fn dies(&self, is_dead: bool) {
        self.shared.lock().is_dead = is_dead;
    }

    /// The path carries nothing from the relay behind the handshake of a connection from now on, or carries all again.
    pub fn carries_handshakes_alone(&self, is_cut: bool) {
        self.shared.lock().is_cut = is_cut;
    }

    /// Number of datagrams that have come from agents, also of those that were lost.
    #[must_use]
    pub fn datagrams(&self) -> usize {
        self.shared.lock().heard
    }

    /// Number of addresses at which the relay has seen agents.
    #[must_use]
    pub fn ways(&self) -> usize {
        self.shared.lock().made
    }
}

impl Drop for DatagramPath {
    fn drop(&mut self) {
        self.carrying.abort();
        self.shared.lock().ways.clear();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries what comes from agents.
    async fn carry(self: Arc<Self>) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        while let Ok((len, agent)) = self.front.recv_from(&mut buffer).await {
            // A path without a free port loses the datagram, as a router does.
            if let Some(way) = self.way(agent, is_short(&buffer[..len])) {
                let _ = way.send_to(&buffer[..len], self.relay).await;
            }
        }
    }

    /// Carries what comes from the relay to `agent`.
    async fn carry_back(self: Arc<Self>, socket: Arc<UdpSocket>, agent: SocketAddr) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let is_lost = from != self.relay || self.lock().loses(agent, &buffer[..len]);
            if !is_lost {
                let _ = self.front.send_to(&buffer[..len], agent).await;
            }
        }
    }

    /// The socket for a datagram of `agent`, which is behind its handshake if `is_shaken`; `None` if it is lost.
    fn way(self: &Arc<Self>, agent: SocketAddr, is_shaken: bool) -> Option<Arc<UdpSocket>> {
        let mut state = self.lock();
        state.heard += 1;
        if state.is_dead {
            return None;
        }
        if let Some(way) = state.ways.get_mut(&agent) {
            way.is_shaken |= is_shaken;
            return Some(Arc::clone(&way.socket));
        }
        let socket = Arc::new(socket((state.from, 0).into()).ok()?);
        let back = Arc::clone(self).carry_back(Arc::clone(&socket), agent);
        let way = Way {
            socket: Arc::clone(&socket),
            back: tokio::spawn(back),
            is_shaken,
        };
        state.ways.insert(agent, way);
        state.made += 1;
        Some(socket)
    }
}

impl State {
    /// True if a datagram from the relay to `agent` is lost.
    fn loses(&self, agent: SocketAddr, datagram: &[u8]) -> bool {
        let is_shaken = || self.ways.get(&agent).is_some_and(|way| way.is_shaken);
        self.is_dead || self.is_cut && (is_short(datagram) || is_shaken())
    }
}

/// True for a datagram behind the handshake: its first packet has a short header (RFC 9000, section 17.3).
fn is_short(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0x80 == 0)
}

/// A socket at `address`.
fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    // Only a wish: what a smaller buffer loses is sent again.
    let _ = SockRef::from(&socket).set_recv_buffer_size(BUFFER_BYTES);
    UdpSocket::from_std(socket)
}
