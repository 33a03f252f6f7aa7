//! Every table is either refused with a reason or read into a message, and a message that was read
//! can be written and reads the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tieline_wire::frame::{self, Kind};
use tieline_wire::{Event, Mux, RelayHello, SessionId, Settings};
use tieline_wire_fuzz::{START, acquainted, give_input, open_message, strangers, take_output};

const RELAY: usize = 0;
const AGENT: usize = 1;

/// Receiver of each table, the table's kind, and its session.
const READERS: [(usize, Kind, u32); 11] = [
    (RELAY, Kind::Hello, 0),
    (AGENT, Kind::Hello, 0),
    (RELAY, Kind::Register, 0),
    (AGENT, Kind::RegisterAck, 0),
    (RELAY, Kind::Unregister, 0),
    (AGENT, Kind::Open, 2),
    (RELAY, Kind::Opened, 1),
    (AGENT, Kind::GoAway, 0),
    (AGENT, Kind::BulkOffer, 1),
    (AGENT, Kind::Bulk, 1),
    (RELAY, Kind::Lost, 0),
];

fuzz_target!(|data: &[u8]| {
    let Some((selector, payload)) = data.split_first() else {
        return;
    };
    let (reader, kind, session) = READERS[usize::from(*selector) % READERS.len()];
    let Ok(len) = u32::try_from(payload.len()) else {
        return;
    };
    let mut bytes = frame::encode(kind, SessionId(session), len, false).to_vec();
    bytes.extend_from_slice(payload);

    let mut muxes = if kind == Kind::Hello {
        let mut muxes = strangers();
        let preface = take_output(&mut muxes[AGENT], START);
        give_input(&mut muxes[RELAY], START, preface.clone()).expect("an honest peer");
        give_input(&mut muxes[AGENT], START, preface).expect("the same preface");
        muxes
    } else {
        let mut muxes = acquainted();
        muxes[RELAY].open(&open_message()).expect("a new link");
        let open = take_output(&mut muxes[RELAY], START);
        give_input(&mut muxes[AGENT], START, open).expect("an honest peer");
        muxes
    };
    let Ok(events) = give_input(&mut muxes[reader], START, bytes) else {
        return;
    };
    for event in events {
        write_again(&mut muxes, reader, event);
    }
});

fn write_again(muxes: &mut [Mux; 2], reader: usize, event: Event) {
    match &event {
        Event::Register(register) => muxes[AGENT].register(register),
        Event::RegisterAck(ack) => muxes[RELAY].register_ack(ack),
        Event::Withdrawn(withdrawal) => muxes[RELAY].withdraw(withdrawal),
        Event::Unregister(tunnel) => muxes[AGENT].unregister(tunnel),
        Event::Lost(lost) => muxes[AGENT].tell_lost(lost),
        Event::GoAway(away) => muxes[RELAY].go_away(away),
        Event::BulkOffer { session, nonce } => muxes[RELAY].offer_bulk(*session, nonce),
        Event::RelayHello(hello) => return relay_hello_again(hello),
        // An agent's hello would have to be signed again, and an open needs another session.
        _ => return,
    }
    let bytes = take_output(&mut muxes[1 - reader], START);
    let again = give_input(&mut muxes[reader], START, bytes).expect("a read message is valid");
    assert_eq!(again, [event]);
}

fn relay_hello_again(hello: &RelayHello) {
    let [_, mut agent] = strangers();
    let mut relay = Mux::relay(hello.clone(), Settings::default(), START);
    let preface = take_output(&mut agent, START);
    give_input(&mut relay, START, preface).expect("an honest peer");
    let bytes = take_output(&mut relay, START);
    let again = give_input(&mut agent, START, bytes).expect("a read message is valid");
    assert_eq!(again, [Event::RelayHello(hello.clone())]);
}
