//! A path of UDP datagrams between an agent and a relay: the agent's address can change on it, and it can die.

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
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let front = socket(loopback)?;
        let address = front.local_addr()?;
        let shared = Arc::new(Shared {
            front,
            relay,
            state: Mutex::new(State {
                from: loopback,
                is_dead: false,
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
            if let Some(way) = self.way(agent) {
                let _ = way.send_to(&buffer[..len], self.relay).await;
            }
        }
    }

    /// Carries what comes from the relay to `agent`.
    async fn carry_back(self: Arc<Self>, socket: Arc<UdpSocket>, agent: SocketAddr) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let is_lost = from != self.relay || self.lock().is_dead;
            if !is_lost {
                let _ = self.front.send_to(&buffer[..len], agent).await;
            }
        }
    }

    /// The socket for what `agent` sends; `None` if it is lost.
    fn way(self: &Arc<Self>, agent: SocketAddr) -> Option<Arc<UdpSocket>> {
        let mut state = self.lock();
        if state.is_dead {
            return None;
        }
        if let Some(way) = state.ways.get(&agent) {
            return Some(Arc::clone(&way.socket));
        }
        let socket = Arc::new(socket(state.from).ok()?);
        let back = Arc::clone(self).carry_back(Arc::clone(&socket), agent);
        let way = Way {
            socket: Arc::clone(&socket),
            back: tokio::spawn(back),
        };
        state.ways.insert(agent, way);
        state.made += 1;
        Some(socket)
    }
}

/// A socket at a free port of `address`.
fn socket(address: IpAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind((address, 0))?;
    socket.set_nonblocking(true)?;
    // Only a wish: what a smaller buffer loses is sent again.
    let _ = SockRef::from(&socket).set_recv_buffer_size(BUFFER_BYTES);
    UdpSocket::from_std(socket)
}
