//! A peer in memory, and what the fuzz targets learn from it.

pub mod session;

use std::cell::{Cell, RefCell};
use std::future::{Future, ready};
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use tieline_transport::websocket::{Role, Violation, WebSocket};
use tieline_transport::{Received, Socket, Tls};

/// Largest number of reads that any input may need for each of its bytes, and for its end.
const READS_PER_BYTE: usize = 4;
const READS_FOR_THE_END: usize = 100;

/// A peer that has said `input`, then ends its direction, and takes `room` bytes at a time.
pub struct Peer<'a> {
    input: RefCell<&'a [u8]>,
    piece: usize,
    room: usize,
    /// All that it took.
    pub taken: RefCell<Vec<u8>>,
    /// Whether the next write is refused.
    is_full: Cell<bool>,
}

impl<'a> Peer<'a> {
    /// Bytes come in pieces of `piece` bytes at most.
    pub fn new(input: &'a [u8], piece: usize, room: usize) -> Self {
        Self {
            input: RefCell::new(input),
            piece,
            room,
            taken: RefCell::default(),
            is_full: Cell::new(false),
        }
    }
}

impl Socket for Peer<'_> {
    fn recv(&self, buffer: &mut BytesMut, max: usize) -> io::Result<Received> {
        let mut input = self.input.borrow_mut();
        let (piece, rest) = input.split_at(input.len().min(max).min(self.piece));
        *input = rest;
        buffer.extend_from_slice(piece);
        Ok(match piece {
            [] => Received::End,
            piece => Received::Bytes(piece.len()),
        })
    }

    fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.is_full.replace(!self.is_full.get()) {
            return Ok(0);
        }
        let mut taken = self.taken.borrow_mut();
        let before = taken.len();
        let offered = slices.iter().flat_map(|slice| slice.iter().copied());
        taken.extend(offered.take(self.room));
        Ok(taken.len() - before)
    }

    fn poll_readable(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// What a reader learns.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Payload without a border.
    Bytes(Vec<u8>),
    /// The end of a message.
    Border,
    /// A Close frame, with its code and its reason.
    Closed(Option<(u16, String)>),
    /// What the peer did wrong.
    Violation(Violation),
    /// The end of the connection without a Close frame.
    Cut,
}

/// What an end of `role` hears of `input`, which comes in pieces of `piece` bytes, in reads of `max` bytes.
pub fn heard(role: Role, input: &[u8], piece: usize, max: usize) -> Vec<Heard> {
    let peer = Peer::new(input, piece, 7);
    let mut websocket = WebSocket::new(role);
    let mut heard = Vec::new();
    for _ in 0..READS_PER_BYTE * input.len() + READS_FOR_THE_END {
        let mut bytes = Vec::new();
        let received = websocket.recv(&peer, max, |it| bytes.extend_from_slice(it));
        match heard.last_mut() {
            Some(Heard::Bytes(before)) => before.append(&mut bytes),
            _ if !bytes.is_empty() => heard.push(Heard::Bytes(bytes)),
            _ => {}
        }
        let end = match received {
            Ok(Received::Bytes(_)) if websocket.ended_message() => {
                heard.push(Heard::Border);
                continue;
            }
            Ok(Received::Bytes(_) | Received::Nothing) => continue,
            Ok(Received::End) => {
                let said = websocket.peer_close();
                Heard::Closed(said.map(|(code, reason)| (code, reason.to_owned())))
            }
            Err(error) => Violation::of(&error).map_or(Heard::Cut, Heard::Violation),
        };
        heard.push(end);
        return heard;
    }
    panic!("the reader goes round in circles");
}

/// Accepts TLS from a client that says `input` and ends its direction; returns what it was answered.
///
/// # Errors
/// The handshake failed.
pub fn accepted(input: &[u8], piece: usize) -> (io::Result<()>, Vec<u8>) {
    let peer = Peer::new(input, piece, 10_000);
    let accepted = {
        let mut accepting = pin!(Tls::accept(&peer, |_| config(), || ready(())));
        let mut cx = Context::from_waker(Waker::noop());
        (0..READS_PER_BYTE * input.len() + READS_FOR_THE_END)
            .find_map(|_| match accepting.as_mut().poll(&mut cx) {
                Poll::Ready(accepted) => Some(accepted.map(drop)),
                Poll::Pending => None,
            })
            .expect("the handshake goes round in circles")
    };
    (accepted, peer.taken.into_inner())
}

fn config() -> Arc<ServerConfig> {
    static CONFIG: OnceLock<Arc<ServerConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["relay".to_owned()]).expect("a key pair");
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("a certificate");
        Arc::new(config)
    });
    Arc::clone(config)
}
