//! A relay over QUIC for tests: `quinn_proto`, a socket, and the relay's end of a mux. It takes one connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{hkdf, hmac};
use bytes::{Bytes, BytesMut};
use quinn_proto::{
    ConnectionError, ConnectionHandle, DatagramEvent, Endpoint, Event as ConnectionEvent, Transmit,
};
use tieline_transport::quic::{self, LinkStreams};
use tieline_wire::{Event, LinkEnd, Moment, Mux, RelayHello, Settings};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout};

use super::Server;
use crate::transport::{Connection, Dialler, Proxies, Quic, RelayUrl};

/// Far longer than any step takes; only a hang reaches this limit.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct QuicRelay {
    socket: UdpSocket,
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, quinn_proto::Connection)>,
    streams: LinkStreams,
    /// The mux of the link; `None` before the handshake is over.
    mux: Option<Mux>,
    started_at: Instant,
    /// Events that the test has not looked at.
    events: Vec<Event>,
    /// Why the connection was lost.
    pub(crate) lost: Option<ConnectionError>,
    /// It trusts an agent that registers, and widens its windows.
    pub(crate) is_trusting: bool,
    /// It acknowledges packets, and reads nothing of the streams in them.
    pub(crate) is_deaf: bool,
    buffer: Vec<u8>,
}

impl QuicRelay {
    /// A relay with the certificate of `server`.
    pub(crate) async fn of(server: &Server) -> Self {
        Self::with_version(server, 1).await
    }

    /// A relay with the certificate of `server`, and an agent's connection to it.
    pub(crate) async fn dialled(server: &Server) -> (Self, Box<Quic>) {
        let mut relay = Self::of(server).await;
        let dialler = relay.dialler(server);
        let shaking = relay.until("the handshake", |relay| relay.is_connected());
        let (dialled, ()) = tokio::join!(dialler.dial(), shaking);
        let Connection::Quic(quic) = dialled.unwrap() else {
            panic!("the connection is not over QUIC");
        };
        (relay, quic)
    }

    /// A relay with the certificate of `server`, at the UDP port with the number of its TCP port.
    pub(crate) async fn beside(server: &Server) -> Self {
        let mut relay = Self::of(server).await;
        let address = server.listener.local_addr().unwrap();
        relay.socket = UdpSocket::bind(address).await.unwrap();
        relay
    }

    /// A relay that speaks this version of QUIC alone.
    pub(crate) async fn with_version(server: &Server, version: u32) -> Self {
        let reset_key = hmac::Key::new(hmac::HMAC_SHA256, &[1; 64]);
        let token_key = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&[2; 64]);
        let config =
            quic::server(&server.config, Arc::new(token_key), Duration::from_secs(60)).unwrap();
        let mut settings = quic::endpoint(Arc::new(reset_key));
        settings.supported_versions(vec![version]);
        let config = Some(Arc::new(config));
        Self {
            socket: UdpSocket::bind("127.0.0.1:0").await.unwrap(),
            endpoint: Endpoint::new(Arc::new(settings), config, true, None),
            connection: None,
            streams: LinkStreams::relay(),
            mux: None,
            started_at: Instant::now(),
            events: Vec::new(),
            lost: None,
            is_trusting: true,
            is_deaf: false,
            buffer: vec![0; 65_536],
        }
    }

    /// A dialler for this relay that trusts the certificate of `server`.
    pub(crate) fn dialler(&self, server: &Server) -> Dialler {
        let port = self.socket.local_addr().unwrap().port();
        let relay = RelayUrl::parse(&format!("quic://localhost:{port}")).unwrap();
        Dialler::new(relay, Some(&server.ca), &Proxies::Never).unwrap()
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.mux.is_some()
    }

    /// The mux of the link.
    pub(crate) fn mux(&mut self) -> &mut Mux {
        self.mux.as_mut().expect("the handshake is over")
    }

    /// The agent's present address.
    pub(crate) fn peer(&self) -> SocketAddr {
        let (_, connection) = self.connection.as_ref().expect("a connection");
        connection.remote_address()
    }

    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Sends what is no packet of QUIC.
    pub(crate) async fn say_noise_to(&self, to: SocketAddr) {
        self.socket.send_to(b"noise", to).await.unwrap();
    }

    /// Closes the connection for `reason`.
    pub(crate) fn close(&mut self, reason: LinkEnd) {
        let (_, connection) = self.connection.as_mut().expect("a connection");
        let now = Instant::now().into_std();
        connection.close(now, quic::close_code(reason), Bytes::new());
        self.send();
    }

    /// Goes on until `done` after a turn, in which it may act.
    pub(crate) async fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let waiting = async {
            loop {
                self.turn();
                if done(self) {
                    return;
                }
                self.wait().await;
            }
        };
        let waited = timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("{what} takes for ever"));
    }

    /// Goes on for ever.
    pub(crate) async fn serve(&mut self) {
        loop {
            self.turn();
            self.wait().await;
        }
    }

    fn now(&self) -> Moment {
        let micros = self.started_at.elapsed().as_micros();
        Moment::from_micros(u64::try_from(micros).unwrap())
    }

    /// Does all that is due.
    pub(crate) fn turn(&mut self) {
        let (now, moment) = (Instant::now().into_std(), self.now());
        while let Ok((len, from)) = self.socket.try_recv_from(&mut self.buffer) {
            self.arrived(now, from, len);
        }
        if let Some((_, connection)) = &mut self.connection
            && connection.poll_timeout().is_some_and(|at| at <= now)
        {
            connection.handle_timeout(now);
        }
        self.exchange();
        self.hear(moment);
        if let (Some((_, connection)), Some(mux)) = (&mut self.connection, &mut self.mux)
            && self.lost.is_none()
        {
            self.streams.transmit(moment, connection, mux);
        }
        self.send();
    }

    /// Waits for a packet or a timer.
    async fn wait(&mut self) {
        let own = self.connection.as_mut().and_then(|it| it.1.poll_timeout());
        let at = |moment: Moment| self.started_at + Duration::from_micros(moment.as_micros());
        let mux = self.mux.as_ref().map(|mux| at(mux.poll_timeout()));
        let streams = self.streams.poll_timeout().map(at);
        let timers = own.map(Instant::from_std).into_iter().chain(mux);
        let next = timers.chain(streams).min();
        let timer = async {
            match next {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            readable = self.socket.readable() => readable.unwrap(),
            () = timer => {}
        }
    }

    fn arrived(&mut self, now: std::time::Instant, from: SocketAddr, len: usize) {
        let data = BytesMut::from(&self.buffer[..len]);
        let mut answer = Vec::new();
        let event = self
            .endpoint
            .handle(now, from, None, None, data, &mut answer);
        match event {
            Some(DatagramEvent::ConnectionEvent(_, event)) => {
                if let Some((_, connection)) = &mut self.connection {
                    connection.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                match self.endpoint.accept(incoming, now, &mut answer, None) {
                    Ok(accepted) => self.connection = Some(accepted),
                    Err(error) => {
                        if let Some(transmit) = error.response {
                            self.answer(&transmit, &answer);
                        }
                    }
                }
            }
            Some(DatagramEvent::Response(transmit)) => self.answer(&transmit, &answer),
            None => {}
        }
    }

    /// Passes on what the connection and its endpoint have for each other, and notes the connection's events.
    fn exchange(&mut self) {
        let Some((handle, connection)) = &mut self.connection else {
            return;
        };
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        while let Some(event) = connection.poll() {
            match event {
                ConnectionEvent::Stream(event) => self.streams.handle_event(event),
                ConnectionEvent::Connected => {
                    let mut hello = RelayHello::new([7; 32], 1_000);
                    hello.exporter = quic::exporter(connection);
                    let micros = self.started_at.elapsed().as_micros();
                    let moment = Moment::from_micros(u64::try_from(micros).unwrap());
                    let mux = Mux::relay(hello, Settings::default(), moment);
                    self.mux = Some(mux.over_streams());
                }
                ConnectionEvent::ConnectionLost { reason } => self.lost = Some(reason),
                _ => {}
            }
        }
    }

    /// Reads what has arrived on the streams, and keeps the mux's timers.
    fn hear(&mut self, moment: Moment) {
        let (Some((_, connection)), Some(mux)) = (&mut self.connection, &mut self.mux) else {
            return;
        };
        while !self.is_deaf
            && let Ok(Some(event)) = self.streams.poll_event(moment, connection, mux)
        {
            if self.is_trusting && matches!(event, Event::Register(_)) {
                mux.trust();
            }
            self.events.push(event);
        }
        if mux.poll_timeout() <= moment {
            mux.handle_timeout(moment).unwrap();
        }
    }

    fn send(&mut self) {
        let Some((_, connection)) = &mut self.connection else {
            return;
        };
        let (now, mut out) = (Instant::now().into_std(), Vec::new());
        while let Some(transmit) = connection.poll_transmit(now, 1, &mut out) {
            // A datagram that the socket does not take is lost, as on a network.
            let _ = self.socket.try_send_to(&out, transmit.destination);
            out.clear();
        }
    }

    fn answer(&self, transmit: &Transmit, bytes: &[u8]) {
        let sent = self
            .socket
            .try_send_to(&bytes[..transmit.size], transmit.destination);
        assert_eq!(sent.unwrap(), transmit.size);
    }
}
