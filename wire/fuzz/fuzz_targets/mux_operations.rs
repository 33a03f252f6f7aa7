//! Any script of operations: a hostile peer causes no panic; between honest ends no error is reported,
//! and the bytes that come out are a prefix of the bytes that went in.
#![no_main]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tieline_wire::{BulkNonce, Event, GoAway, Moment, Mux, Reason, SessionId};
use tieline_wire_fuzz::{
    HELLO, START, Script, acquainted, give_input, open_message, strangers, take_output,
};

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    match script.byte() % 5 {
        0 => hostile(acquainted().into_iter().next(), script),
        1 => hostile(acquainted().into_iter().last(), script),
        2 => hostile(strangers().into_iter().next(), script),
        3 => hostile(strangers().into_iter().last(), script),
        _ => honest(script),
    }
});

/// Makes one call of a driver; `None` if the operation is not such a call.
fn call(mux: &mut Mux, operation: u8, script: &mut Script<'_>) -> Option<()> {
    let id = SessionId(u32::from(script.byte() % 16));
    match operation {
        0 => drop(mux.open(&open_message())),
        1 => mux.opened(id),
        2 => mux.finish(id),
        3 => mux.reset(id, Reason::from_code(u16::from(script.byte()))),
        4 => while mux.poll_writable().is_some() {},
        6 => mux.offer_bulk(id, &BulkNonce::new([script.byte(); 16])),
        7 => while mux.poll_bulky().is_some() {},
        5 => mux.go_away(&GoAway {
            last_session: mux.last_session(),
            reason: Reason::ShuttingDown,
            deadline_ms: script.number(),
            message: String::new(),
        }),
        _ => return None,
    }
    Some(())
}

fn hostile(mux: Option<Mux>, mut script: Script<'_>) {
    let Some(mut mux) = mux else {
        return;
    };
    let mut now = START;
    while !script.is_empty() {
        let operation = script.byte() % 17;
        if call(&mut mux, operation, &mut script).is_some() {
            continue;
        }
        let id = SessionId(u32::from(script.byte() % 16));
        match operation {
            8 => mux.consumed(id, script.number() as usize),
            9 => {
                let len = script.number() as usize % 100_000;
                let _ = mux.send(id, vec![0; len].into(), script.byte() % 2 == 0);
                mux.send_capacity(id);
            }
            10 => {
                now = now + Duration::from_micros(u64::from(script.number()));
                let _ = mux.handle_timeout(now);
            }
            11 => drop(take_output(&mut mux, now)),
            12 => mux.hello(&HELLO),
            13 => drop(mux.move_to_lane(id)),
            14 => mux.lane_sent(id, u64::from(script.number())),
            15 => drop(mux.lane_ended(id, u64::from(script.number()))),
            _ => {
                let len = usize::from(script.byte()) + 1;
                let _ = give_input(&mut mux, now, script.bytes(len).to_vec());
            }
        }
    }
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

fn honest(mut script: Script<'_>) {
    let mut muxes = acquainted();
    let mut wires = [VecDeque::new(), VecDeque::new()];
    let mut streams = Streams::new();
    let mut now = START;
    while !script.is_empty() {
        let operation = script.byte();
        let side = usize::from(operation >> 7);
        let operation = operation % 13;
        if operation == 5 || call(&mut muxes[side], operation, &mut script).is_some() {
            continue;
        }
        let id = SessionId(u32::from(script.byte() % 16));
        match operation {
            8 => {
                let stream = streams.entry((1 - side, id)).or_default();
                let len = u64::from(script.number()).min(stream.received - stream.consumed);
                stream.consumed += len;
                muxes[side].consumed(id, usize::try_from(len).expect("small"));
            }
            9 => {
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
            10 => {
                // Slow enough that no silence of the script makes the link stale.
                now = now + Duration::from_micros(u64::from(script.number() % 20_000));
                muxes[side].handle_timeout(now).expect("not stale");
            }
            11 => wires[side].extend(take_output(&mut muxes[side], now)),
            _ => {
                let len = wires[1 - side]
                    .len()
                    .min(script.number() as usize % 300_000);
                let bytes: Vec<u8> = wires[1 - side].drain(..len).collect();
                deliver(&mut muxes[side], side, now, bytes, &mut streams);
            }
        }
    }
}

fn deliver(mux: &mut Mux, side: usize, now: Moment, bytes: Vec<u8>, streams: &mut Streams) {
    for event in give_input(mux, now, bytes).expect("an honest peer") {
        match event {
            Event::Data {
                session, payload, ..
            } => {
                let stream = streams.entry((1 - side, session)).or_default();
                assert_eq!(payload, content(stream.received, payload.len() as u64));
                stream.received += payload.len() as u64;
            }
            Event::Finished { session } => {
                let stream = streams.entry((1 - side, session)).or_default();
                assert_eq!(stream.received, stream.sent);
            }
            _ => {}
        }
    }
}
