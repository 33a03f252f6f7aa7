//! Bytes and messages of sessions, both ways.

use std::collections::{BTreeMap, VecDeque};

use aws_lc_rs::digest::{Context, SHA256};

use super::*;

/// An agent whose target returns what it is sent, and ends when its caller has.
#[derive(Default)]
struct Echo {
    sessions: BTreeMap<SessionId, Echoed>,
}

#[derive(Default)]
struct Echoed {
    waiting: VecDeque<Bytes>,
    is_finished: bool,
}

impl Echo {
    fn turn(&mut self, agent: &mut Peer) {
        for event in agent.take_events() {
            match event {
                Event::Open { session, .. } => {
                    self.sessions.insert(session, Echoed::default());
                    agent.mux.opened(session);
                }
                Event::Data {
                    session, payload, ..
                } => {
                    let session = self.sessions.get_mut(&session).unwrap();
                    session.waiting.push_back(payload);
                }
                Event::Finished { session } => {
                    self.sessions.get_mut(&session).unwrap().is_finished = true;
                }
                _ => {}
            }
        }
        while agent.mux.poll_writable().is_some() {}
        let mux = &mut agent.mux;
        self.sessions.retain(|id, echoed| {
            while let Some(next) = echoed.waiting.front_mut() {
                let len = mux.send_capacity(*id).min(next.len());
                if len == 0 {
                    return true;
                }
                mux.send(*id, next.split_to(len), false).unwrap();
                mux.consumed(*id, len);
                if next.is_empty() {
                    echoed.waiting.pop_front();
                }
            }
            if echoed.is_finished {
                mux.finish(*id);
            }
            !echoed.is_finished
        });
    }
}

/// A caller that sends `rest`, and sums up what comes back.
struct Caller {
    rest: Bytes,
    sent: Context,
    heard: Context,
    is_finished: bool,
    is_done: bool,
}

impl Caller {
    fn new(id: SessionId, len: usize) -> Self {
        // Each session's bytes are others.
        let from = id.0 as usize;
        Self {
            rest: bytes_of(from + len).slice(from..),
            sent: Context::new(&SHA256),
            heard: Context::new(&SHA256),
            is_finished: false,
            is_done: false,
        }
    }

    fn write(&mut self, mux: &mut Mux, id: SessionId) {
        while !self.rest.is_empty() {
            let len = mux.send_capacity(id).min(self.rest.len());
            if len == 0 {
                return;
            }
            let piece = self.rest.split_to(len);
            self.sent.update(&piece);
            mux.send(id, piece, false).unwrap();
        }
        if !std::mem::replace(&mut self.is_finished, true) {
            mux.finish(id);
        }
    }
}

fn call(relay: &mut Peer, callers: &mut BTreeMap<SessionId, Caller>) -> bool {
    for event in relay.take_events() {
        match event {
            Event::Data {
                session, payload, ..
            } => {
                callers.get_mut(&session).unwrap().heard.update(&payload);
                relay.mux.consumed(session, payload.len());
            }
            Event::Finished { session } => callers.get_mut(&session).unwrap().is_done = true,
            Event::Opened { .. } => {}
            event => panic!("{event:?}"),
        }
    }
    while relay.mux.poll_writable().is_some() {}
    for (id, caller) in callers.iter_mut() {
        caller.write(&mut relay.mux, *id);
    }
    callers.values().all(|caller| caller.is_done)
}

fn echoed(path: Path, sizes: impl Iterator<Item = usize>) -> Pair {
    let mut pair = Pair::on(path);
    let mut callers = BTreeMap::new();
    for size in sizes {
        let opened = pair.peers[RELAY].mux.open(&open_message(Mode::Bytes));
        let id = opened.unwrap();
        callers.insert(id, Caller::new(id, size));
    }
    let mut echo = Echo::default();
    pair.run("the echo", |[relay, agent]| {
        echo.turn(agent);
        call(relay, &mut callers)
    });
    for (id, caller) in callers {
        let [sent, heard] = [caller.sent, caller.heard].map(|it| it.finish());
        assert_eq!(sent.as_ref(), heard.as_ref(), "session {id}");
    }
    for peer in &pair.peers {
        assert_eq!(peer.mux.session_count(), 0);
    }
    pair
}

#[test]
fn several_sessions_echo_at_a_time_whatever_happens_to_datagrams() {
    for seed in 0..10 {
        println!("seed {seed}");
        echoed(Path::bad(seed), (0..20).map(|it| it * it * 200));
    }
}

#[test]
fn a_large_transfer_opens_the_windows_and_arrives_whole() {
    let pair = echoed(Path::default(), [4_000_000].into_iter());
    let relay = pair.peers[RELAY].mux.counters();
    assert_eq!(
        (relay.bytes_sent, relay.bytes_received),
        (4_000_000, 4_000_000)
    );
}

#[test]
fn an_agent_allows_more_streams_as_they_are_used() {
    let sessions = 3 * super::super::config::STREAMS_AT_FIRST as usize;
    echoed(Path::default(), std::iter::repeat_n(100, sessions));
}

#[test]
fn a_target_may_speak_first() {
    let mut pair = Pair::on(Path::bad(3));
    let id = pair.session(Mode::Bytes);
    pair.peers[AGENT]
        .mux
        .send(id, "220 ready".into(), false)
        .unwrap();
    let mut heard = Vec::new();
    pair.run("the banner", |[relay, _]| {
        heard.extend(data_of(&relay.take_events(), id));
        heard == b"220 ready"
    });
}

#[test]
fn each_direction_finishes_alone() {
    for (first, second) in [(RELAY, AGENT), (AGENT, RELAY)] {
        let mut pair = Pair::connected();
        let id = pair.session(Mode::Bytes);
        let finished = Event::Finished { session: id };
        for (from, to) in [(first, second), (second, first)] {
            pair.peers[from].mux.send(id, "some".into(), false).unwrap();
            pair.peers[from].mux.finish(id);
            pair.run("the end", |peers| peers[to].events.contains(&finished));
            assert_eq!(data_of(&pair.peers[to].take_events(), id), b"some");
        }
        assert!(pair.peers.iter().all(|it| it.mux.session_count() == 0));
    }
}

#[test]
fn messages_keep_their_borders() {
    let mut pair = Pair::on(Path::bad(5));
    let id = pair.session(Mode::Messages);
    let sizes = [0, 1, 62, 63, 64, 5_000, 0, 70_000, 8_191, 8_192, 1, 0];
    let (mut next, mut left) = (0, sizes[0]);
    let (mut seen, mut len) = (Vec::new(), 0);
    pair.run("the messages", |[relay, agent]| {
        while relay.mux.poll_writable().is_some() {}
        while next < sizes.len() {
            let part = left.min(relay.mux.send_capacity(id));
            let is_last = part == left;
            if relay.mux.send(id, bytes_of(part), is_last).is_err() || part == 0 && !is_last {
                break;
            }
            left -= part;
            if is_last {
                next += 1;
                left = sizes.get(next).copied().unwrap_or_default();
            }
        }
        for event in agent.take_events() {
            if let Event::Data {
                payload,
                end_of_message,
                ..
            } = event
            {
                agent.mux.consumed(id, payload.len());
                len += payload.len();
                if end_of_message {
                    seen.push(std::mem::take(&mut len));
                }
            }
        }
        seen.len() == sizes.len()
    });
    assert_eq!(seen, sizes);
}
