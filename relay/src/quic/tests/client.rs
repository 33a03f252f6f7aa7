//! A client of QUIC on a thread of its own, with a blocking socket.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{
    ClientConfig, ConnectionError, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig,
    Event, StreamEvent, StreamId, VarInt,
};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tieline_transport::quic::LinkStreams;
use tieline_wire::{Event as LinkEvent, Moment, Mux};

use crate::certificates::provider;

/// Time after which a client gives up.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Client {
    endpoint: Endpoint,
    connection: quinn_proto::Connection,
    handle: ConnectionHandle,
    socket: UdpSocket,
    /// Events of streams that nothing has looked at.
    events: Vec<StreamEvent>,
}

impl Client {
    /// Begins a connection to `relay`, whose certificate is in the file `cert`.
    pub(super) fn begin(relay: SocketAddr, cert: &Path, protocol: &str) -> Self {
        let tls = tls_of(cert, &[protocol], provider());
        let tls = QuicClientConfig::try_from(tls).unwrap();
        let config = ClientConfig::new(Arc::new(tls));
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
        let connected = endpoint.connect(Instant::now(), config, relay, "relay.example");
        let (handle, connection) = connected.unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let pause = Duration::from_millis(5);
        socket.set_read_timeout(Some(pause)).unwrap();
        Self {
            endpoint,
            connection,
            handle,
            socket,
            events: Vec::new(),
        }
    }

    /// Goes on until `is_done` with the connection; returns the reason if that ends before.
    pub(super) fn until(
        &mut self,
        mut is_done: impl FnMut(&mut quinn_proto::Connection) -> bool,
    ) -> Result<(), ConnectionError> {
        self.turn_until(|connection, _| is_done(connection))
    }

    /// Like [`Client::until`], with the events of streams, which are forgotten after each turn.
    fn turn_until(
        &mut self,
        mut is_done: impl FnMut(&mut quinn_proto::Connection, &mut Vec<StreamEvent>) -> bool,
    ) -> Result<(), ConnectionError> {
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = vec![0; 65_536];
        loop {
            let now = Instant::now();
            assert!(now < deadline, "the client waits in vain");
            if self.connection.poll_timeout().is_some_and(|at| at <= now) {
                self.connection.handle_timeout(now);
            }
            while let Some(event) = self.connection.poll_endpoint_events() {
                if let Some(answer) = self.endpoint.handle_event(self.handle, event) {
                    self.connection.handle_event(answer);
                }
            }
            while let Some(event) = self.connection.poll() {
                match event {
                    Event::ConnectionLost { reason } => return Err(reason),
                    Event::Stream(event) => self.events.push(event),
                    _ => {}
                }
            }
            let is_done = is_done(&mut self.connection, &mut self.events);
            self.events.clear();
            let mut out = Vec::new();
            while let Some(it) = self.connection.poll_transmit(now, 1, &mut out) {
                self.socket
                    .send_to(&out[..it.size], it.destination)
                    .unwrap();
                out.clear();
            }
            if is_done {
                return Ok(());
            }
            if let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
                self.receive(from, &buffer[..len]);
            }
        }
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8]) {
        let (now, datagram) = (Instant::now(), BytesMut::from(datagram));
        let mut answer = Vec::new();
        let event = self
            .endpoint
            .handle(now, from, None, None, datagram, &mut answer);
        if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
            self.connection.handle_event(event);
        }
    }

    /// Goes on as an agent with `mux`, until `act` has seen an event with which it is done.
    pub(super) fn serve(
        &mut self,
        mux: &mut Mux,
        mut act: impl FnMut(&mut Mux, LinkEvent) -> bool,
    ) -> Result<(), ConnectionError> {
        let (mut streams, start) = (LinkStreams::agent(), Instant::now());
        self.turn_until(|connection, events| {
            let now = Moment::default() + start.elapsed();
            events.drain(..).for_each(|it| streams.handle_event(it));
            let mut is_done = false;
            while let Some(event) = streams.poll_event(now, connection, mux).unwrap() {
                is_done |= act(mux, event);
            }
            streams.transmit(now, connection, mux);
            is_done
        })
    }

    /// Goes on until the handshake is over.
    pub(super) fn shake(&mut self) -> Result<(), ConnectionError> {
        self.until(|connection| !connection.is_handshaking())
    }

    /// Goes on until the connection ends.
    pub(super) fn end(&mut self) -> ConnectionError {
        self.until(|_| false).unwrap_err()
    }

    /// Closes the connection.
    pub(super) fn leave(mut self) {
        let left = self.until(|connection| {
            connection.close(Instant::now(), VarInt::from_u32(0), [][..].into());
            true
        });
        left.unwrap();
    }

    /// Sends a packet that is no answer, so that the relay has something to say.
    pub(super) fn ping(&mut self) {
        self.connection.ping();
    }

    /// Sends `payload` over a stream of its own, and returns what comes back.
    pub(super) fn exchange(&mut self, payload: &[u8]) -> Vec<u8> {
        let (mut stream, mut sent, mut heard) = (None, 0, Vec::new());
        let exchanged = self.until(|connection| {
            stream = stream.or_else(|| connection.streams().open(Dir::Bi));
            let Some(id) = stream else {
                return false;
            };
            while sent < payload.len() {
                match connection.send_stream(id).write(&payload[sent..]) {
                    Ok(count) => sent += count,
                    Err(_) => break,
                }
                if sent == payload.len() {
                    connection.send_stream(id).finish().unwrap();
                }
            }
            read(connection, id, &mut heard)
        });
        exchanged.unwrap();
        heard
    }
}

/// A client's TLS, which trusts the certificate in the file `cert` alone.
pub(super) fn tls_of(
    cert: &Path,
    protocols: &[&str],
    provider: Arc<CryptoProvider>,
) -> rustls::ClientConfig {
    let mut roots = RootCertStore::empty();
    let cert = CertificateDer::from_pem_slice(&std::fs::read(cert).unwrap()).unwrap();
    roots.add(cert).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
    tls
}

/// Reads what has arrived on a stream; true at its end.
pub(super) fn read(
    connection: &mut quinn_proto::Connection,
    id: StreamId,
    heard: &mut Vec<u8>,
) -> bool {
    let mut stream = connection.recv_stream(id);
    let Ok(mut chunks) = stream.read(true) else {
        return false;
    };
    let is_at_end = loop {
        match chunks.next(usize::MAX) {
            Ok(Some(chunk)) => heard.extend_from_slice(&chunk.bytes),
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    let _ = chunks.finalize();
    is_at_end
}
