//! A client of QUIC that writes its packets itself, with the keys of rustls, so that it can break every rule: it
//! acknowledges what it likes, sends any frame from any address, and knows no limits.

mod packet;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::aws_lc_rs::kx_group::X25519;
use rustls::pki_types::ServerName;
use rustls::quic::{ClientConnection, KeyChange, Keys, PacketKeySet, Secrets, Version};
use rustls::{ClientConfig, Side};

pub(super) use self::packet::varint;
use self::packet::{Input, KEY_PHASE, seal, unmask, whole_len};
use super::client::tls_of;
use crate::certificates::provider;

/// Spaces of packets, each with keys of its own.
pub(super) const INITIAL: usize = 0;
pub(super) const HANDSHAKE: usize = 1;
pub(super) const DATA: usize = 2;

/// Length of a datagram with a first packet.
pub(super) const FIRST_BYTES: usize = 1200;

/// Time after which a client gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Time without an acknowledgement after which it is asked for once more.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Silence after which a client repeats its part of the handshake.
const SILENCE: Duration = Duration::from_millis(100);

/// What the relay has said, as far as a test looks at it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// CONNECTION_CLOSE with this code, of QUIC or of the application.
    Close(u64),
    Challenge(Vec<u8>),
    Response(Vec<u8>),
    /// Version negotiation.
    Versions,
    Retry,
}

/// Keys of the next phase, and the secrets of those behind them.
struct Updates {
    next: PacketKeySet,
    secrets: Secrets,
    /// Bit of the phase that is in use.
    phase: u8,
}

impl Updates {
    fn new(mut secrets: Secrets) -> Self {
        let next = secrets.next_packet_keys();
        Self {
            next,
            secrets,
            phase: 0,
        }
    }

    /// Begins the next phase.
    fn turn(&mut self, keys: &mut Keys) {
        let after = self.secrets.next_packet_keys();
        let next = std::mem::replace(&mut self.next, after);
        (keys.local.packet, keys.remote.packet) = (next.local, next.remote);
        self.phase ^= KEY_PHASE;
    }
}

#[derive(Default)]
struct Space {
    keys: Option<Keys>,
    /// What the relay may update its keys to, which it does after 10 to 1000 packets.
    updates: Option<Updates>,
    /// Number of the next packet.
    next: u64,
    received: BTreeSet<u64>,
    /// What was said of the handshake.
    said: Vec<u8>,
    /// What was heard of it, as far as it is whole, and pieces that came early.
    read: usize,
    early: BTreeMap<usize, Vec<u8>>,
}

impl Space {
    /// Number and payload of `packet`, whose number is at `number_at`; `None` if it cannot be read.
    fn open(&mut self, number_at: usize, packet: &mut [u8]) -> Option<(u64, Vec<u8>)> {
        let keys = self.keys.as_mut()?;
        let expected = self.received.last().map_or(0, |it| it + 1);
        let header_key = &*keys.remote.header;
        let (number, len) = unmask(header_key, packet, number_at, expected)?;
        let (header, payload) = packet.split_at_mut(len);
        let phase = header[0] & KEY_PHASE;
        let mut updates = self.updates.as_mut().filter(|it| it.phase != phase);
        let key = match &updates {
            Some(updates) => &updates.next.remote,
            None => &keys.remote.packet,
        };
        let opened = key.decrypt_in_place(number, header, payload);
        let opened = opened.ok()?.to_vec();
        if let Some(updates) = &mut updates {
            updates.turn(keys);
        }
        Some((number, opened))
    }
}

/// The client.
pub(super) struct Raw {
    pub(super) socket: UdpSocket,
    relay: SocketAddr,
    pub(super) tls: ClientConnection,
    /// ID to which packets go.
    pub(super) to: Vec<u8>,
    own: [u8; 8],
    /// IDs of the relay by their number.
    pub(super) ids: BTreeMap<u64, Vec<u8>>,
    pub(super) token: Vec<u8>,
    spaces: [Space; 3],
    /// Space in which the handshake goes on.
    level: usize,
    is_confirmed: bool,
    /// Whether packets of the relay are acknowledged.
    pub(super) acknowledges: bool,
    /// Highest number of own packets that the relay has acknowledged.
    acknowledged: Option<u64>,
    /// Streams that the relay allows, from the first on.
    pub(super) streams_max: u64,
    pub(super) heard: Vec<Heard>,
    pub(super) sent_bytes: usize,
    pub(super) heard_bytes: usize,
}

impl Raw {
    /// A client at the address `ip`, which trusts the certificate in the file `cert`.
    pub(super) fn new(relay: SocketAddr, ip: IpAddr, cert: &Path, protocols: &[&str]) -> Self {
        Self::with(relay, ip, Arc::new(config(cert, protocols)))
    }

    pub(super) fn with(relay: SocketAddr, ip: IpAddr, config: Arc<ClientConfig>) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        let own = fastrand::u64(..).to_be_bytes();
        let name = ServerName::try_from("relay.example").unwrap();
        let tls = ClientConnection::new(config, Version::V1, name, parameters(&own)).unwrap();
        let mut raw = Self {
            socket,
            relay,
            tls,
            to: fastrand::u64(..).to_be_bytes().to_vec(),
            own,
            ids: BTreeMap::new(),
            token: Vec::new(),
            spaces: Default::default(),
            level: INITIAL,
            is_confirmed: false,
            acknowledges: true,
            acknowledged: None,
            streams_max: 1,
            heard: Vec::new(),
            sent_bytes: 0,
            heard_bytes: 0,
        };
        raw.spaces[INITIAL].keys = Some(initial_keys(&raw.to));
        raw.go_on();
        raw
    }

    /// Sends the whole hello in one datagram.
    pub(super) fn hello(&mut self) {
        self.say_handshake(INITIAL);
    }

    /// The datagram with the whole hello.
    pub(super) fn hello_datagram(&mut self) -> Vec<u8> {
        let hello = crypto(0, &self.spaces[INITIAL].said);
        self.packet(INITIAL, &hello, FIRST_BYTES)
    }

    /// A packet that pretends to be early data (0-RTT), with keys that are not those of early data.
    pub(super) fn early_packet(&self) -> Vec<u8> {
        let keys = self.spaces[INITIAL].keys.as_ref().unwrap();
        seal(&keys.local, 0, self.long_header(1), vec![1; 60])
    }

    /// Closes the connection.
    pub(super) fn leave(&mut self) {
        self.say(DATA, &[0x1d, 0, 0]);
    }

    fn say_handshake(&mut self, space: usize) {
        let said = self.spaces[space].said.clone();
        self.say(space, &crypto(0, &said));
    }

    /// Completes the handshake; returns the code if the relay closes the connection.
    pub(super) fn shake(&mut self) -> Result<(), u64> {
        self.hello();
        let deadline = Instant::now() + PATIENCE;
        while !self.is_confirmed {
            if let Some(code) = self.closed() {
                return Err(code);
            }
            assert!(Instant::now() < deadline, "no end of the handshake");
            if !self.receive() {
                let spaces = INITIAL..=self.level.min(HANDSHAKE);
                spaces.for_each(|it| self.say_handshake(it));
            }
        }
        Ok(())
    }

    /// Receives until `is_done`.
    pub(super) fn until(&mut self, what: &str, mut is_done: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_done(self) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.heard);
            self.receive();
        }
    }

    /// Waits until the relay closes the connection, and returns its code.
    pub(super) fn close_code(&mut self) -> u64 {
        self.until("a close", |it| it.closed().is_some());
        self.closed().unwrap()
    }

    /// The code with which the relay has closed the connection.
    pub(super) fn closed(&self) -> Option<u64> {
        self.heard.iter().find_map(|it| match it {
            Heard::Close(code) => Some(*code),
            _ => None,
        })
    }

    /// Waits until the relay acknowledges a new packet.
    pub(super) fn is_alive(&mut self) {
        let number = self.spaces[DATA].next;
        // An address that the relay takes for a new one must have sent something before it gets an answer.
        self.say_padded(&[1]);
        let mut asked = Instant::now();
        self.until("an acknowledgement", |it| {
            assert_eq!(it.closed(), None);
            // The kernel drops packets behind a flood that has filled the relay's buffer.
            if asked.elapsed() > ASK_AGAIN {
                asked = Instant::now();
                it.say_padded(&[1]);
            }
            it.acknowledged.is_some_and(|at| at >= number)
        });
    }

    /// Sends `frames` in a packet of `space`, alone in its datagram.
    pub(super) fn say(&mut self, space: usize, frames: &[u8]) {
        let len = match space {
            INITIAL => FIRST_BYTES,
            _ => 0,
        };
        let packet = self.packet(space, frames, len);
        self.send(&packet);
    }

    /// Sends `frames` in a long packet of data.
    fn say_padded(&mut self, frames: &[u8]) {
        let packet = self.packet(DATA, frames, FIRST_BYTES);
        self.send(&packet);
    }

    pub(super) fn send(&mut self, datagram: &[u8]) {
        self.sent_bytes += datagram.len();
        self.socket.send_to(datagram, self.relay).unwrap();
    }

    /// The next packet of `space`, with `frames`, filled up to `len` bytes.
    pub(super) fn packet(&mut self, space: usize, frames: &[u8], len: usize) -> Vec<u8> {
        let header = match space {
            INITIAL => self.long_header(0),
            HANDSHAKE => self.long_header(2),
            _ => {
                let phase = self.spaces[DATA].updates.as_ref().map_or(0, |it| it.phase);
                [&[0x40 | phase][..], &self.to].concat()
            }
        };
        let mut payload = frames.to_vec();
        let missing = len.saturating_sub(whole_len(&header, payload.len()));
        payload.resize(payload.len() + missing, 0);
        let it = &mut self.spaces[space];
        let number = it.next;
        it.next += 1;
        seal(&it.keys.as_ref().unwrap().local, number, header, payload)
    }

    /// A long header up to its length: Initial (0), 0-RTT (1) or Handshake (2).
    pub(super) fn long_header(&self, kind: u8) -> Vec<u8> {
        let mut header = vec![0xc0 | kind << 4, 0, 0, 0, 1];
        for id in [&self.to[..], &self.own] {
            header.push(u8::try_from(id.len()).unwrap());
            header.extend(id);
        }
        if kind == 0 {
            header.extend(varint(self.token.len() as u64));
            header.extend(&self.token);
        }
        header
    }

    /// Takes a datagram; false if none comes within the socket's timeout.
    pub(super) fn receive(&mut self) -> bool {
        let mut buffer = vec![0; 65_536];
        let Ok((len, _)) = self.socket.recv_from(&mut buffer) else {
            return false;
        };
        self.heard_bytes += len;
        let mut rest = &mut buffer[..len];
        while let Some((space, number_at, end)) = self.layout(rest) {
            let (packet, next) = rest.split_at_mut(end);
            rest = next;
            self.take(space, number_at, packet);
        }
        true
    }

    /// Takes all datagrams that have arrived.
    pub(super) fn drain(&mut self) {
        self.socket.set_nonblocking(true).unwrap();
        while self.receive() {}
        self.socket.set_nonblocking(false).unwrap();
    }

    /// Space of the first packet, where its number is, and its end; `None` if there is none with a number.
    fn layout(&mut self, datagram: &[u8]) -> Option<(usize, usize, usize)> {
        let first = *datagram.first()?;
        if first & 0x80 == 0 {
            return Some((DATA, 1 + self.own.len(), datagram.len()));
        }
        let mut input = Input(&datagram[1..]);
        let version = input.take(4);
        let _own = input.id();
        let from = input.id().to_vec();
        if version == [0; 4] {
            self.heard.push(Heard::Versions);
            return None;
        }
        let space = match first >> 4 & 3 {
            0 => INITIAL,
            2 => HANDSHAKE,
            _ => {
                self.retried(from, input.0);
                return None;
            }
        };
        if space == INITIAL {
            let token = input.len();
            input.take(token);
        }
        let rest = input.len();
        let number_at = datagram.len() - input.0.len();
        // Late packets of the handshake may come once the first ID is used no more.
        if !self.is_confirmed {
            self.ids.insert(0, from.clone());
            self.to = from;
        }
        Some((space, number_at, number_at + rest))
    }

    /// Begins again with a token.
    fn retried(&mut self, from: Vec<u8>, rest: &[u8]) {
        self.heard.push(Heard::Retry);
        // Behind the token there is a tag.
        self.token = rest[..rest.len() - packet::TAG_BYTES].to_vec();
        self.spaces[INITIAL].keys = Some(initial_keys(&from));
        self.to = from;
        if self.acknowledges {
            self.hello();
        }
    }

    fn take(&mut self, space: usize, number_at: usize, packet: &mut [u8]) {
        let it = &mut self.spaces[space];
        let Some((number, payload)) = it.open(number_at, packet) else {
            return;
        };
        if it.received.insert(number) && self.frames(space, &payload) && self.acknowledges {
            self.acknowledge(space);
        }
    }

    /// Acknowledges the last packet, and those before it without a gap.
    fn acknowledge(&mut self, space: usize) {
        let mut numbers = self.spaces[space].received.iter().rev().copied();
        let last = numbers.next().unwrap();
        let more = (1..)
            .zip(numbers)
            .take_while(|(back, it)| it + back == last);
        let frame = [
            vec![2],
            varint(last),
            vec![0, 0],
            varint(more.count() as u64),
        ];
        self.say(space, &frame.concat());
    }

    /// Reads frames; true if one of them asks for an acknowledgement.
    fn frames(&mut self, space: usize, payload: &[u8]) -> bool {
        let (mut input, mut asks) = (Input(payload), false);
        while !input.0.is_empty() {
            let kind = input.number();
            asks |= !matches!(kind, 0 | 2 | 3 | 0x1c | 0x1d);
            match kind {
                0x02 | 0x03 => self.take_acknowledgement(space, kind, &mut input),
                0x06 => {
                    let (at, len) = (input.len(), input.len());
                    let piece = input.take(len);
                    self.take_handshake(space, at, piece);
                }
                0x12 => self.streams_max = self.streams_max.max(input.number()),
                0x18 => {
                    let (number, _) = (input.number(), input.number());
                    self.ids.insert(number, input.id().to_vec());
                    input.take(16);
                }
                0x1a => {
                    let asked = input.take(8).to_vec();
                    let answer = [&[0x1b], &asked[..]].concat();
                    self.heard.push(Heard::Challenge(asked));
                    self.say_padded(&answer);
                }
                0x1b => self.heard.push(Heard::Response(input.take(8).to_vec())),
                0x1c | 0x1d => {
                    self.heard.push(Heard::Close(input.number()));
                    if kind == 0x1c {
                        input.number();
                    }
                    let len = input.len();
                    input.take(len);
                }
                0x1e => self.is_confirmed = true,
                _ => skip(kind, &mut input),
            }
        }
        asks
    }

    fn take_acknowledgement(&mut self, space: usize, kind: u64, input: &mut Input<'_>) {
        let (last, _, ranges, _) = (
            input.number(),
            input.number(),
            input.number(),
            input.number(),
        );
        let ecn = if kind == 3 { 3 } else { 0 };
        for _ in 0..2 * ranges + ecn {
            input.number();
        }
        if space == DATA {
            self.acknowledged = self.acknowledged.max(Some(last));
        }
    }

    fn take_handshake(&mut self, space: usize, at: usize, piece: &[u8]) {
        let it = &mut self.spaces[space];
        it.early.insert(at, piece.to_vec());
        let mut whole = Vec::new();
        while let Some(entry) = it.early.first_entry() {
            if *entry.key() > it.read {
                break;
            }
            let (at, piece) = entry.remove_entry();
            if let Some(new) = piece.get(it.read - at..) {
                whole.extend_from_slice(new);
                it.read += new.len();
            }
        }
        if !whole.is_empty() {
            self.tls.read_hs(&whole).unwrap();
            self.go_on();
        }
    }

    /// Takes new keys of the handshake, and says what comes next in it.
    fn go_on(&mut self) {
        loop {
            let mut bytes = Vec::new();
            let change = self.tls.write_hs(&mut bytes);
            let level = self.level;
            self.spaces[level].said.extend(&bytes);
            if level != INITIAL && !bytes.is_empty() {
                self.say_handshake(level);
            }
            let (level, keys) = match change {
                Some(KeyChange::Handshake { keys }) => (HANDSHAKE, keys),
                Some(KeyChange::OneRtt { keys, next }) => {
                    self.spaces[DATA].updates = Some(Updates::new(next));
                    (DATA, keys)
                }
                None => return,
            };
            self.level = level;
            self.spaces[level].keys = Some(keys);
        }
    }
}

/// Skips the rest of a frame that no test looks at.
fn skip(kind: u64, input: &mut Input<'_>) {
    let (numbers, has_bytes) = match kind {
        0x00 | 0x01 => (0, false),
        0x04 => (3, false),
        0x05 | 0x11 | 0x15 => (2, false),
        0x07 => (0, true),
        0x08..=0x0f => (1 + usize::from(kind & 4 != 0), kind & 2 != 0),
        0x10 | 0x13 | 0x14 | 0x16 | 0x17 | 0x19 => (1, false),
        _ => panic!("a frame of kind {kind:#x}"),
    };
    for _ in 0..numbers {
        input.number();
    }
    match kind {
        _ if has_bytes => {
            let len = input.len();
            input.take(len);
        }
        // Data up to the end of the packet.
        0x08..=0x0f => input.0 = &[],
        _ => {}
    }
}

/// The configuration of TLS with a short key exchange, so that a hello fits into one datagram.
pub(super) fn config(cert: &Path, protocols: &[&str]) -> ClientConfig {
    let provider = CryptoProvider {
        kx_groups: vec![X25519],
        ..(*provider()).clone()
    };
    tls_of(cert, protocols, Arc::new(provider))
}

/// The keys of first packets to this ID.
fn initial_keys(to: &[u8]) -> Keys {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    let suite = suite.quic_suite().unwrap();
    suite.keys(to, Side::Client, Version::V1)
}

/// A piece of a handshake.
pub(super) fn crypto(at: u64, piece: &[u8]) -> Vec<u8> {
    let len = varint(piece.len() as u64);
    [&[6][..], &varint(at), &len, piece].concat()
}

/// What the client allows: 1 MiB, 16 streams, and 8 connection IDs.
fn parameters(own: &[u8; 8]) -> Vec<u8> {
    let mut all = Vec::new();
    for (id, value) in [
        (0x04, 1 << 20),
        (0x05, 1 << 20),
        (0x06, 1 << 20),
        (0x08, 16),
        (0x0e, 8),
    ] {
        let value = varint(value);
        all.extend([id, u8::try_from(value.len()).unwrap()]);
        all.extend(value);
    }
    all.extend([0x0f, 8]);
    all.extend(own);
    all
}
