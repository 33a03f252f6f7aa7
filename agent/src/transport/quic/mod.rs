//! A QUIC connection to the relay, and the streams of its link, driven by one task.
//!
//! `quinn_proto` is the connection's state, without socket and clock; [`LinkStreams`] moves bytes between its streams
//! and the link's mux. In each turn the owner of a [`Quic`] calls [`take_in`](Quic::take_in),
//! [`poll_event`](Quic::poll_event) until there is none, [`transmit`](Quic::transmit) and
//! [`send_out`](Quic::send_out), and then waits for [`ready`](Quic::ready). `socket` is the UDP socket, `dial` makes the
//! connection, and `failure` says why there is none.

mod dial;
mod failure;
mod socket;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use bytes::{Bytes, BytesMut};
use quinn_proto::{
    ClientConfig, ConnectionError, ConnectionHandle, DatagramEvent, Endpoint, Event, Transmit,
};
use rustls::pki_types::CertificateDer;
use tieline_transport::quic::{self, LinkStreams};
use tieline_wire::{LinkEnd, Moment, Mux};
use tokio::time::{Instant, Sleep, sleep_until};

pub(super) use self::dial::connect;
pub use self::failure::QuicError;
pub(super) use self::failure::with_hint;
pub(crate) use self::failure::{alert_of, certificate_required};
use self::socket::{Arrivals, PacketSocket};
pub(super) use self::socket::{RECEIVE_BUFFER_BYTES, receive_room};
use super::gauge::Gauge;
use super::stream::TlsDetails;

/// Calls that receive in one turn, before anything is sent: up to 1 MiB.
const RECEIVES_A_TURN: usize = 4;

/// Sends in one turn, before anything is received again.
const SENDS_A_TURN: usize = 16;

/// Errors of the socket in a row after which it is replaced.
const ERRORS_MAX: usize = 64;

/// Largest datagram that a connection looks for: an Ethernet frame of 1500 bytes without the headers of IPv6 and UDP
/// (the default of `quinn_proto`'s `MtuDiscoveryConfig`).
const MTU_MAX: u16 = 1452;

/// A QUIC connection to the relay, and the streams of its link.
pub struct Quic {
    state: State,
    streams: LinkStreams,
    socket: PacketSocket,
    /// The socket before the last change of the local address: packets to it are still on their way until the relay has
    /// answered to the new one.
    previous: Option<PacketSocket>,
    arrivals: Arrivals,
    /// Memory in which datagrams are written.
    out: Vec<u8>,
    /// What `out` holds that the socket had no room for.
    unsent: Option<Transmit>,
    /// There may be more to receive or to send at once.
    has_more: bool,
    timer: Pin<Box<Sleep>>,
    /// When the timer fires; it may be earlier than needed.
    timer_at: Option<Instant>,
    is_connected: bool,
    /// Why the connection was lost.
    lost: Option<ConnectionError>,
    /// The relay has sent something.
    has_heard: bool,
    /// Something on the way says that nothing listens at the relay's port.
    is_refused: bool,
    /// Errors of the socket in a row.
    errors: usize,
}

/// The state of the connection, and of the endpoint that it is the only one of.
struct State {
    endpoint: Endpoint,
    handle: ConnectionHandle,
    connection: quinn_proto::Connection,
}

/// What a connection has measured on its path to the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuicPath {
    /// Round trip, smoothed.
    pub rtt: Duration,
    /// Bytes of the largest datagram that gets through, as far as it is known.
    pub mtu: u16,
    /// Packets sent.
    pub sent: u64,
    /// Packets of those that were lost.
    pub lost: u64,
}

impl QuicPath {
    /// Share of the packets that were lost.
    #[must_use]
    pub fn loss_percent(&self) -> f64 {
        self.lost as f64 / self.sent.max(1) as f64 * 100.0
    }
}

/// The time of the runtime's clock, which tests may stop.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

impl Quic {
    /// Begins a connection to the server `name` at `remote`.
    fn begin(remote: SocketAddr, config: ClientConfig, name: &str) -> io::Result<Self> {
        let socket = PacketSocket::bind(remote)?;
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let key = key.map_err(|_| io::Error::other("the system has no random numbers"))?;
        let settings = Arc::new(quic::endpoint(Arc::new(key)));
        let mut endpoint = Endpoint::new(settings, None, !socket.may_fragment(), None);
        let connected = endpoint.connect(now(), config, remote, name);
        let (handle, connection) = connected.map_err(io::Error::other)?;
        Ok(Self {
            state: State {
                endpoint,
                handle,
                connection,
            },
            streams: LinkStreams::agent(),
            socket,
            previous: None,
            arrivals: Arrivals::new(),
            out: Vec::new(),
            unsent: None,
            has_more: false,
            timer: Box::pin(sleep_until(Instant::now())),
            timer_at: None,
            is_connected: false,
            lost: None,
            has_heard: false,
            is_refused: false,
            errors: 0,
        })
    }

    /// Takes in the packets that have arrived and the timers that are due; returns the number of bytes.
    ///
    /// # Errors
    /// The connection is lost; what has arrived before may still be read.
    pub(crate) fn take_in(&mut self) -> Result<usize, ConnectionError> {
        let now = now();
        self.has_more = false;
        let timer = self.state.connection.poll_timeout();
        if timer.is_some_and(|at| at <= now) {
            self.state.connection.handle_timeout(now);
        }
        let acks = self.previous.is_some().then(|| self.acks());
        let mut bytes = self.receive(now);
        // Bytes alone prove nothing: a socket that is not connected takes those of any host.
        let has_answer = acks.is_some_and(|before| self.acks() > before);
        if let Some(previous) = &self.previous {
            // Errors are about the old address, which no longer matters.
            let read = self.state.read(previous, &mut self.arrivals, now);
            bytes += read.unwrap_or_default();
        }
        if has_answer {
            self.previous = None;
        }
        self.has_heard |= bytes > 0;
        self.state.exchange();
        while let Some(event) = self.state.connection.poll() {
            match event {
                Event::Stream(event) => self.streams.handle_event(event),
                Event::Connected => self.is_connected = true,
                Event::ConnectionLost { reason } => self.lost = Some(reason),
                Event::HandshakeDataReady | Event::DatagramReceived | Event::DatagramsUnblocked => {
                }
            }
        }
        match &self.lost {
            Some(reason) => Err(reason.clone()),
            None => Ok(bytes),
        }
    }

    /// Receives from the present socket, and notes its errors.
    fn receive(&mut self, now: std::time::Instant) -> usize {
        let mut bytes = 0;
        for _ in 0..RECEIVES_A_TURN {
            match self.state.read(&self.socket, &mut self.arrivals, now) {
                Ok(0) => return bytes,
                Ok(count) => {
                    self.errors = 0;
                    bytes += count;
                }
                Err(error) => {
                    self.failed(&error);
                    return bytes;
                }
            }
        }
        self.has_more = true;
        bytes
    }

    /// Notes an error of the socket. Most are about earlier packets, and need nothing but the repetition that QUIC makes
    /// anyway; a socket with nothing but errors is of no use.
    fn failed(&mut self, error: &io::Error) {
        tracing::trace!(%error, "the UDP socket reports an error");
        // Windows reports a reset for a UDP port that nothing listens at.
        self.is_refused |= matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
        );
        self.errors += 1;
        // Without its address the socket is of no use at once; the watch of the network may notice the change later.
        let is_useless = self.errors >= ERRORS_MAX || self.socket.has_lost_its_address();
        if is_useless && self.is_connected {
            self.rebind();
        }
    }

    /// Takes the next event of the link; `None` when nothing more has arrived.
    ///
    /// # Errors
    /// The relay broke a rule, or ended the control stream.
    pub(crate) fn poll_event(
        &mut self,
        now: Moment,
        mux: &mut Mux,
    ) -> Result<Option<tieline_wire::Event>, tieline_wire::Error> {
        self.streams
            .poll_event(now, &mut self.state.connection, mux)
    }

    /// Puts what the mux has to send on the connection's streams.
    pub(crate) fn transmit(&mut self, now: Moment, mux: &mut Mux) {
        self.streams.transmit(now, &mut self.state.connection, mux);
    }

    /// Tells how far the bytes of the streams have come.
    pub(crate) fn gauge(&self) -> Gauge {
        Gauge::Quic(self.streams.progress())
    }

    /// When the streams need [`Quic::transmit`] next, if nothing else happens before.
    pub(crate) fn streams_timeout(&self) -> Option<Moment> {
        self.streams.poll_timeout()
    }

    /// True once the relay has acknowledged all that it was told.
    pub(crate) fn has_arrived(&mut self) -> bool {
        self.streams.has_arrived(&mut self.state.connection)
    }

    /// Number of acknowledgements that have come from the relay. Only packets that it has encrypted count.
    pub(crate) fn acks(&self) -> u64 {
        self.state.connection.stats().frame_rx.acks
    }

    /// True once the connection is over.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.connection.is_closed()
    }

    /// Sends the packets that are due, as many as the socket has room for; returns the number of bytes.
    pub(crate) fn send_out(&mut self) -> usize {
        let bytes = self.send_packets();
        self.state.exchange();
        bytes
    }

    fn send_packets(&mut self) -> usize {
        let (now, mut bytes) = (now(), 0);
        for _ in 0..SENDS_A_TURN {
            let transmit = match self.unsent.take() {
                Some(transmit) => transmit,
                None => {
                    self.out.clear();
                    let most = self.socket.datagrams_max();
                    let connection = &mut self.state.connection;
                    match connection.poll_transmit(now, most, &mut self.out) {
                        Some(transmit) => transmit,
                        None => return bytes,
                    }
                }
            };
            match self.socket.send(&transmit, &self.out) {
                Ok(true) => {
                    self.errors = 0;
                    bytes += transmit.size;
                }
                Ok(false) => {
                    self.unsent = Some(transmit);
                    return bytes;
                }
                Err(error) => self.failed(&error),
            }
        }
        self.has_more = true;
        bytes
    }

    /// Waits until a turn is due: packets have arrived, a timer has fired, there is room for what was not sent, or it is
    /// `wakes_at`.
    pub(crate) async fn ready(&mut self, wakes_at: Option<Instant>) {
        poll_fn(|cx| self.poll_ready(wakes_at, cx)).await;
    }

    fn poll_ready(&mut self, wakes_at: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let has_room = self.unsent.is_some() && self.socket.poll_writable(cx).is_ready();
        let previous = self.previous.as_ref();
        let has_rest = previous.is_some_and(|socket| socket.poll_readable(cx).is_ready());
        let has_packets = self.socket.poll_readable(cx).is_ready();
        let own = self.state.connection.poll_timeout();
        let next = own.map(Instant::from_std).into_iter().chain(wakes_at).min();
        let is_due = next.is_some_and(|at| self.poll_timer(at, cx).is_ready());
        match self.has_more || has_room || has_rest || has_packets || is_due {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Ready at `at`, or before: a timer that fires too early costs less than one that is set anew in each turn.
    fn poll_timer(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer_at.is_none_or(|set| set > at) {
            self.timer.as_mut().reset(at);
            self.timer_at = Some(at);
        }
        ready!(self.timer.as_mut().poll(cx));
        self.timer_at = None;
        Poll::Ready(())
    }

    /// Goes on from another local address if this machine no longer has the present one. The socket itself reports that only
    /// for the next packet that it sends.
    pub(crate) fn leave_lost_address(&mut self) {
        if self.is_connected && self.socket.has_lost_its_address() {
            self.rebind();
        }
    }

    /// Goes on from a new local port, and from the local address that the system chooses now. Packets to the old one are
    /// still read until the relay has answered to the new one.
    pub(crate) fn rebind(&mut self) {
        self.errors = 0;
        match PacketSocket::bind(self.state.connection.remote_address()) {
            Ok(socket) => {
                self.previous = Some(std::mem::replace(&mut self.socket, socket));
                self.state.connection.local_address_changed();
                tracing::debug!("the QUIC connection goes on from another address");
            }
            // Without a network there is no address; the next change of the network brings one.
            Err(error) => tracing::debug!(%error, "the QUIC connection stays at its address"),
        }
    }

    /// Closes the connection, and tells the relay the reason. What was not acknowledged is lost.
    pub(crate) fn close(&mut self, reason: LinkEnd) {
        let code = quic::close_code(reason);
        self.state.connection.close(now(), code, Bytes::new());
        self.send_out();
    }

    /// The connection's exporter, for channel binding.
    #[must_use]
    pub fn exporter(&self) -> Option<[u8; 32]> {
        quic::exporter(&self.state.connection)
    }

    /// What the connection has measured on its path.
    #[must_use]
    pub fn path(&self) -> QuicPath {
        let path = self.state.connection.stats().path;
        QuicPath {
            rtt: path.rtt,
            mtu: path.current_mtu,
            sent: path.sent_packets,
            lost: path.lost_packets,
        }
    }

    /// The relay's address.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.state.connection.remote_address()
    }

    /// What the handshake has agreed on. `quinn_proto` does not tell the group of the key exchange.
    #[must_use]
    pub fn tls_details(&self) -> Option<TlsDetails> {
        let identity = self.state.connection.crypto_session().peer_identity()?;
        let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        Some(TlsDetails {
            // QUIC has no other (RFC 9001, section 4.2).
            version: "TLS 1.3".to_owned(),
            group: None,
            certificate: chain.first()?.to_vec(),
        })
    }

    /// Waits until packets behind the handshake have come through in both directions, for `limit` at most: the relay
    /// confirms the handshake in such a packet once it has this side's last part (RFC 9001, section 4.1.2).
    ///
    /// # Errors
    /// `TimedOut` after the limit; else why the connection was lost.
    pub(crate) async fn confirm(&mut self, limit: Duration) -> io::Result<()> {
        let until = Instant::now() + limit;
        loop {
            self.take_in().map_err(io::Error::other)?;
            self.send_out();
            if self.state.connection.stats().frame_rx.handshake_done > 0 {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.ready(Some(until)).await;
        }
    }

    /// Waits until the connection has found the largest datagram that its path takes, for `limit` at most.
    pub async fn find_mtu(&mut self, limit: Duration) {
        let until = Instant::now() + limit;
        while self.path().mtu < MTU_MAX && Instant::now() < until && self.take_in().is_ok() {
            self.send_out();
            self.ready(Some(until)).await;
        }
    }
}

impl Drop for Quic {
    fn drop(&mut self) {
        // The relay would otherwise learn only after its idle timeout that the connection is over. Code 0: for no reason
        // of a link.
        if !self.is_closed() {
            let code = quinn_proto::VarInt::from_u32(0);
            self.state.connection.close(now(), code, Bytes::new());
        }
        // A runtime that ends takes no new socket.
        self.is_connected = false;
        // Also the alert of a handshake that this side has refused.
        self.send_out();
    }
}

impl State {
    /// Receives once from `socket`; returns the number of bytes, 0 if nothing was waiting.
    fn read(
        &mut self,
        socket: &PacketSocket,
        arrivals: &mut Arrivals,
        now: std::time::Instant,
    ) -> io::Result<usize> {
        if !socket.receive(arrivals)? {
            return Ok(0);
        }
        let mut bytes = 0;
        for datagram in arrivals.datagrams() {
            bytes += datagram.bytes.len();
            // Memory of its own, because what waits for a lost packet may stay for long.
            let data = BytesMut::from(datagram.bytes);
            let (source, ecn) = (datagram.source, datagram.ecn);
            // A client answers nothing that is not for its connection.
            let mut answer = Vec::new();
            let event = self
                .endpoint
                .handle(now, source, None, ecn, data, &mut answer);
            if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
                self.connection.handle_event(event);
            }
        }
        Ok(bytes)
    }

    /// Passes on what the connection and its endpoint have for each other.
    fn exchange(&mut self) {
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::transport::tests::Server;
    use crate::transport::tests::quic_relay::QuicRelay;

    /// Far longer than any step takes; only a hang reaches this limit.
    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn only_the_relays_answer_ends_the_use_of_the_socket_before() {
        let server = Server::relay().await;
        let (mut relay, mut quic) = QuicRelay::dialled(&server).await;
        quic.rebind();
        // One on which nothing can arrive, so that all bytes come from the new socket.
        quic.previous = Some(PacketSocket::bind(quic.remote_address()).unwrap());
        relay.say_noise_to(quic.socket.local_address()).await;
        let heard = async {
            while quic.take_in().unwrap() == 0 {
                quic.ready(None).await;
            }
        };
        timeout(PATIENCE, heard).await.unwrap();
        assert!(quic.previous.is_some(), "noise counts as an answer");
        let answered = async {
            while quic.previous.is_some() {
                quic.send_out();
                quic.ready(None).await;
                quic.take_in().unwrap();
            }
        };
        tokio::select! {
            answered = timeout(PATIENCE, answered) => answered.unwrap(),
            () = relay.serve() => unreachable!("the relay serves for ever"),
        }
    }
}
