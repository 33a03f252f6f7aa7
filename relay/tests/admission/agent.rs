//! A test agent that speaks the protocol over a plain socket, and a client for the admin port.

use std::io::ErrorKind::{TimedOut, WouldBlock};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::{Bytes, BytesMut};
use tieline_relay::Relay;
use tieline_wire::{
    AgentHello, AgentKey, Event, Granted, InstanceId, LinkEnd, MachineId, Moment, Mux, Refusal,
    RefusalReason, Register, Scheme, Settings, Token, Transmit,
};

/// Longest wait for an event, on a machine that is busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Interval at which an agent that waits for a condition checks it.
const PAUSE: Duration = Duration::from_millis(20);

/// A link of a test agent.
pub(crate) struct Agent {
    stream: TcpStream,
    mux: Mux,
    input: Bytes,
    started_at: Instant,
    key: AgentKey,
}

impl Agent {
    /// Opens a link; the agent's key is derived from `seed`.
    pub(crate) fn dial(relay: &Relay, seed: u8) -> Self {
        let address = relay.agent_addresses()[0];
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let key = AgentKey::new(pair.public_key().as_ref().try_into().unwrap());
        let mut agent = Self {
            stream,
            mux: Mux::agent(Settings::default(), Moment::default()),
            input: Bytes::new(),
            started_at: Instant::now(),
            key,
        };
        let Some(Event::RelayHello(hello)) = agent.event() else {
            panic!("no hello")
        };
        let mut own = AgentHello {
            version: hello.choose_version().unwrap(),
            key,
            machine: MachineId::new([7; 16]),
            instance: InstanceId::new([1; 16]),
            link_index: 0,
            links: 1,
            relay_name: address.to_string(),
            agent_version: "test/1".to_owned(),
            signature: [0; 64],
            bound_signature: None,
        };
        let signature = pair.sign(&own.transcript(&hello.nonce));
        own.signature = signature.as_ref().try_into().unwrap();
        agent.mux.hello(&own);
        agent
    }

    pub(crate) const fn key(&self) -> AgentKey {
        self.key
    }

    /// Registers a tunnel; false if the relay refuses it or ends the link.
    pub(crate) fn try_register(&mut self) -> bool {
        self.ask(None, "");
        loop {
            match self.event() {
                Some(Event::RegisterAck(ack)) => return ack.outcome.is_ok(),
                Some(_) => {}
                None => return false,
            }
        }
    }

    fn ask(&mut self, name: Option<&str>, token: &str) {
        self.mux.register(&Register {
            request: 1,
            name: name.map(str::to_owned),
            label: "test".to_owned(),
            scheme: Scheme::Tcp,
            authority: "127.0.0.1:1".to_owned(),
            token: Token::new(token.to_owned()),
            ..Register::default()
        });
    }

    /// Registers a tunnel, and returns the relay's answer.
    pub(crate) fn register(&mut self, name: Option<&str>, token: &str) -> Result<Granted, Refusal> {
        self.ask(name, token);
        loop {
            match self.event() {
                Some(Event::RegisterAck(ack)) => return ack.outcome,
                Some(Event::GoAway(away)) => panic!("the relay ended the link: {away:?}"),
                Some(_) => {}
                None => panic!("the link closed without an answer"),
            }
        }
    }

    /// Registers a tunnel that the relay must refuse; returns the reason.
    pub(crate) fn refused(&mut self, name: Option<&str>, token: &str) -> RefusalReason {
        self.register(name, token).expect_err("refused").reason
    }

    /// Waits until the relay opens a session.
    pub(crate) fn opened(&mut self) {
        while !matches!(self.event().expect("the link's end"), Event::Open { .. }) {}
    }

    /// Waits until the relay withdraws the tunnel while the link goes on; returns the refusal.
    pub(crate) fn withdrawn(&mut self, tunnel: &str) -> Refusal {
        loop {
            match self.event() {
                Some(Event::Withdrawn(it)) if it.tunnel.as_str() == tunnel => return it.refusal,
                Some(Event::GoAway(away)) => panic!("the relay ended the link: {away:?}"),
                Some(_) => {}
                None => panic!("the link closed without a withdrawal"),
            }
        }
    }

    /// Waits until the relay ends the link; returns the reason.
    pub(crate) fn ended(&mut self) -> LinkEnd {
        let (mut reason, began) = (None, Instant::now());
        while let Some(event) = self.event() {
            assert!(began.elapsed() < SOON, "the link goes on");
            if let Event::GoAway(away) = event {
                reason = Some(away.reason);
            }
        }
        reason.expect("a reason")
    }

    /// Answers the relay's pings until `seen` returns a value: a link that leaves pings unanswered would be evicted.
    pub(crate) fn until<T>(&mut self, mut seen: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        self.stream.set_read_timeout(Some(PAUSE)).unwrap();
        loop {
            if let Some(found) = seen() {
                self.stream.set_read_timeout(Some(SOON)).unwrap();
                return found;
            }
            assert!(began.elapsed() < SOON, "the condition was not met in time");
            if let Some(event) = self.step() {
                panic!("the relay sent {event:?}");
            }
            match self.exchange() {
                Ok(is_open) => assert!(is_open, "the link ended"),
                Err(error) if matches!(error.kind(), WouldBlock | TimedOut) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next event; `None` once the link is closed.
    fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.step() {
                return Some(event);
            }
            if !self.exchange().unwrap() {
                return None;
            }
        }
    }

    /// Handles the bytes read so far; returns an event if they contain one.
    fn step(&mut self) -> Option<Event> {
        let now = Moment::default() + self.started_at.elapsed();
        self.mux.handle_input(now, &mut self.input).unwrap()
    }

    /// Sends pending bytes, and reads; false once the link is closed.
    fn exchange(&mut self) -> io::Result<bool> {
        let now = Moment::default() + self.started_at.elapsed();
        let mut out = Transmit::new();
        self.mux.poll_transmit(now, &mut out);
        for slice in out.slices() {
            // The write fails if the relay has closed the link, but its last messages can still be read.
            let _ = self.stream.write_all(&slice);
        }
        let mut buffer = BytesMut::zeroed(64 * 1024);
        match self.stream.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(read) => self.input = buffer.freeze().slice(..read),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

/// Posts JSON to the admin port; returns status and body.
pub(crate) fn post(address: SocketAddr, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}
