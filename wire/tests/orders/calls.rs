//! One end, driven by calls in any order, with a peer that sends anything.

use proptest::prelude::*;
use tieline_wire::frame::{self, Kind};
use tieline_wire::{
    BulkNonce, Generation, GoAway, Granted, LinkEnd, Moment, Mux, Refusal, RefusalReason, Register,
    RegisterAck, SessionEnd, SessionId, TunnelId, Withdrawal,
};

use crate::peers::{give_input, open_message, signed_hello, take_output};

pub(crate) const KINDS: [Kind; 16] = [
    Kind::Data,
    Kind::Credit,
    Kind::CreditReturn,
    Kind::Ping,
    Kind::Pong,
    Kind::Finish,
    Kind::Reset,
    Kind::Hello,
    Kind::Register,
    Kind::RegisterAck,
    Kind::Unregister,
    Kind::Open,
    Kind::Opened,
    Kind::GoAway,
    Kind::BulkOffer,
    Kind::Bulk,
];

/// A call with any arguments, including invalid ones.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Input(Vec<u8>),
    Frame(Kind, u32, Vec<u8>),
    Hello,
    Register,
    RegisterAck(u32),
    Withdraw(u32),
    Open,
    Opened(u32),
    Send(u32, usize, bool),
    Finish(u32),
    Reset(u32),
    Consumed(u32, usize),
    OfferBulk(u32),
    MoveToLane(u32),
    LaneSent(u32, u64),
    LaneEnded(u32, u64),
    GoAway,
    Pass(u64),
    Poll,
}

pub(crate) fn call() -> impl Strategy<Value = Call> {
    let id = || prop_oneof![0_u32..6, any::<u32>()];
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    let payload = prop_oneof![
        bytes(),
        any::<u16>().prop_map(|it| it.to_le_bytes().to_vec()),
        any::<u32>().prop_map(|it| it.to_le_bytes().to_vec()),
        any::<u64>().prop_map(|it| it.to_le_bytes().to_vec()),
        (0_u64..100).prop_map(|it| it.to_le_bytes().to_vec()),
    ];
    prop_oneof![
        1 => bytes().prop_map(Call::Input),
        6 => (prop::sample::select(&KINDS[..]), id(), payload)
            .prop_map(|(kind, id, bytes)| Call::Frame(kind, id, bytes)),
        1 => Just(Call::Hello),
        1 => Just(Call::Register),
        1 => any::<u32>().prop_map(Call::RegisterAck),
        1 => any::<u32>().prop_map(Call::Withdraw),
        3 => Just(Call::Open),
        2 => id().prop_map(Call::Opened),
        4 => (id(), 0..50_000_usize, any::<bool>())
            .prop_map(|(id, len, end)| Call::Send(id, len, end)),
        2 => id().prop_map(Call::Finish),
        2 => id().prop_map(Call::Reset),
        3 => (id(), any::<usize>()).prop_map(|(id, len)| Call::Consumed(id, len)),
        1 => id().prop_map(Call::OfferBulk),
        2 => id().prop_map(Call::MoveToLane),
        1 => (id(), 0..u64::from(u32::MAX)).prop_map(|(id, len)| Call::LaneSent(id, len)),
        2 => (id(), prop_oneof![0..100_u64, any::<u64>()])
            .prop_map(|(id, len)| Call::LaneEnded(id, len)),
        1 => Just(Call::GoAway),
        2 => any::<u64>().prop_map(Call::Pass),
        3 => Just(Call::Poll),
    ]
}

pub(crate) fn make(mux: &mut Mux, now: &mut Moment, call: Call) {
    match call {
        Call::Input(bytes) => {
            let _ = give_input(mux, *now, bytes);
        }
        Call::Frame(kind, id, payload) => {
            let len = u32::try_from(payload.len()).unwrap();
            let mut bytes = frame::encode(kind, SessionId(id), len, false).to_vec();
            bytes.extend(payload);
            let _ = give_input(mux, *now, bytes);
        }
        Call::Hello => mux.hello(&signed_hello()),
        Call::Register => mux.register(&Register::default()),
        Call::RegisterAck(heartbeat_ms) => mux.register_ack(&RegisterAck {
            request: 1,
            outcome: Ok(Granted {
                tunnel: TunnelId::parse("maya").unwrap(),
                urls: Vec::new(),
                generation: Generation(1),
                heartbeat_ms,
                expires_in_s: 0,
            }),
        }),
        Call::Withdraw(request) => mux.withdraw(&Withdrawal {
            request,
            tunnel: TunnelId::parse("maya").unwrap(),
            refusal: Refusal::new(RefusalReason::Kicked, ""),
        }),
        Call::Open => drop(mux.open(&open_message())),
        Call::Opened(id) => mux.opened(SessionId(id)),
        Call::Send(id, len, end) => {
            mux.send_capacity(SessionId(id));
            let _ = mux.send(SessionId(id), vec![0; len].into(), end);
        }
        Call::Finish(id) => mux.finish(SessionId(id)),
        Call::Reset(id) => mux.reset(SessionId(id), SessionEnd::Internal),
        Call::Consumed(id, len) => mux.consumed(SessionId(id), len),
        Call::OfferBulk(id) => mux.offer_bulk(SessionId(id), &BulkNonce::new([7; 16])),
        Call::MoveToLane(id) => drop(mux.move_to_lane(SessionId(id))),
        Call::LaneSent(id, len) => mux.lane_sent(*now, SessionId(id), len),
        Call::LaneEnded(id, len) => drop(mux.lane_ended(SessionId(id), len)),
        Call::GoAway => mux.go_away(&GoAway {
            last_session: 0,
            reason: LinkEnd::ShuttingDown,
            deadline_ms: 0,
            message: String::new(),
        }),
        Call::Pass(micros) => {
            // May go backwards: a driver's clock may be wrong.
            *now = Moment::from_micros(micros);
            let _ = mux.handle_timeout(*now);
        }
        Call::Poll => {
            while mux.poll_writable().is_some() {}
            while mux.poll_bulky().is_some() {}
            take_output(mux, *now);
            let _ = mux.poll_timeout();
        }
    }
}
