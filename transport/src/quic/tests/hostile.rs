//! Peers that break the rules: the link is closed with a typed reason, which the peer is told.

use quinn_proto::{Dir, Side, StreamId};
use tieline_wire::frame::{self, Kind};
use tieline_wire::limits::{HEADER_BYTES, SESSION_CREDIT_BYTES};
use tieline_wire::{Output, SessionMap};

use super::*;
use crate::quic::SESSION_STREAM;

pub(super) fn control() -> StreamId {
    StreamId::new(Side::Client, Dir::Bi, 0)
}

pub(super) fn stream_of(id: SessionId) -> StreamId {
    StreamId::new(Side::Server, Dir::Bi, u64::from(id.0 - 1))
}

/// Appends everything to `bytes` that has arrived on a stream.
pub(super) fn read(connection: &mut Connection, stream: StreamId, bytes: &mut Vec<u8>) {
    let mut stream = connection.recv_stream(stream);
    let mut chunks = stream.read(true).unwrap();
    while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
        bytes.extend_from_slice(&chunk.bytes);
    }
    let _ = chunks.finalize();
}

/// Kinds of the whole frames in `bytes`.
pub(super) fn kinds(mut bytes: &[u8]) -> Vec<Kind> {
    let mut kinds = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() {
        let header = frame::decode(*header).unwrap();
        kinds.extend(header.kind);
        bytes = rest.get(header.payload_len as usize..).unwrap_or_default();
    }
    kinds
}

/// Control frames of a mux whose sessions send nothing.
#[derive(Default)]
struct Frames(Vec<u8>);

impl Output for Frames {
    fn takes_control(&self) -> bool {
        true
    }

    fn is_full(&self) -> bool {
        true
    }

    fn takes(&self, _: SessionId) -> bool {
        false
    }

    fn control(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn data(&mut self, _: SessionId, _: Bytes, _: bool) {}

    fn finish(&mut self, _: SessionId, _: u64) {}

    fn reset(&mut self, _: SessionId, _: SessionEnd) {}
}

/// A relay that writes what it likes.
struct Hostile {
    pair: Pair,
    /// Streams that it has opened, by session.
    streams: SessionMap<StreamId>,
}

impl Hostile {
    fn new() -> Self {
        let mut pair = Pair::connected();
        // Lets the first ping and its answer pass, so that no frame of the link is cut in two.
        pair.run("the pings", |peers| {
            peers.iter().all(|it| it.mux.rtt().is_some())
        });
        pair.peers[RELAY].is_raw = true;
        Self {
            pair,
            streams: SessionMap::default(),
        }
    }

    /// Announces a session.
    fn open(&mut self, mode: Mode) -> SessionId {
        let moment = self.pair.moment();
        let relay = &mut self.pair.peers[RELAY];
        let id = relay.mux.open(&open_message(mode)).unwrap();
        let mut frames = Frames::default();
        relay.mux.poll_streams(moment, &mut frames);
        self.say(&frames.0);
        id
    }

    /// Writes to the control stream.
    fn say(&mut self, bytes: &[u8]) {
        let connection = self.pair.peers[RELAY].connection();
        let written = connection.send_stream(control()).write(bytes);
        assert_eq!(written, Ok(bytes.len()));
    }

    /// Writes to the stream of a session, which it opens if needed.
    fn write(&mut self, id: SessionId, bytes: &[u8]) {
        let connection = self.pair.peers[RELAY].connection();
        let stream = *self.streams.entry(id).or_insert_with(|| {
            let stream = connection.streams().open(Dir::Bi).unwrap();
            assert_eq!(stream, stream_of(id));
            stream
        });
        let written = connection.send_stream(stream).write(bytes);
        assert_eq!(written, Ok(bytes.len()));
    }

    fn finish(&mut self, id: SessionId) {
        let connection = self.pair.peers[RELAY].connection();
        connection.send_stream(stream_of(id)).finish().unwrap();
    }

    /// The agent closes the link for this reason, and the relay is told.
    fn expect(mut self, reason: LinkEnd) {
        self.pair
            .run("the error", |[relay, _]| relay.lost.is_some());
        let error = self.pair.peers[AGENT].error.take().unwrap();
        assert_eq!(error.reason, reason, "{error}");
        let told = self.pair.peers[RELAY].lost.take().unwrap();
        assert_eq!(lost(&told).reason, reason);
    }
}

#[test]
fn a_stream_of_another_type_ends_the_link() {
    let mut hostile = Hostile::new();
    let id = hostile.open(Mode::Bytes);
    hostile.write(id, &[7]);
    hostile.expect(LinkEnd::Protocol);
}

#[test]
fn a_frame_of_a_session_on_the_control_stream_ends_the_link() {
    for (kind, payload) in [
        (Kind::Data, &b"x"[..]),
        (Kind::Finish, &[0; 8]),
        (Kind::Reset, &[70, 0]),
    ] {
        let mut hostile = Hostile::new();
        let id = hostile.open(Mode::Bytes);
        let len = u32::try_from(payload.len()).unwrap();
        let mut frame = frame::encode(kind, id, len, false).to_vec();
        frame.extend_from_slice(payload);
        hostile.say(&frame);
        hostile.expect(LinkEnd::Protocol);
    }
}

#[test]
fn a_piece_that_is_too_long_ends_the_link_before_it_is_read() {
    for number in [&[0xff; 8][..], &[0x80, 2, 0, 2]] {
        let mut hostile = Hostile::new();
        let id = hostile.open(Mode::Messages);
        hostile.write(id, &[&[SESSION_STREAM][..], number].concat());
        hostile.expect(LinkEnd::FrameTooLong);
    }
}

#[test]
fn more_bytes_than_the_credit_end_the_link() {
    let mut hostile = Hostile::new();
    let id = hostile.open(Mode::Bytes);
    hostile.write(id, &[SESSION_STREAM]);
    hostile.write(id, &vec![1; SESSION_CREDIT_BYTES as usize + 1]);
    hostile.expect(LinkEnd::CreditOverrun);
}

#[test]
fn a_stream_that_ends_within_a_piece_ends_the_link() {
    for bytes in [&[][..], &[SESSION_STREAM, 8, 1], &[SESSION_STREAM, 0x40]] {
        let mut hostile = Hostile::new();
        let id = hostile.open(Mode::Messages);
        hostile.write(id, bytes);
        hostile.finish(id);
        hostile.expect(LinkEnd::Protocol);
    }
}

#[test]
fn a_stream_whose_session_was_never_announced_waits_and_is_then_ended_alone() {
    let mut hostile = Hostile::new();
    let stray = SessionId(1);
    hostile.write(stray, &[SESSION_STREAM, 1, 2, 3]);
    hostile.pair.pass(Duration::from_millis(100));
    assert!(hostile.pair.peers[AGENT].error.is_none());
    // The next session's `Open` says that there is no first one.
    let mut frames = Frames::default();
    let moment = hostile.pair.moment();
    let relay = &mut hostile.pair.peers[RELAY].mux;
    let skipped = relay.open(&open_message(Mode::Bytes)).unwrap();
    assert_eq!(skipped, stray);
    relay.poll_streams(moment, &mut Frames::default());
    let id = relay.open(&open_message(Mode::Bytes)).unwrap();
    relay.poll_streams(moment, &mut frames);
    hostile.say(&frames.0);
    hostile.write(id, &[SESSION_STREAM, 9]);
    // More of the stray stream, so that it is looked at again.
    hostile.write(stray, &[4]);
    let mut heard = Vec::new();
    hostile.pair.run("the session", |[_, agent]| {
        heard.extend(data_of(&agent.take_events(), id));
        heard == [9]
    });
    hostile
        .pair
        .run("the end of the stray stream", |[relay, _]| {
            let stream = relay.connection().send_stream(stream_of(stray));
            matches!(stream.stopped(), Ok(Some(_)))
        });
    assert!(hostile.pair.peers[AGENT].error.is_none());
}

#[test]
fn the_end_of_the_control_stream_is_the_end_of_the_link() {
    let mut pair = Pair::connected();
    let agent = &mut pair.peers[AGENT];
    agent.is_raw = true;
    agent.connection().send_stream(control()).finish().unwrap();
    pair.run("the end", |[relay, _]| relay.error.is_some());
    let error = pair.peers[RELAY].error.take().unwrap();
    assert_eq!(error.reason, LinkEnd::LinkLost);
}

#[test]
fn a_control_stream_that_is_stopped_with_its_first_byte_ends_the_link() {
    let mut pair = Pair::unconnected(Path::default(), |_| {});
    let mut is_begun = false;
    pair.run("the end", |[relay, agent]| {
        agent.is_raw = true;
        let connection = agent.connection();
        if !is_begun && let Some(stream) = connection.streams().open(Dir::Bi) {
            is_begun = true;
            connection.send_stream(stream).write(b"T").unwrap();
            let code = VarInt::from_u32(0);
            connection.recv_stream(stream).stop(code).unwrap();
        }
        relay.error.is_some()
    });
    let error = pair.peers[RELAY].error.take().unwrap();
    assert_eq!(error.reason, LinkEnd::LinkLost);
}

#[test]
fn an_agent_has_one_stream_and_a_stranger_a_small_window() {
    let mut pair = Pair::unconnected(Path::default(), |_| {});
    let mut open = 0;
    pair.run("the handshake of QUIC", |[_, agent]| {
        agent.is_raw = true;
        open += usize::from(agent.connection().streams().open(Dir::Bi).is_some());
        open > 0
    });
    let connection = pair.peers[AGENT].connection();
    assert_eq!(connection.streams().open(Dir::Bi), None);
    assert_eq!(connection.streams().open(Dir::Uni), None);
    let much = vec![0; 1024 * 1024];
    let taken = connection.send_stream(control()).write(&much).unwrap();
    assert_eq!(taken, 128 * 1024);
}
