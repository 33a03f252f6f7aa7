//! Readers that take nothing, beside readers that do.

use tieline_wire::limits::SESSION_CREDIT_BYTES;

use super::*;

const STALLED: usize = 100;
const LIVE_BYTES: usize = 3_000_000;

/// Fills a session as far as its credit goes.
fn fill(peer: &mut Peer, id: SessionId) {
    loop {
        let len = peer.mux.send_capacity(id).min(16 * 1024);
        if len == 0 {
            return;
        }
        peer.mux.send(id, bytes_of(len), false).unwrap();
    }
}

#[test]
fn a_hundred_stalled_readers_hold_little_and_stop_no_live_one() {
    for (from, to) in [(RELAY, AGENT), (AGENT, RELAY)] {
        let mut pair = Pair::connected();
        let stalled: Vec<_> = (0..STALLED).map(|_| pair.session(Mode::Bytes)).collect();
        let live = pair.session(Mode::Bytes);
        let (mut heard, mut held) = (0, 0);
        pair.run("the live session", |peers| {
            while peers[from].mux.poll_writable().is_some() {}
            stalled.iter().for_each(|id| fill(&mut peers[from], *id));
            fill(&mut peers[from], live);
            let peer = &mut peers[to];
            for event in peer.take_events() {
                match event {
                    Event::Data {
                        session, payload, ..
                    } if session == live => {
                        heard += payload.len();
                        peer.mux.consumed(live, payload.len());
                    }
                    Event::Data { payload, .. } => held += payload.len(),
                    _ => {}
                }
            }
            heard >= LIVE_BYTES
        });
        assert_eq!(held, STALLED * SESSION_CREDIT_BYTES as usize);
        // No session was reset for that.
        assert!(
            pair.peers
                .iter()
                .all(|it| it.mux.session_count() == STALLED + 1)
        );
    }
}

#[test]
fn control_frames_and_other_sessions_pass_a_session_whose_stream_is_blocked() {
    const WINDOW: u32 = 2_000;
    // An agent of another make, with small windows, that reads nothing of a session.
    let mut pair = Pair::with(Path::default(), |client| {
        let mut transport = quinn_proto::TransportConfig::default();
        transport.stream_receive_window(VarInt::from_u32(WINDOW));
        client.transport_config(Arc::new(transport));
    });
    let blocked = pair.session(Mode::Bytes);
    let other = pair.session(Mode::Bytes);
    pair.peers[AGENT].is_raw = true;
    for id in [blocked, other] {
        fill(&mut pair.peers[RELAY], id);
    }
    let agent = &mut pair.peers[AGENT];
    let (mut frames, mut heard) = (Vec::new(), 0);
    let control = hostile::control();
    // What the agent may have left unread before the test took over.
    hostile::read(agent.connection(), control, &mut frames);
    frames.clear();
    let moment = pair.moment();
    pair.peers[RELAY].mux.probe(moment);
    pair.run("the ping and the other session", |[_, agent]| {
        hostile::read(agent.connection(), control, &mut frames);
        let mut bytes = Vec::new();
        hostile::read(agent.connection(), hostile::stream_of(other), &mut bytes);
        heard += bytes.len();
        // The type of the stream comes before its bytes; it may have been read before.
        let whole = SESSION_CREDIT_BYTES as usize;
        hostile::kinds(&frames).contains(&tieline_wire::frame::Kind::Ping) && heard >= whole
    });
    assert!(pair.peers[RELAY].mux.is_live(blocked));
}
