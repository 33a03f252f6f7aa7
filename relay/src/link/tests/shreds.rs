//! Tests of links whose sockets take little at a time, or that are dropped while they wait.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};

use socket2::SockRef;
use tieline_wire::SessionId;

use super::*;
use crate::io::tests::witness;
use crate::session::Session;
use crate::session::tests::rig::{Link, drop_while_it_waits};

/// Payload that a session's first credit covers, without headers.
const EACH: usize = 12_000;

fn byte_at(session: SessionId, at: usize) -> u8 {
    let [low, high, ..] = at.to_le_bytes();
    low ^ high.wrapping_mul(31) ^ session.to_string().bytes().fold(0, u8::wrapping_add)
}

/// Queues a session's payload in pieces of one byte and more.
fn speak(session: &Session, id: SessionId) {
    let (mut sent, mut len) = (0, 1);
    while sent < EACH {
        let end = EACH.min(sent + len);
        let piece: Bytes = (sent..end).map(|at| byte_at(id, at)).collect();
        session.send(piece, false).unwrap();
        (sent, len) = (end, len * 3);
    }
}

/// A link's socket with the smallest send buffer, and its peer.
fn narrow() -> (Stream, Stream) {
    let (ours, theirs) = streams();
    SockRef::from(&ours.as_fd())
        .set_send_buffer_size(1)
        .unwrap();
    (ours, theirs)
}

#[test]
fn frames_that_leave_in_shreds_arrive_whole_and_in_order() {
    on_each_driver(async || {
        let mut link = Link::established();
        let sessions = link.open_to_targets(40);
        for (session, id) in &sessions {
            speak(session, *id);
            session.finish();
        }
        let (ours, theirs) = narrow();
        let fd = ours.as_fd().as_raw_fd();
        witness::watch();
        serve(&link.relay, ours);
        let mut heard = HashMap::<SessionId, usize>::new();
        let (mut finished, mut most) = (0, 1);
        while finished < sessions.len() {
            theirs.readable().await;
            let mut piece = BytesMut::new();
            theirs.recv(&mut piece, most).unwrap();
            most = most * 2 % 1_999 + 1;
            for event in link.agent_hears(piece.freeze()) {
                match event {
                    Event::Data {
                        session, payload, ..
                    } => {
                        let at = heard.entry(session).or_default();
                        for byte in payload {
                            assert_eq!(byte, byte_at(session, *at), "{session} at {at}");
                            *at += 1;
                        }
                    }
                    Event::Finished { session } => {
                        assert_eq!(heard[&session], EACH);
                        finished += 1;
                    }
                    _ => {}
                }
            }
        }
        let writes = witness::writes_of(fd);
        let short = writes.iter().filter(|(offered, taken)| {
            *taken > 0 && *taken < offered.iter().map(|it| it.len()).sum()
        });
        assert!(short.count() > 50, "the socket took too much at once");
    });
}

#[test]
fn a_link_dropped_while_its_reads_and_writes_wait_closes_its_socket() {
    on_each_driver(async || {
        let mut link = Link::established();
        let sessions = link.open_to_targets(4);
        for (session, id) in &sessions {
            speak(session, *id);
        }
        let (ours, theirs) = narrow();
        let block = LinkBlock::default();
        drop_while_it_waits(run(ours, true, &link.relay, &Nobody, &block)).await;

        let mut heard = BytesMut::new();
        loop {
            theirs.readable().await;
            match theirs.recv(&mut heard, READ_BYTES_MAX).unwrap() {
                Received::End => break,
                Received::Bytes(_) | Received::Nothing => {}
            }
        }
        // The bytes sent before the drop are a valid prefix.
        assert!(!heard.is_empty() && heard.len() < 4 * EACH);
        assert!(!link.agent_hears(heard.freeze()).is_empty());
        // The I/O driver still works.
        let (a, b) = streams();
        a.send(b"on").unwrap();
        b.readable().await;
        assert_eq!(b.recv(&mut BytesMut::new(), 8).unwrap(), Received::Bytes(2));
    });
}
