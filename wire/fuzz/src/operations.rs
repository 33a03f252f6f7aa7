//! Scripts of `mux_operations`: the numbers of their operations, their interpreter, and what a run of one came to.
//!
//! The seeds are written with the same numbers, so that they stay scripts of this interpreter.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tieline_wire::{BulkNonce, Event, GoAway, LinkEnd, Moment, Mux, SessionEnd, SessionId};

use crate::{HELLO, START, Script, acquainted, give_input, open_message, strangers, take_output};

/// First byte of a script: the relay's mux after the handshake, with a hostile peer.
pub const HOSTILE_TO_RELAY: u8 = 0;
/// First byte of a script: the agent's mux after the handshake, with a hostile peer.
pub const HOSTILE_TO_AGENT: u8 = 1;
/// First byte of a script: the relay's mux before the handshake, with a hostile peer.
pub const STRANGER_TO_RELAY: u8 = 2;
/// First byte of a script: the agent's mux before the handshake, with a hostile peer.
pub const STRANGER_TO_AGENT: u8 = 3;
/// First byte of a script: both ends of a link after the handshake.
pub const HONEST: u8 = 4;
const MODES: u8 = 5;

// Operations of all scripts. Each is its number, the number of a session, and its arguments.
pub const OPEN: u8 = 0;
pub const OPENED: u8 = 1;
pub const FINISH: u8 = 2;
pub const RESET: u8 = 3;
pub const POLL_WRITABLE: u8 = 4;
/// Not in honest scripts, whose sessions stay open.
pub const GO_AWAY: u8 = 5;
pub const OFFER_BULK: u8 = 6;
pub const POLL_BULKY: u8 = 7;
pub const CONSUMED: u8 = 8;
pub const SEND: u8 = 9;
pub const TIMEOUT: u8 = 10;
pub const OUTPUT: u8 = 11;

// Further operations of honest scripts.
/// Passes bytes of the other end's output on.
pub const DELIVER: u8 = 12;
const HONEST_OPERATIONS: u8 = 13;

// Further operations of hostile scripts.
pub const SAY_HELLO: u8 = 12;
pub const MOVE_TO_LANE: u8 = 13;
pub const LANE_SENT: u8 = 14;
pub const LANE_ENDED: u8 = 15;
/// Gives the mux the bytes that follow.
pub const INPUT: u8 = 16;
const HOSTILE_OPERATIONS: u8 = 17;

/// Bit of an honest operation's number that is set if the agent's end makes the call.
const AGENT_BIT: u32 = 7;
/// Added to an operation's number for the agent's end: a multiple of their count that sets [`AGENT_BIT`].
const AT_AGENT: u8 = 10 * HONEST_OPERATIONS;

/// The number of an operation in an honest script, at the end `side`: 0 for the relay, 1 for the agent.
pub const fn at(side: usize, operation: u8) -> u8 {
    match side {
        0 => operation,
        _ => operation + AT_AGENT,
    }
}

/// What a script came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Events that the muxes reported.
    pub events: usize,
    /// Bytes of sessions among these events.
    pub bytes: usize,
    /// Inputs that a mux refused.
    pub errors: usize,
}

impl Outcome {
    fn note(&mut self, event: &Event) {
        self.events += 1;
        if let Event::Data { payload, .. } = event {
            self.bytes += payload.len();
        }
    }
}

/// Runs any script: a hostile peer causes no panic; between honest ends no error is reported, and the bytes that
/// come out are a prefix of the bytes that went in.
pub fn run(data: &[u8]) -> Outcome {
    let mut script = Script(data);
    let mode = script.byte() % MODES;
    let [relay, agent] = match mode {
        STRANGER_TO_RELAY | STRANGER_TO_AGENT => strangers(),
        _ => acquainted(),
    };
    match mode {
        HOSTILE_TO_RELAY | STRANGER_TO_RELAY => hostile(relay, script),
        HOSTILE_TO_AGENT | STRANGER_TO_AGENT => hostile(agent, script),
        _ => honest([relay, agent], script),
    }
}

/// Makes one call of a driver; `None` if the operation is not such a call.
fn call(mux: &mut Mux, operation: u8, id: SessionId, script: &mut Script<'_>) -> Option<()> {
    match operation {
        OPEN => drop(mux.open(&open_message())),
        OPENED => mux.opened(id),
        FINISH => mux.finish(id),
        RESET => mux.reset(id, SessionEnd::from_code(u16::from(script.byte()))),
        POLL_WRITABLE => while mux.poll_writable().is_some() {},
        GO_AWAY => mux.go_away(&GoAway {
            last_session: mux.last_session(),
            reason: LinkEnd::ShuttingDown,
            deadline_ms: script.number(),
            message: String::new(),
        }),
        OFFER_BULK => mux.offer_bulk(id, &BulkNonce::new([script.byte(); 16])),
        POLL_BULKY => while mux.poll_bulky().is_some() {},
        _ => return None,
    }
    Some(())
}

fn session(script: &mut Script<'_>) -> SessionId {
    SessionId(u32::from(script.byte() % 16))
}

fn hostile(mut mux: Mux, mut script: Script<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut now = START;
    while !script.is_empty() {
        let operation = script.byte() % HOSTILE_OPERATIONS;
        let id = session(&mut script);
        if call(&mut mux, operation, id, &mut script).is_some() {
            continue;
        }
        match operation {
            CONSUMED => mux.consumed(id, script.number() as usize),
            SEND => {
                let len = script.number() as usize % 100_000;
                let _ = mux.send(id, vec![0; len].into(), script.byte().is_multiple_of(2));
                mux.send_capacity(id);
            }
            TIMEOUT => {
                now = now + Duration::from_micros(u64::from(script.number()));
                let _ = mux.handle_timeout(now);
            }
            OUTPUT => drop(take_output(&mut mux, now)),
            SAY_HELLO => mux.hello(&HELLO),
            MOVE_TO_LANE => drop(mux.move_to_lane(id)),
            LANE_SENT => mux.lane_sent(now, id, u64::from(script.number())),
            LANE_ENDED => drop(mux.lane_ended(id, u64::from(script.number()))),
            _ => {
                let len = usize::from(script.byte()) + 1;
                match give_input(&mut mux, now, script.bytes(len).to_vec()) {
                    Ok(events) => events.iter().for_each(|event| outcome.note(event)),
                    Err(_) => outcome.errors += 1,
                }
            }
        }
    }
    outcome
}

#[derive(Default)]
struct Stream {
    sent: u64,
    received: u64,
    consumed: u64,
}

/// Streams by the end that sends, and by session.
type Streams = BTreeMap<(usize, SessionId), Stream>;

fn content(offset: u64, len: u64) -> Vec<u8> {
    (offset..offset + len)
        .map(|at| at.to_le_bytes()[0])
        .collect()
}

fn honest(mut muxes: [Mux; 2], mut script: Script<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut wires = [VecDeque::new(), VecDeque::new()];
    let mut streams = Streams::new();
    let mut now = START;
    while !script.is_empty() {
        let number = script.byte();
        let (side, operation) = (usize::from(number >> AGENT_BIT), number % HONEST_OPERATIONS);
        let id = session(&mut script);
        if operation == GO_AWAY || call(&mut muxes[side], operation, id, &mut script).is_some() {
            continue;
        }
        match operation {
            CONSUMED => {
                let stream = streams.entry((1 - side, id)).or_default();
                let len = u64::from(script.number()).min(stream.received - stream.consumed);
                stream.consumed += len;
                muxes[side].consumed(id, usize::try_from(len).expect("small"));
            }
            SEND => {
                let most = u64::from(script.number() % 400_000);
                let len = most.min(muxes[side].send_capacity(id) as u64);
                let stream = streams.entry((side, id)).or_default();
                let bytes = content(stream.sent, len);
                if muxes[side].send(id, bytes.into(), false).is_ok() {
                    stream.sent += len;
                } else {
                    assert_eq!(len, 0, "bytes within capacity are taken");
                }
            }
            TIMEOUT => {
                // Slow enough that no silence of the script makes the link stale.
                now = now + Duration::from_micros(u64::from(script.number() % 20_000));
                muxes[side].handle_timeout(now).expect("not stale");
            }
            OUTPUT => wires[side].extend(take_output(&mut muxes[side], now)),
            _ => {
                let len = wires[1 - side]
                    .len()
                    .min(script.number() as usize % 300_000);
                let bytes: Vec<u8> = wires[1 - side].drain(..len).collect();
                for event in deliver(&mut muxes[side], side, now, bytes, &mut streams) {
                    outcome.note(&event);
                }
            }
        }
    }
    outcome
}

fn deliver(
    mux: &mut Mux,
    side: usize,
    now: Moment,
    bytes: Vec<u8>,
    streams: &mut Streams,
) -> Vec<Event> {
    let events = give_input(mux, now, bytes).expect("an honest peer");
    for event in &events {
        match event {
            Event::Data {
                session, payload, ..
            } => {
                let stream = streams.entry((1 - side, *session)).or_default();
                assert_eq!(*payload, content(stream.received, payload.len() as u64));
                stream.received += payload.len() as u64;
            }
            Event::Finished { session } => {
                let stream = streams.entry((1 - side, *session)).or_default();
                assert_eq!(stream.received, stream.sent);
            }
            _ => {}
        }
    }
    events
}
