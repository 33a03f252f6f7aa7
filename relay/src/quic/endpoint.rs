//! The QUIC endpoint of one address on one shard: takes packets to their connections, and begins new ones.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn_proto::{
    ConnectionError, DatagramEvent, EcnCodepoint, Event, Incoming, Transmit, VarInt,
};
use tracing::{debug, warn};

use super::config::{self, UNPROVED_FAILED, UNPROVED_MAX, WAITING_MAX};
use super::connection::Connection;
use super::driver::Driver;
use super::failure::failure;
use super::ids::Here;
use super::keys::QuicKeys;
use super::packet::{self, Kind};
use super::sender::Sender;
use super::strays::{Stray, StrayTray, Strays};
use super::table::Table;
use crate::io::{PacketSocket, PacketSteering, ReceiveBuffers, sleep, timeout};
use crate::limits::Handshake;
use crate::metrics::{QuicDrop, ShardMetrics, TlsFailure};

/// Pause after an error of the socket.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// Code with which the relay closes a connection before its handshake is over; the client sees `APPLICATION_ERROR`
/// instead (RFC 9000, section 10.2.3).
const CODE_IN_HANDSHAKE: u32 = 0;

/// A task of a shard.
pub(crate) type LocalTask = Pin<Box<dyn Future<Output = ()>>>;

/// What an endpoint asks of its shard.
pub(crate) trait Host {
    /// Runs a task until it ends, or the shard does.
    fn spawn(&self, task: LocalTask);

    /// A place for the handshake of a client; `None` if there is none. The limit of an address holds for clients that have
    /// proved theirs: an invented address must not use up the handshakes of its owner.
    fn handshake_place(&self, client: SocketAddr, has_proof: bool) -> Option<Handshake>;

    /// Sends packets to the endpoint of the same address on shard `to`; false if its mailbox is full.
    fn pass_on(&self, to: usize, strays: Strays) -> bool;

    /// Takes a connection whose handshake is over, and decides what it becomes by [`Connection::protocol`] and
    /// [`Connection::has_peer_certificate`]. The host's task must read its events.
    fn connected(&self, connection: Rc<Connection>);
}

/// Where an endpoint stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Number of the address, in the order of the settings.
    pub(crate) address: usize,
    /// Number of the shard, and of all shards.
    pub(crate) shard: usize,
    pub(crate) shards: usize,
    pub(crate) steering: PacketSteering,
}

/// What an endpoint is made with.
pub(crate) struct Setup {
    pub(crate) host: Rc<dyn Host>,
    pub(crate) place: Place,
    pub(crate) keys: QuicKeys,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    /// Time for a handshake.
    pub(crate) handshake_timeout: Duration,
    /// Silence after which a connection ends.
    pub(crate) idle_timeout: Duration,
    /// Most connections at a time; further ones are not answered.
    pub(crate) connections_max: usize,
    pub(crate) metrics: Arc<ShardMetrics>,
}

/// Where a datagram came from.
#[derive(Clone, Copy, Debug)]
struct Origin {
    source: SocketAddr,
    local_ip: Option<IpAddr>,
    ecn: Option<u8>,
}

/// The endpoint of one address on one shard.
pub(crate) struct Endpoint {
    setup: Setup,
    here: Here,
    table: Rc<Table>,
    sender: Rc<Sender>,
    /// First packets that wait for their handshake, at most [`WAITING_MAX`].
    waiting: Cell<usize>,
    /// Each handshake of a client that has not proved its address holds a reference; one is the endpoint's own.
    unproved: Rc<()>,
    strays: RefCell<StrayTray>,
    /// Whether new connections are refused.
    is_closing: Cell<bool>,
}

impl Endpoint {
    /// Makes an endpoint that sends through `socket`, and the task that reads the socket.
    ///
    /// # Errors
    /// The kernel refuses an option of the socket.
    pub(crate) fn open(setup: Setup, socket: UdpSocket) -> io::Result<(Rc<Self>, LocalTask)> {
        let bound = socket.local_addr()?;
        let socket = Rc::new(PacketSocket::new(socket)?);
        let Place {
            address,
            shard,
            shards,
            steering,
        } = setup.place;
        let here = Here {
            steering,
            shard,
            shards,
        };
        let config = Arc::new(config::endpoint(&setup.keys, bound, here));
        let server = config::server(&setup.keys, &setup.tls, setup.idle_timeout);
        let searches_mtu = !socket.may_fragment();
        let proto = quinn_proto::Endpoint::new(config, Some(Arc::new(server)), searches_mtu, None);
        let endpoint = Rc::new(Self {
            here,
            table: Rc::new(Table::new(proto, Arc::clone(&setup.metrics))),
            sender: Rc::new(Sender::new(Rc::clone(&socket))),
            waiting: Cell::new(0),
            unproved: Rc::default(),
            strays: RefCell::new(StrayTray::new(address, shards)),
            is_closing: Cell::new(false),
            setup,
        });
        let reads: LocalTask = Box::pin(Rc::clone(&endpoint).read(socket));
        Ok((endpoint, reads))
    }

    /// The task that reads a further socket of the address, which a relay with more shards has passed on.
    ///
    /// # Errors
    /// As [`Endpoint::open`].
    pub(crate) fn also_read(self: &Rc<Self>, socket: UdpSocket) -> io::Result<LocalTask> {
        let socket = Rc::new(PacketSocket::new(socket)?);
        Ok(Box::pin(Rc::clone(self).read(socket)))
    }

    /// Uses another configuration of TLS for new connections.
    pub(crate) fn renew(&self, tls: &rustls::ServerConfig) {
        let server = config::server(&self.setup.keys, tls, self.setup.idle_timeout);
        let mut proto = self.table.proto.borrow_mut();
        proto.set_server_config(Some(Arc::new(server)));
    }

    /// Number of the address, in the order of the settings.
    pub(crate) const fn address(&self) -> usize {
        self.setup.place.address
    }

    /// Refuses new connections from now on.
    pub(crate) fn turn_away(&self) {
        self.is_closing.set(true);
    }

    /// Refuses new connections, and closes all; their peers are told `code` and `reason` once the drivers run.
    pub(crate) fn close(&self, code: VarInt, reason: &[u8]) {
        self.turn_away();
        for connection in self.table.all() {
            connection.close(code, reason);
        }
    }

    /// Whether a peer is still to be told that its connection is closed.
    pub(crate) fn has_close_due(&self) -> bool {
        self.table.has_close_due()
    }

    /// Counts as a handshake of a client that has not proved its address, as long as it is kept.
    #[cfg(test)]
    pub(super) fn unproved(&self) -> Rc<()> {
        Rc::clone(&self.unproved)
    }

    async fn read(self: Rc<Self>, socket: Rc<PacketSocket>) {
        let mut buffers = ReceiveBuffers::new();
        let sends = Rc::ptr_eq(&socket, &self.sender.socket);
        let mut is_told = false;
        loop {
            // In one turn the socket is ready four times at most, so other tasks get theirs.
            poll_fn(|cx| {
                if sends {
                    self.sender.poll_room(cx);
                }
                socket.poll_readable(cx)
            })
            .await;
            match socket.receive(&mut buffers) {
                Ok(true) => self.take_batch(&buffers),
                Ok(false) => {}
                Err(error) => {
                    self.drop_packets(QuicDrop::SocketFailed, 1);
                    if !std::mem::replace(&mut is_told, true) {
                        warn!(%error, "a QUIC socket reports an error; later ones are only counted");
                    }
                    sleep(ERROR_PAUSE).await;
                }
            }
        }
    }

    fn take_batch(self: &Rc<Self>, buffers: &ReceiveBuffers) {
        let now = Instant::now();
        let mut count = 0;
        for it in buffers.arrived() {
            let origin = Origin {
                source: it.source,
                local_ip: it.local_ip,
                ecn: it.ecn,
            };
            for datagram in it.bytes.chunks(it.stride) {
                count += 1;
                match self.here.elsewhere(datagram) {
                    None => self.take(now, origin, datagram),
                    Some(shard) => self.pass_on(shard, origin, datagram),
                }
            }
        }
        self.setup.metrics.quic_packets.add(count);
        self.send_strays();
    }

    /// Puts a packet of another shard aside.
    fn pass_on(&self, shard: usize, origin: Origin, datagram: &[u8]) {
        let Origin {
            source,
            local_ip,
            ecn,
        } = origin;
        let stray = Stray {
            source,
            local_ip,
            ecn,
            bytes: datagram.to_vec(),
        };
        if !self.strays.borrow_mut().add(shard, stray) {
            self.drop_packets(QuicDrop::StrayLost, 1);
        }
    }

    fn send_strays(&self) {
        let messages = self.strays.borrow_mut().take();
        for (shard, strays) in messages {
            let count = strays.len() as u64;
            match self.setup.host.pass_on(shard, strays) {
                true => self.setup.metrics.quic_strays.add(count),
                false => self.drop_packets(QuicDrop::StrayLost, count),
            }
        }
    }

    /// Takes packets that came to another shard.
    pub(crate) fn take_strays(self: &Rc<Self>, strays: Strays) {
        let now = Instant::now();
        for stray in strays.packets {
            let origin = Origin {
                source: stray.source,
                local_ip: stray.local_ip,
                ecn: stray.ecn,
            };
            self.take(now, origin, &stray.bytes);
        }
    }

    fn drop_packets(&self, reason: QuicDrop, count: u64) {
        self.setup.metrics.quic_dropped(reason, count);
    }

    /// Takes a datagram to its connection, or begins one.
    fn take(self: &Rc<Self>, now: Instant, origin: Origin, datagram: &[u8]) {
        let kind = match packet::kind(datagram) {
            Ok(kind) => kind,
            Err(reason) => return self.drop_packets(reason, 1),
        };
        // In memory of its own: a connection that keeps a part of a batch would keep all of its 64 KiB, which no limit
        // counts.
        let bytes = BytesMut::from(datagram);
        let mut answer = Vec::new();
        let ecn = origin.ecn.and_then(EcnCodepoint::from_bits);
        let event = self.table.proto.borrow_mut().handle(
            now,
            origin.source,
            origin.local_ip,
            ecn,
            bytes,
            &mut answer,
        );
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(connection) = self.table.find(handle) {
                    connection.receive(now, event, origin.source, datagram.len());
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.begin(incoming, datagram.len()),
            Some(DatagramEvent::Response(transmit)) => {
                self.drop_packets(without_connection(kind), 1);
                self.answer(&transmit, &answer);
            }
            // A further first packet of a connection that waits is kept, unless too many wait.
            None if kind == Kind::Initial && self.waiting.get() < WAITING_MAX => {}
            None if kind == Kind::Initial => self.drop_packets(QuicDrop::Overload, 1),
            None => self.drop_packets(without_connection(kind), 1),
        }
    }

    /// Sends an answer that belongs to no connection, if the socket has room: its receiver asks again.
    fn answer(&self, transmit: &Transmit, bytes: &[u8]) {
        let _ = self.sender.send(transmit, bytes);
    }

    /// Begins a connection with a datagram of `len` bytes: refuses it, asks for a proof of the client's address, or queues
    /// its handshake.
    fn begin(self: &Rc<Self>, incoming: Incoming, len: usize) {
        let client = incoming.remote_address();
        let has_proof = incoming.remote_address_validated();
        let mut answer = Vec::new();
        if self.is_closing.get() {
            let transmit = self.table.proto.borrow_mut().refuse(incoming, &mut answer);
            self.drop_packets(QuicDrop::Closing, 1);
            return self.answer(&transmit, &answer);
        }
        if self.table.len() >= self.setup.connections_max {
            self.table.proto.borrow_mut().ignore(incoming);
            return self.drop_packets(QuicDrop::Overload, 1);
        }
        // One reference is the endpoint's own.
        if !has_proof && Rc::strong_count(&self.unproved) > UNPROVED_MAX {
            return self.ask_for_proof(incoming);
        }
        let unproved = (!has_proof).then(|| Rc::clone(&self.unproved));
        let Some(place) = self.setup.host.handshake_place(client, has_proof) else {
            self.setup.metrics.tls_failed(TlsFailure::Overload);
            // Nothing is sent to an address that may be invented.
            match has_proof {
                true => {
                    let transmit = self.table.proto.borrow_mut().refuse(incoming, &mut answer);
                    self.answer(&transmit, &answer);
                }
                false => self.table.proto.borrow_mut().ignore(incoming),
            }
            return;
        };
        let waiting = Waiting::new(Rc::clone(self), incoming, len);
        let endpoint = Rc::clone(self);
        let shakes = endpoint.shake(waiting, client, place, unproved);
        self.setup.host.spawn(Box::pin(shakes));
    }

    /// Tells the client to come back with a proof of its address (RFC 9000, section 8.1.2).
    fn ask_for_proof(&self, incoming: Incoming) {
        let mut answer = Vec::new();
        let asked = self.table.proto.borrow_mut().retry(incoming, &mut answer);
        match asked {
            Ok(transmit) => {
                self.setup.metrics.quic_retries.inc();
                self.answer(&transmit, &answer);
            }
            // A client that was asked has a proof, so this does not happen.
            Err(refused) => {
                let incoming = refused.into_incoming();
                self.table.proto.borrow_mut().ignore(incoming);
            }
        }
    }

    /// Completes a handshake, as long as it has its place, and gives the connection to the host.
    async fn shake(
        self: Rc<Self>,
        waiting: Waiting,
        client: SocketAddr,
        place: Handshake,
        unproved: Option<Rc<()>>,
    ) {
        let Some(permit) = place.run(place.may_answer()).await else {
            return self.failed(client, TlsFailure::Overload);
        };
        let accepted = waiting.accept();
        drop(permit);
        let Some(connection) = accepted else {
            drop(place);
            if let Some(unproved) = unproved {
                sleep(UNPROVED_FAILED).await;
                drop(unproved);
            }
            return;
        };
        connection.is_unproved(unproved);
        let shaking = timeout(self.setup.handshake_timeout, shaken(&connection));
        let failed = match place.run(shaking).await {
            Some(Ok(Ok(()))) => None,
            Some(Ok(Err(error))) => Some(failure(&error)),
            Some(Err(_)) => Some(TlsFailure::Timeout),
            None => Some(TlsFailure::Overload),
        };
        drop(place);
        match failed {
            None => {
                connection.is_unproved(None);
                self.setup.metrics.quic_handshakes.inc();
                self.setup.host.connected(connection);
            }
            Some(reason) => {
                self.failed(client, reason);
                connection.close(VarInt::from_u32(CODE_IN_HANDSHAKE), b"");
            }
        }
    }

    /// Answers a client's hello, which began with a datagram of `len` bytes; `None` if that fails, which is counted.
    fn accept(&self, incoming: Incoming, len: usize) -> Option<Rc<Connection>> {
        let client = incoming.remote_address();
        let has_proof = incoming.remote_address_validated();
        let (now, mut answer) = (Instant::now(), Vec::new());
        let accepted = {
            let mut proto = self.table.proto.borrow_mut();
            proto.accept(incoming, now, &mut answer, None)
        };
        match accepted {
            Ok((handle, proto)) => {
                let metrics = Arc::clone(&self.setup.metrics);
                let connection = Connection::new(proto, len, has_proof, now, metrics);
                let connection = Rc::new(connection);
                self.table.insert(handle, Rc::clone(&connection));
                let (table, sender) = (Rc::clone(&self.table), Rc::clone(&self.sender));
                let driver = Driver::new(table, sender, Rc::clone(&connection), handle, now);
                self.setup.host.spawn(Box::pin(driver));
                Some(connection)
            }
            Err(error) => {
                if let Some(transmit) = &error.response {
                    self.answer(transmit, &answer);
                }
                self.failed(client, failure(&error.cause));
                None
            }
        }
    }

    fn failed(&self, client: SocketAddr, reason: TlsFailure) {
        debug!(peer = %client, reason = reason.word(), "QUIC handshake failed");
        self.setup.metrics.tls_failed(reason);
    }
}

/// Why a packet of this kind was not for a connection.
const fn without_connection(kind: Kind) -> QuicDrop {
    match kind {
        Kind::Initial => QuicDrop::BadInitial,
        Kind::Later => QuicDrop::UnknownConnection,
        Kind::OtherVersion => QuicDrop::Version,
    }
}

/// A client's first packet that waits for its handshake; forgotten if it is dropped before.
struct Waiting {
    endpoint: Rc<Endpoint>,
    incoming: Option<Incoming>,
    /// Bytes of the datagram.
    len: usize,
}

impl Waiting {
    fn new(endpoint: Rc<Endpoint>, incoming: Incoming, len: usize) -> Self {
        endpoint.waiting.set(endpoint.waiting.get() + 1);
        Self {
            endpoint,
            incoming: Some(incoming),
            len,
        }
    }

    /// Answers the client's hello; `None` if that fails, which is counted.
    fn accept(mut self) -> Option<Rc<Connection>> {
        let incoming = self.incoming.take()?;
        self.endpoint.accept(incoming, self.len)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.endpoint.waiting.set(self.endpoint.waiting.get() - 1);
        if let Some(incoming) = self.incoming.take() {
            // quinn-proto keeps what it has of the client until it is told.
            self.endpoint.table.proto.borrow_mut().ignore(incoming);
        }
    }
}

/// Waits for the end of a connection's handshake.
async fn shaken(connection: &Connection) -> Result<(), ConnectionError> {
    loop {
        match connection.event().await {
            Event::Connected => return Ok(()),
            Event::ConnectionLost { reason } => return Err(reason),
            _ => {}
        }
    }
}
