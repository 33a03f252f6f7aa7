//! Links over QUIC between two endpoints in memory, on simulated time, with packets that are lost, overtaken and doubled.

mod ends;
mod hostile;
mod idle;
mod network;
mod queues;
mod sessions;
mod stalled;
mod tokens;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use aws_lc_rs::{hkdf, hmac};
use bytes::{Bytes, BytesMut};
use quinn_proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, DatagramEvent, Endpoint,
    Event as ConnectionEvent, VarInt,
};
use tieline_wire::{
    AgentHello, AgentKey, Error, Event, InstanceId, LinkEnd, MachineId, Mode, Moment, Mux, Open,
    RelayHello, SessionEnd, SessionId, Settings, TunnelId,
};

use self::network::{Network, Path};
use super::{ALPN_AGENT, LinkStreams, client, close_code, endpoint, lost, server};
use crate::tls::tests::configs;

const NONCE: [u8; 32] = [7; 32];
const RELAY: usize = 0;
const AGENT: usize = 1;

/// Longest simulated time of a test.
const LONGEST: Duration = Duration::from_secs(120);

/// Datagrams of one send.
const DATAGRAMS: usize = 10;

fn signed_hello() -> AgentHello {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[5; 32]).unwrap();
    let mut hello = AgentHello {
        version: 1,
        key: AgentKey::new(pair.public_key().as_ref().try_into().unwrap()),
        machine: MachineId::new([2; 16]),
        instance: InstanceId::new([3; 16]),
        link_index: 0,
        links: 1,
        relay_name: "relay:9001".into(),
        agent_version: "test/1".into(),
        signature: [0; 64],
        bound_signature: None,
    };
    let signature = pair.sign(&hello.transcript(&NONCE));
    hello.signature = signature.as_ref().try_into().unwrap();
    hello
}

fn open_message(mode: Mode) -> Open {
    let tunnel = TunnelId::parse("maya").unwrap();
    Open { tunnel, mode }
}

/// One end of the link.
struct Peer {
    endpoint: Endpoint,
    address: SocketAddr,
    connection: Option<(ConnectionHandle, Connection)>,
    streams: LinkStreams,
    mux: Mux,
    /// Events that the test has not looked at.
    events: Vec<Event>,
    /// What the peer did wrong.
    error: Option<Error>,
    /// Why the connection was lost.
    lost: Option<ConnectionError>,
    /// The test itself writes to the connection's streams, and reads from them.
    is_raw: bool,
}

impl Peer {
    fn connection(&mut self) -> &mut Connection {
        &mut self.connection.as_mut().expect("a connection").1
    }

    /// Everything but datagrams that is due: timers, events, bytes between mux and streams.
    fn turn(&mut self, now: Instant, moment: Moment) {
        let Some((handle, connection)) = &mut self.connection else {
            return;
        };
        if connection.poll_timeout().is_some_and(|at| at <= now) {
            connection.handle_timeout(now);
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        while let Some(event) = connection.poll() {
            match event {
                ConnectionEvent::Stream(event) => self.streams.handle_event(event),
                ConnectionEvent::ConnectionLost { reason } => self.lost = Some(reason),
                _ => {}
            }
        }
        if self.is_raw || self.error.is_some() || self.lost.is_some() {
            return;
        }
        if self.mux.poll_timeout() <= moment {
            if self.mux.wants_progress(moment) {
                self.mux.progressed(moment, self.streams.progress().read());
            }
            if let Err(error) = self.mux.handle_timeout(moment) {
                self.error = Some(error);
                return;
            }
        }
        loop {
            match self.streams.poll_event(moment, connection, &mut self.mux) {
                Ok(Some(Event::RelayHello(_))) => self.mux.hello(&signed_hello()),
                Ok(Some(Event::AgentHello(_))) => self.mux.trust(),
                Ok(Some(Event::Pong { .. })) => {}
                Ok(Some(event)) => self.events.push(event),
                Ok(None) => break,
                Err(error) => {
                    let code = close_code(error.reason);
                    connection.close(now, code, Bytes::new());
                    self.error = Some(error);
                    return;
                }
            }
        }
    }

    fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}

/// Both ends of a link.
struct Pair {
    peers: [Peer; 2],
    network: Network,
    start: Instant,
    now: Instant,
}

impl Pair {
    /// A new connection, before its first datagram; `change` may change the agent's configuration.
    fn unconnected(path: Path, change: impl FnOnce(&mut ClientConfig)) -> Self {
        let reset_key = Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &[1; 64]));
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]);
        let token_key = Arc::new(salt.extract(&[2; 64]));
        let (server_tls, client_tls) = configs();
        let (mut server_tls, mut client_tls) = ((*server_tls).clone(), (*client_tls).clone());
        server_tls.alpn_protocols = vec![ALPN_AGENT.to_vec()];
        client_tls.alpn_protocols = vec![ALPN_AGENT.to_vec()];
        let server = Arc::new(server(&server_tls, token_key, LONGEST).unwrap());
        let mut client = client(&client_tls).unwrap();
        change(&mut client);
        let config = Arc::new(endpoint(reset_key));
        let (start, now) = (Instant::now(), moment_at(Duration::ZERO));
        let settings = Settings::default();
        let relay = Mux::relay(RelayHello::new(NONCE, 1000), settings, now);
        let agent = Mux::agent(settings, now);
        let peer = |server, port, streams, mux: Mux, seed| Peer {
            endpoint: Endpoint::new(Arc::clone(&config), server, true, Some([seed; 32])),
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            connection: None,
            streams,
            mux: mux.over_streams(),
            events: Vec::new(),
            error: None,
            lost: None,
            is_raw: false,
        };
        let relay = peer(Some(server), 1, LinkStreams::relay(), relay, 1);
        let mut agent = peer(None, 2, LinkStreams::agent(), agent, 2);
        let connected = agent
            .endpoint
            .connect(start, client, relay.address, "relay");
        agent.connection = Some(connected.unwrap());
        Self {
            peers: [relay, agent],
            network: Network::new(path),
            start,
            now: start,
        }
    }

    /// A link whose handshake is over, on this path.
    fn on(path: Path) -> Self {
        Self::with(path, |_| {})
    }

    fn with(path: Path, change: impl FnOnce(&mut ClientConfig)) -> Self {
        let mut pair = Self::unconnected(path, change);
        pair.run("the handshake", |peers| {
            peers.iter().all(|peer| peer.mux.is_established())
        });
        pair
    }

    fn connected() -> Self {
        Self::on(Path::default())
    }

    fn moment(&self) -> Moment {
        moment_at(self.now - self.start)
    }

    /// Lets time pass until `done` is true, which may act on both ends after each of their turns.
    fn run(&mut self, what: &str, mut done: impl FnMut(&mut [Peer; 2]) -> bool) {
        let deadline = self.now + LONGEST;
        while !self.step(&mut done) {
            let errors = self.peers.each_ref().map(|it| (&it.error, &it.lost));
            assert!(self.now < deadline, "{what} takes for ever: {errors:?}");
            self.now = self.next_time();
        }
    }

    /// Lets `time` pass.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.step(&mut |_| false);
            self.now = self.next_time();
        }
    }

    /// Does everything that is due now; true once `done` is.
    fn step(&mut self, done: &mut dyn FnMut(&mut [Peer; 2]) -> bool) -> bool {
        self.deliver();
        let (now, moment) = (self.now, self.moment());
        for peer in &mut self.peers {
            peer.turn(now, moment);
        }
        let is_done = done(&mut self.peers);
        for side in 0..2 {
            self.transmit(side);
        }
        is_done
    }

    /// Gives each endpoint the datagrams that have arrived.
    fn deliver(&mut self) {
        while let Some((to, datagram)) = self.network.arrived(self.now) {
            let from = self.peers[1 - to].address;
            let (now, mut answer) = (self.now, Vec::new());
            let peer = &mut self.peers[to];
            let data = BytesMut::from(&datagram[..]);
            match peer
                .endpoint
                .handle(now, from, None, None, data, &mut answer)
            {
                Some(DatagramEvent::ConnectionEvent(_, event)) => {
                    if let Some((_, connection)) = &mut peer.connection {
                        connection.handle_event(event);
                    }
                }
                Some(DatagramEvent::NewConnection(incoming)) => {
                    let accepted = peer.endpoint.accept(incoming, now, &mut answer, None);
                    peer.connection = accepted.ok();
                }
                Some(DatagramEvent::Response(_)) => self.network.send(now, 1 - to, &answer),
                None => {}
            }
        }
    }

    /// Moves the mux's output into the connection, and the connection's datagrams into the network.
    fn transmit(&mut self, side: usize) {
        let (now, moment) = (self.now, self.moment());
        let peer = &mut self.peers[side];
        let Some((_, connection)) = &mut peer.connection else {
            return;
        };
        if !peer.is_raw && peer.error.is_none() && peer.lost.is_none() {
            peer.streams.transmit(moment, connection, &mut peer.mux);
        }
        let mut datagrams = Vec::new();
        while let Some(sent) = connection.poll_transmit(now, DATAGRAMS, &mut datagrams) {
            let size = sent.segment_size.unwrap_or(sent.size);
            for datagram in datagrams[..sent.size].chunks(size) {
                self.network.send(now, 1 - side, datagram);
            }
            datagrams.clear();
        }
    }

    fn next_time(&mut self) -> Instant {
        let (start, now) = (self.start, self.now);
        let at = |moment: Moment| start + Duration::from_micros(moment.as_micros() - ORIGIN);
        let mut times: Vec<_> = self.network.next().into_iter().collect();
        for peer in &mut self.peers {
            if let Some((_, connection)) = &mut peer.connection {
                times.extend(connection.poll_timeout());
            }
            if !peer.is_raw && peer.error.is_none() {
                times.push(at(peer.mux.poll_timeout()));
                times.extend(peer.streams.poll_timeout().map(at));
            }
        }
        let next = times.into_iter().min().unwrap_or(now);
        // Never still, and never asleep for long: a test may wait for time itself.
        next.clamp(
            now + Duration::from_micros(1),
            now + Duration::from_millis(50),
        )
    }

    /// Opens a session whose target accepts the connection.
    fn session(&mut self, mode: Mode) -> SessionId {
        let id = self.peers[RELAY].mux.open(&open_message(mode)).unwrap();
        self.run("the session", |[relay, agent]| {
            for event in agent.take_events() {
                if let Event::Open { session, .. } = event {
                    agent.mux.opened(session);
                }
            }
            relay.events.contains(&Event::Opened { session: id })
        });
        self.peers[RELAY].events.clear();
        id
    }
}

/// Microseconds of the muxes' time at the start.
const ORIGIN: u64 = 1_000_000;

fn moment_at(time: Duration) -> Moment {
    Moment::from_micros(ORIGIN) + time
}

/// Payload bytes of one session in `events`.
fn data_of(events: &[Event], id: SessionId) -> Vec<u8> {
    let payloads = events.iter().filter_map(|event| match event {
        Event::Data {
            session, payload, ..
        } if *session == id => Some(&payload[..]),
        _ => None,
    });
    payloads.collect::<Vec<_>>().concat()
}

fn bytes_of(len: usize) -> Bytes {
    Bytes::from(crate::tests::noise(len))
}

#[test]
fn both_ends_have_one_exporter() {
    let mut pair = Pair::connected();
    let exporters = [RELAY, AGENT].map(|side| super::exporter(pair.peers[side].connection()));
    assert!(exporters[0].is_some());
    assert_eq!(exporters[0], exporters[1]);
}

#[test]
fn a_close_tells_the_peer_the_reason() {
    for (side, reason) in [(RELAY, LinkEnd::ShuttingDown), (AGENT, LinkEnd::Superseded)] {
        let mut pair = Pair::connected();
        let now = pair.now;
        let code = close_code(reason);
        pair.peers[side].connection().close(now, code, Bytes::new());
        pair.peers[side].is_raw = true;
        pair.run("the close", |peers| peers[1 - side].lost.is_some());
        let error = pair.peers[1 - side].lost.take().unwrap();
        assert_eq!(lost(&error).reason, reason);
    }
}

#[test]
fn what_was_said_before_a_close_has_arrived() {
    let mut pair = Pair::on(Path {
        lost_percent: 10,
        ..Path::default()
    });
    let id = pair.session(Mode::Bytes);
    pair.peers[RELAY]
        .mux
        .send(id, bytes_of(10_000), false)
        .unwrap();
    pair.peers[RELAY].mux.finish(id);
    pair.peers[AGENT].mux.finish(id);
    pair.run("the acknowledgements", |[relay, _]| {
        let Peer {
            streams,
            connection,
            mux,
            ..
        } = relay;
        let (_, connection) = connection.as_mut().unwrap();
        mux.session_count() == 0 && streams.has_arrived(connection)
    });
    // The datagrams that were under way may be lost from here on.
    let agent = &mut pair.peers[AGENT];
    assert_eq!(data_of(&agent.take_events(), id), bytes_of(10_000));
}
