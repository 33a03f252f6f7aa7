use super::*;
use crate::limits::{DATA_BYTES_MAX, SESSION_CREDIT_BYTES};
use crate::message::{Bulk, BulkNonce, BulkOffer};

const FLOOR: usize = SESSION_CREDIT_BYTES as usize;

/// What a mux put on the stream of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sent {
    Data(SessionId, Bytes, bool),
    Finish(SessionId, u64),
    Reset(SessionId, SessionEnd),
}

/// What a mux had to send.
#[derive(Default)]
struct Recorded {
    control: Vec<u8>,
    sent: Vec<Sent>,
    takes_no_control: bool,
    /// Sessions whose streams take nothing.
    blocked: Vec<SessionId>,
}

impl Output for Recorded {
    fn takes_control(&self) -> bool {
        !self.takes_no_control
    }

    fn is_full(&self) -> bool {
        false
    }

    fn takes(&self, session: SessionId) -> bool {
        !self.blocked.contains(&session)
    }

    fn control(&mut self, bytes: &[u8]) {
        self.control.extend_from_slice(bytes);
    }

    fn data(&mut self, session: SessionId, payload: Bytes, end_of_message: bool) {
        self.sent.push(Sent::Data(session, payload, end_of_message));
    }

    fn finish(&mut self, session: SessionId, bytes_total: u64) {
        self.sent.push(Sent::Finish(session, bytes_total));
    }

    fn reset(&mut self, session: SessionId, reason: SessionEnd) {
        self.sent.push(Sent::Reset(session, reason));
    }
}

fn output(mux: &mut Mux, now: Moment) -> Recorded {
    let mut out = Recorded::default();
    mux.poll_streams(now, &mut out);
    out
}

/// Gives `mux` what came on the stream of a session.
fn give_sent(mux: &mut Mux, now: Moment, sent: Sent) -> Result<Option<Event>, Error> {
    match sent {
        Sent::Data(id, payload, end) => {
            mux.data_announced(now, id, payload.len(), end)?;
            Ok(mux.data_received(id, payload, end))
        }
        Sent::Finish(id, _) => mux.finish_received(now, id),
        Sent::Reset(id, reason) => mux.reset_received(now, id, reason),
    }
}

/// Gives `mux` what the peer sent, control frames first.
fn give(mux: &mut Mux, now: Moment, out: Recorded) -> Vec<Event> {
    let mut events = give_input(mux, now, out.control).unwrap();
    for sent in out.sent {
        events.extend(give_sent(mux, now, sent).unwrap());
    }
    events
}

/// Moves everything until neither side has anything left.
fn exchange(pair: &mut Pair) {
    let now = pair.now;
    while pair.relay.wants_transmit() || pair.agent.wants_transmit() {
        let to_agent = output(&mut pair.relay, now);
        let to_relay = output(&mut pair.agent, now);
        pair.agent_events
            .extend(give(&mut pair.agent, now, to_agent));
        pair.relay_events
            .extend(give(&mut pair.relay, now, to_relay));
    }
}

fn with(settings: Settings) -> Pair {
    let pair = Pair::unconnected(settings);
    let mut pair = Pair {
        relay: pair.relay.over_streams(),
        agent: pair.agent.over_streams(),
        ..pair
    };
    exchange(&mut pair);
    pair.agent.hello(&signed_hello(&NONCE));
    exchange(&mut pair);
    pair.relay_events.clear();
    pair.agent_events.clear();
    pair
}

fn connected() -> Pair {
    with(Settings::default())
}

fn session(pair: &mut Pair, mode: Mode) -> SessionId {
    let open = Open {
        mode,
        ..open_message()
    };
    let id = pair.relay.open(&open).unwrap();
    exchange(pair);
    pair.agent.opened(id);
    exchange(pair);
    pair.relay_events.clear();
    pair.agent_events.clear();
    id
}

/// Sends `left` bytes to the agent, whose reader takes them at once.
fn stream_to_agent(pair: &mut Pair, id: SessionId, mut left: usize) {
    while left > 0 {
        let len = pair.relay.send_capacity(id).min(left);
        assert!(len > 0, "a reader that takes everything never blocks");
        pair.relay.send(id, vec![1; len].into(), false).unwrap();
        left -= len;
        exchange(pair);
        let len = data_of(&std::mem::take(&mut pair.agent_events), id).len();
        pair.agent.consumed(id, len);
        exchange(pair);
    }
}

#[test]
fn payload_and_ends_leave_the_control_stream_and_credit_stays_there() {
    let mut pair = connected();
    let id = pair.relay.open(&open_message()).unwrap();
    pair.relay.send(id, "question".into(), false).unwrap();
    pair.relay.finish(id);
    let out = output(&mut pair.relay, pair.now);
    assert_eq!(kinds(&out.control), [Kind::Open]);
    let question = Sent::Data(id, "question".into(), false);
    assert_eq!(out.sent, [question, Sent::Finish(id, 8)]);
    give(&mut pair.agent, pair.now, out);
    pair.agent.opened(id);
    let answer = vec![7; FLOOR];
    pair.agent.send(id, answer.clone().into(), false).unwrap();
    let out = output(&mut pair.agent, pair.now);
    assert_eq!(kinds(&out.control), [Kind::Opened]);
    let events = give(&mut pair.relay, pair.now, out);
    assert_eq!(data_of(&events, id), answer);
    pair.relay.consumed(id, FLOOR);
    let out = output(&mut pair.relay, pair.now);
    assert_eq!(kinds(&out.control), [Kind::Credit]);
    give(&mut pair.agent, pair.now, out);
    assert!(pair.agent.send_capacity(id) >= FLOOR);
    pair.agent.finish(id);
    exchange(&mut pair);
    assert_eq!(pair.relay_events, [Event::Finished { session: id }]);
    assert_eq!(
        (pair.relay.session_count(), pair.agent.session_count()),
        (0, 0)
    );
}

#[test]
fn a_byte_costs_one_and_a_piece_of_a_message_twelve_more() {
    let mut pair = connected();
    let bytes = session(&mut pair, Mode::Bytes);
    let messages = session(&mut pair, Mode::Messages);
    assert_eq!(pair.relay.stream_mode(bytes), Some(Mode::Bytes));
    assert_eq!(pair.agent.stream_mode(messages), Some(Mode::Messages));
    assert_eq!(pair.relay.send_capacity(bytes), FLOOR);
    assert_eq!(pair.relay.send_capacity(messages), FLOOR - HEADER_BYTES);
    // The pieces in which bytes arrive are not those in which they were sent.
    for at in 0..FLOOR {
        let sent = Sent::Data(bytes, Bytes::from_static(b"x"), false);
        give_sent(&mut pair.agent, pair.now, sent).unwrap_or_else(|error| panic!("{at}: {error}"));
    }
    for _ in 0..FLOOR / HEADER_BYTES {
        give_sent(
            &mut pair.agent,
            pair.now,
            Sent::Data(messages, Bytes::new(), true),
        )
        .unwrap();
    }
    for (id, payload, end) in [(bytes, "x", false), (messages, "", true)] {
        let sent = Sent::Data(id, payload.into(), end);
        let error = give_sent(&mut pair.agent, pair.now, sent).unwrap_err();
        assert_eq!(error.reason, LinkEnd::CreditOverrun);
    }
}

#[test]
fn a_window_grows_and_an_idle_sender_returns_it() {
    let mut pair = connected();
    let id = session(&mut pair, Mode::Bytes);
    stream_to_agent(&mut pair, id, 5_000_000);
    assert_eq!(pair.agent.counters().bytes_received, 5_000_000);
    assert!(pair.relay.send_capacity(id) > FLOOR);
    pair.now = pair.now + millis(1100);
    pair.handle_timeouts();
    exchange(&mut pair);
    assert_eq!(pair.relay.send_capacity(id), FLOOR);
    assert_eq!(pair.agent.budget.used(), 0);
}

#[test]
fn a_return_that_the_end_of_its_direction_overtook_is_dropped() {
    let mut pair = connected();
    let id = session(&mut pair, Mode::Bytes);
    stream_to_agent(&mut pair, id, 5_000_000);
    pair.now = pair.now + millis(1100);
    pair.relay.handle_timeout(pair.now).unwrap();
    pair.relay.finish(id);
    let out = output(&mut pair.relay, pair.now);
    assert!(kinds(&out.control).contains(&Kind::CreditReturn));
    for sent in out.sent {
        give_sent(&mut pair.agent, pair.now, sent).unwrap();
    }
    give_input(&mut pair.agent, pair.now, out.control).unwrap();
    assert_eq!(pair.agent.counters().frames_dropped, 1);
    assert_eq!(pair.agent.budget.used(), 0);
}

#[test]
fn what_a_stream_brings_waits_for_the_control_stream() {
    let mut pair = connected();
    let id = pair.relay.open(&open_message()).unwrap();
    assert_eq!(pair.agent.intake(id), Intake::Unopened);
    assert_eq!(pair.relay.intake(id), Intake::Unanswered);
    exchange(&mut pair);
    assert_eq!(pair.agent.intake(id), Intake::Open);
    pair.agent.opened(id);
    assert_eq!(pair.relay.intake(id), Intake::Unanswered);
    exchange(&mut pair);
    assert_eq!(pair.relay.intake(id), Intake::Open);
    pair.relay.reset(id, SessionEnd::Cancelled);
    assert_eq!(pair.relay.intake(id), Intake::Over);
    exchange(&mut pair);
    assert_eq!(pair.relay.intake(id), Intake::Over);
    assert_eq!(pair.agent.intake(id), Intake::Over);
}

#[test]
fn a_reset_needs_no_answer_before_it_and_says_why() {
    let mut pair = connected();
    let id = pair.relay.open(&open_message()).unwrap();
    exchange(&mut pair);
    pair.agent.reset(id, SessionEnd::TargetRefused);
    exchange(&mut pair);
    let reset = Event::Reset {
        session: id,
        reason: SessionEnd::TargetRefused,
    };
    assert_eq!(pair.relay_events, [reset]);
    assert_eq!(
        (pair.relay.session_count(), pair.agent.session_count()),
        (0, 0)
    );
}

#[test]
fn frames_of_a_session_on_the_control_stream_end_the_link() {
    let offer = raw_message(Kind::BulkOffer, 1, &BulkOffer(&BulkNonce::new([9; 16])));
    let bulk = raw_message(Kind::Bulk, 1, &Bulk { bytes_total: 0 });
    for frame in [
        raw(Kind::Data, 1, b"x"),
        raw(Kind::Finish, 1, &[0; 8]),
        raw(Kind::Reset, 1, &[70, 0]),
        offer,
        bulk,
    ] {
        let mut pair = connected();
        session(&mut pair, Mode::Bytes);
        for mux in [&mut pair.relay, &mut pair.agent] {
            let error = give_input(mux, pair.now, frame.clone()).unwrap_err();
            assert_eq!(error.reason, LinkEnd::Protocol);
            assert!(error.detail.ends_with("on the control stream"), "{error}");
        }
    }
}

#[test]
fn what_breaks_a_rule_on_a_stream_ends_the_link() {
    let mut pair = connected();
    let id = session(&mut pair, Mode::Messages);
    let (now, agent) = (pair.now, &mut pair.agent);
    let long = agent.data_announced(now, id, DATA_BYTES_MAX as usize + 1, false);
    assert_eq!(long.unwrap_err().reason, LinkEnd::FrameTooLong);
    for sent in [
        Sent::Data(SessionId(9), "x".into(), false),
        Sent::Finish(SessionId(9), 0),
        Sent::Reset(SessionId(9), SessionEnd::Internal),
    ] {
        let error = give_sent(agent, now, sent).unwrap_err();
        assert_eq!(error.reason, LinkEnd::UnknownSession);
    }
    give_sent(agent, now, Sent::Finish(id, 0)).unwrap();
    for sent in [Sent::Finish(id, 0), Sent::Data(id, "x".into(), false)] {
        let error = give_sent(agent, now, sent).unwrap_err();
        assert_eq!(error.reason, LinkEnd::Protocol);
    }
}

#[test]
fn a_session_whose_stream_takes_nothing_stops_no_other_and_goes_on_later() {
    let mut pair = connected();
    let blocked = session(&mut pair, Mode::Bytes);
    let live = session(&mut pair, Mode::Bytes);
    for id in [blocked, live] {
        pair.relay.send(id, "some".into(), false).unwrap();
        pair.relay.finish(id);
    }
    let mut out = Recorded {
        blocked: vec![blocked],
        ..Recorded::default()
    };
    pair.relay.poll_streams(pair.now, &mut out);
    let some = |id| Sent::Data(id, "some".into(), false);
    assert_eq!(out.sent, [some(live), Sent::Finish(live, 4)]);
    assert!(!pair.relay.wants_transmit(), "the rest waits for `resume`");
    pair.relay.resume(blocked);
    let out = output(&mut pair.relay, pair.now);
    assert_eq!(out.sent, [some(blocked), Sent::Finish(blocked, 4)]);
    // Neither a session with nothing to send nor one that is over gets a turn.
    for id in [blocked, live, SessionId(99)] {
        pair.relay.resume(id);
    }
    assert!(!pair.relay.wants_transmit());
}

#[test]
fn control_frames_wait_while_their_stream_takes_none() {
    let mut pair = connected();
    let id = session(&mut pair, Mode::Bytes);
    pair.relay.send(id, "some".into(), false).unwrap();
    pair.relay.open(&open_message()).unwrap();
    let mut out = Recorded {
        takes_no_control: true,
        ..Recorded::default()
    };
    pair.relay.poll_streams(pair.now, &mut out);
    assert_eq!(out.sent, [Sent::Data(id, "some".into(), false)]);
    assert!(out.control.is_empty() && pair.relay.wants_transmit());
    let out = output(&mut pair.relay, pair.now);
    assert_eq!(kinds(&out.control), [Kind::Open]);
}

#[test]
fn there_are_no_lanes_and_no_ping_proves_what_arrived() {
    let settings = Settings {
        bulk_run_bytes: 1,
        ..Settings::default()
    };
    let mut pair = with(settings);
    let id = session(&mut pair, Mode::Bytes);
    stream_to_agent(&mut pair, id, 200_000);
    assert_eq!(pair.relay.poll_bulky(), None);
    pair.relay.offer_bulk(id, &BulkNonce::new([9; 16]));
    assert!(!pair.relay.wants_transmit() && !pair.relay.move_to_lane(id));
    pair.now = pair.now + Duration::from_secs(15);
    pair.handle_timeouts();
    exchange(&mut pair);
    assert!(!pair.relay.has_arrived(id));
}
