//! Tests of WebSocket between two ends in memory: `round_trip` connects two of our own ends, `frames` feeds an end with
//! the bytes of any peer.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;

use super::*;
use crate::tests::{End as Wire, ends, noise};

mod frames;
mod round_trip;

/// A socket that checks the rule of the TLS layer: bytes that were offered and not reported as taken must be offered
/// again before others.
struct Owing {
    wire: Wire,
    /// Bytes that were offered and not reported.
    owed: RefCell<Vec<u8>>,
    /// Whether the next bytes are owed before they are reported.
    owes: Cell<bool>,
}

impl Owing {
    fn new(wire: Wire) -> Self {
        Self {
            wire,
            owed: RefCell::default(),
            owes: Cell::new(true),
        }
    }
}

impl Socket for Owing {
    fn recv(&self, buffer: &mut BytesMut, max: usize) -> io::Result<Received> {
        self.wire.recv(buffer, max)
    }

    fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let offered: Vec<u8> = slices.iter().flat_map(|it| it.to_vec()).collect();
        let mut owed = self.owed.borrow_mut();
        let same = owed.len().min(offered.len());
        assert_eq!(owed[..same], offered[..same], "other bytes offered");
        if owed.is_empty() && self.owes.replace(!self.owes.get()) {
            *owed = offered;
            return Ok(0);
        }
        let limit = if owed.is_empty() { offered.len() } else { same };
        let taken = self
            .wire
            .send_vectored(&[IoSlice::new(&offered[..limit])])?;
        let repaid = taken.min(owed.len());
        owed.drain(..repaid);
        Ok(taken)
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.wire.poll_readable(cx)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.wire.poll_writable(cx)
    }
}

/// What a reader learns.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    /// Payload since the last border or end.
    Bytes(Vec<u8>),
    Border,
    /// The peer's Close frame, and its code and reason.
    Closed(Option<(u16, String)>),
    Violation(Violation),
    Cut,
}

/// Reads once, at most `max` bytes; false if nothing is there.
fn hear(
    websocket: &mut WebSocket,
    socket: &impl Socket,
    max: usize,
    heard: &mut Vec<Heard>,
) -> bool {
    let mut piece = Vec::new();
    let received = websocket.recv(socket, max, |bytes| piece.extend_from_slice(bytes));
    if let Ok(Received::Bytes(count)) = received {
        assert_eq!(count, piece.len());
        assert!(count <= max);
        assert!(count > 0 || websocket.ended_message());
    } else {
        assert!(piece.is_empty(), "bytes that are not reported");
    }
    match heard.last_mut() {
        Some(Heard::Bytes(bytes)) => bytes.extend_from_slice(&piece),
        _ if !piece.is_empty() => heard.push(Heard::Bytes(piece)),
        _ => {}
    }
    match received {
        Ok(Received::Bytes(_)) if websocket.ended_message() => heard.push(Heard::Border),
        Ok(Received::Bytes(_)) => {}
        Ok(Received::Nothing) => return false,
        Ok(Received::End) => {
            let said = websocket.peer_close();
            heard.push(Heard::Closed(
                said.map(|(code, reason)| (code, reason.to_owned())),
            ));
        }
        Err(error) => heard.push(match Violation::of(&error) {
            Some(violation) => {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                Heard::Violation(violation)
            }
            None => {
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
                Heard::Cut
            }
        }),
    }
    true
}

/// Reads until an end, at most `max` bytes at a time.
async fn hear_all(websocket: &mut WebSocket, socket: &impl Socket, max: &[usize]) -> Vec<Heard> {
    let (mut heard, mut sizes) = (Vec::new(), max.iter().cycle());
    let largest = max.iter().max().copied().unwrap_or_default();
    loop {
        poll_fn(|cx| websocket.poll_readable(socket, cx)).await;
        let max = *sizes.next().unwrap();
        hear(websocket, socket, max, &mut heard);
        assert!(websocket.undigested.len() <= largest + EXTRA_BYTES);
        if matches!(
            heard.last(),
            Some(Heard::Closed(_) | Heard::Violation(_) | Heard::Cut)
        ) {
            return heard;
        }
    }
}

/// All bytes that wait at `socket`.
fn drain(socket: &Wire) -> Vec<u8> {
    let bytes: Vec<u8> = socket.from.borrow_mut().bytes.drain(..).collect();
    bytes
}

fn noop() -> Context<'static> {
    Context::from_waker(Waker::noop())
}
