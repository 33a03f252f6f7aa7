//! Two muxes whose sessions have streams of their own: each stream keeps its order, and all overtake each other and the
//! control frames; streams block and go on; only so many may be open at a time.
//!
//! Every run follows from its seed. `SEED=n` replays one, `SIM_SEEDS=n` runs that many.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod peers;
mod simulated;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use peers::{NONCE, open_message};
use simulated::Random;
use simulated::end::{End, Flow};
use simulated::ways::{Item, Ways};
use tieline_wire::{
    Event, Intake, Mode, Moment, Mux, Open, OpenError, RelayHello, SessionId, Settings,
    SharedBudget, limits,
};

/// Longest time without progress while every reader reads; after it a session counts as stalled.
const STALL: Duration = Duration::from_secs(60);

struct World {
    now: Moment,
    random: Random,
    /// The relay's end, then the agent's.
    ends: [End; 2],
    /// The ways from the relay, then the ways from the agent.
    ways: [Ways; 2],
    budgets: [Arc<SharedBudget>; 2],
    settings: Settings,
    sessions_to_open: u64,
    opens_at: Moment,
    /// Most streams that may be open at a time.
    streams_max: usize,
    /// Number of streams that the relay has opened.
    streams: u32,
    /// Progress of all sessions together, and when it last changed.
    progress: (u64, Moment),
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let delay = Duration::from_millis(random.pick(&[0, 1, 20, 100]));
        let settings = Settings {
            budget_bytes: random.pick(&[0, 100_000, 1_000_000, 64_000_000]),
            sessions_max: u32::try_from(1 + random.below(20)).unwrap(),
            ..Settings::default()
        };
        let now = Moment::from_micros(random.below(1 << 40));
        let budgets = [(); 2].map(|()| Arc::new(SharedBudget::default()));
        let hello = RelayHello::new(NONCE, settings.sessions_max);
        let mut relay = Mux::relay(hello, settings, now).over_streams();
        let mut agent = Mux::agent(settings, now).over_streams();
        relay.share_budget(Arc::clone(&budgets[0]));
        agent.share_budget(Arc::clone(&budgets[1]));
        Self {
            now,
            ends: [End::new(relay, true), End::new(agent, false)],
            ways: [Ways::new(delay), Ways::new(delay)],
            budgets,
            settings,
            sessions_to_open: 1 + random.below(30),
            opens_at: now,
            streams_max: usize::try_from(1 + random.below(20)).unwrap(),
            streams: 0,
            progress: (0, now),
            random,
        }
    }

    /// Gives `end` everything that has arrived and may be taken; true if that was anything.
    fn deliver(&mut self, end: usize) -> bool {
        let mut moved = false;
        while self.ways[1 - end].control.arrived(self.now).is_some() {
            let mut bytes = self.ways[1 - end].control.take().unwrap();
            moved = true;
            while !bytes.is_empty() {
                let whole = bytes.len() as u64;
                let most = self.random.pick(&[1 + whole / 3, whole]).min(whole);
                self.control(end, bytes.split_to(usize::try_from(most).unwrap()));
            }
        }
        let ids: Vec<_> = self.ways[1 - end].sessions.keys().copied().collect();
        for id in ids {
            while self.deliver_one(end, id) {
                moved = true;
            }
        }
        moved
    }

    fn control(&mut self, end: usize, mut input: Bytes) {
        let at = &mut self.ends[end];
        while let Some(event) = at.mux.handle_input(self.now, &mut input).unwrap() {
            at.event(event, self.now, &mut self.random);
        }
    }

    /// Gives `end` the next item of a session's stream, if it may be taken.
    fn deliver_one(&mut self, end: usize, id: SessionId) -> bool {
        let now = self.now;
        let way = self.ways[1 - end].sessions.get_mut(&id).unwrap();
        let Some(next) = way.arrived(now) else {
            return false;
        };
        let is_start = matches!(next, Item::Start);
        let at = &mut self.ends[end];
        match at.mux.intake(id) {
            _ if is_start => {
                way.take();
                // The agent may write to the stream once it knows it.
                if end == 1 {
                    self.ways[1].start(id, now, &mut self.random);
                    at.mux.resume(id);
                }
                return true;
            }
            Intake::Unopened => return false,
            Intake::Unanswered => match way.last_arrived(now) {
                Some(Item::Reset(reason)) => {
                    let event = at.mux.reset_received(now, id, *reason).unwrap();
                    way.clear();
                    event
                        .into_iter()
                        .for_each(|event| at.event(event, now, &mut self.random));
                    return true;
                }
                _ => return false,
            },
            Intake::Over | Intake::Open => {}
        }
        let item = way.take().unwrap();
        self.take(end, id, item);
        true
    }

    fn take(&mut self, end: usize, id: SessionId, item: Item) {
        let (now, at) = (self.now, &mut self.ends[end]);
        let mut events = Vec::new();
        match item {
            // The bytes of a session that is over are not even charged.
            Item::Data(..) if at.mux.intake(id) == Intake::Over => {}
            Item::Data(payload, end_of_message) => {
                let is_framed = at.mux.stream_mode(id) == Some(Mode::Messages);
                events = self.pieces(end, id, payload, is_framed && end_of_message, is_framed);
            }
            Item::Finish => events.extend(at.mux.finish_received(now, id).unwrap()),
            Item::Reset(reason) => {
                events.extend(at.mux.reset_received(now, id, reason).unwrap());
            }
            Item::Start => unreachable!("the beginning of a stream was taken before"),
        }
        for event in events {
            self.ends[end].event(event, now, &mut self.random);
        }
    }

    /// Hands a piece in, in parts of any size; without borders of its own, each part is charged alone.
    fn pieces(
        &mut self,
        end: usize,
        id: SessionId,
        mut payload: Bytes,
        end_of_message: bool,
        is_framed: bool,
    ) -> Vec<Event> {
        let (now, mux) = (self.now, &mut self.ends[end].mux);
        if is_framed {
            mux.data_announced(now, id, payload.len(), end_of_message)
                .unwrap();
        }
        let mut events = Vec::new();
        loop {
            let whole = payload.len();
            let most = self.random.pick(&[1 + whole / 4, whole]).min(whole);
            let part = payload.split_to(most);
            if !is_framed {
                mux.data_announced(now, id, part.len(), false).unwrap();
            }
            let is_last = payload.is_empty();
            events.extend(mux.data_received(id, part, end_of_message && is_last));
            if is_last {
                return events;
            }
        }
    }

    fn open_sessions(&mut self) {
        let relay = &mut self.ends[0];
        if !relay.mux.is_established() {
            return;
        }
        while self.sessions_to_open > 0 && self.opens_at <= self.now {
            let mode = self.random.pick(&[Mode::Bytes, Mode::Messages]);
            let open = Open {
                mode,
                ..open_message()
            };
            let id = match relay.mux.open(&open) {
                Ok(id) => id,
                Err(OpenError::Full) => return,
                Err(error) => panic!("{error}"),
            };
            self.sessions_to_open -= 1;
            self.opens_at = self.now + self.random.millis(200);
            let stream = relay.stream_of(id);
            let flow = Flow::new(&mut self.random, stream, self.now);
            relay.flows.insert(id, flow);
            relay.write(id, &mut self.random);
        }
    }

    /// Opens the streams of new sessions, in order, as far as the limit allows.
    fn open_streams(&mut self) {
        while self.streams < self.ends[0].mux.last_session() {
            let is_open = |id: &u32| self.ends.iter().any(|end| end.mux.is_live(SessionId(*id)));
            if (1..=self.streams).filter(is_open).count() >= self.streams_max {
                return;
            }
            self.streams += 1;
            let id = SessionId(self.streams);
            self.ways[0].start(id, self.now, &mut self.random);
            self.ends[0].mux.resume(id);
        }
    }

    /// Does everything that is due now.
    fn turn(&mut self) {
        loop {
            let mut moved = false;
            for end in 0..2 {
                moved |= self.deliver(end);
                let at = &mut self.ends[end];
                if at.mux.poll_timeout() <= self.now {
                    at.mux.handle_timeout(self.now).unwrap();
                }
            }
            self.open_sessions();
            self.open_streams();
            for end in 0..2 {
                let (at, ways) = (&mut self.ends[end], &mut self.ways[end]);
                moved |= at.act(self.now);
                ways.unblock(self.now, &mut at.mux);
                while let Some(id) = at.mux.poll_writable() {
                    assert!(at.mux.send_capacity(id) > 0, "writable, but no capacity");
                    at.write(id, &mut self.random);
                }
                moved |= ways.fill(self.now, &mut at.mux, &mut self.random);
                self.check_memory(end);
            }
            if !moved {
                return;
            }
        }
    }

    /// What a session holds at its reader, taken or waiting, is bounded by its window.
    fn check_memory(&self, end: usize) {
        let at = &self.ends[end];
        let live = at.mux.session_count() as u64;
        let most = self.settings.budget_bytes + live * u64::from(limits::SESSION_CREDIT_BYTES);
        let ids = at.flows.keys().filter(|id| at.mux.is_live(**id));
        let waiting: u64 = ids.map(|id| self.ways[1 - end].bytes_of(*id)).sum();
        let held = at.unread() + waiting;
        assert!(held <= most, "{held} bytes, {most} allowed");
    }

    fn next_time(&self) -> Moment {
        let mut times = Vec::new();
        for (at, ways) in self.ends.iter().zip(&self.ways) {
            times.extend(ways.next(self.now));
            times.push(at.mux.poll_timeout());
            times.extend(at.next_action());
            if at.mux.wants_transmit() {
                times.push(self.now + Duration::from_millis(1));
            }
        }
        if self.sessions_to_open > 0 && self.opens_at > self.now {
            times.push(self.opens_at);
        }
        let next = times.into_iter().min().unwrap();
        next.max(self.now + Duration::from_micros(1))
    }

    fn is_over(&self) -> bool {
        let quiet =
            |end: &End| end.mux.session_count() == 0 && end.flows.values().all(Flow::is_done);
        self.sessions_to_open == 0 && self.ends.iter().all(quiet)
    }

    fn run(&mut self) {
        loop {
            self.turn();
            if self.is_over() {
                break;
            }
            let progress = self.ends.iter().map(End::progress).sum();
            if progress != self.progress.0 {
                self.progress = (progress, self.now);
            }
            let still = self.now.saturating_since(self.progress.1);
            assert!(still < STALL, "a session stalls");
            self.now = self.next_time();
        }
        for (budget, end) in self.budgets.iter().zip(&self.ends) {
            let held = (budget.windows(), budget.queued());
            assert_eq!(held, (0, 0), "credit or bytes of {:?}", end.is_relay);
        }
        self.check_streams();
    }

    fn check_streams(&self) {
        let [relay, agent] = &self.ends;
        for (sender, receiver) in [(relay, agent), (agent, relay)] {
            for (id, to) in &receiver.flows {
                let Some(from) = sender.flows.get(id) else {
                    assert_eq!(to.received, 0);
                    continue;
                };
                assert!(to.received <= from.sent, "session {id}: more than was sent");
                if to.finished {
                    assert_eq!(to.received, from.total, "session {id}");
                }
            }
        }
    }
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number in the environment"))
}

#[test]
fn streams_that_overtake_each_other_lose_nothing_and_every_session_ends() {
    let seeds = match number_from("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number_from("SIM_SEEDS").unwrap_or(100),
    };
    for seed in seeds {
        // If a run fails, the last seed printed is the one to replay.
        println!("SEED={seed}");
        World::new(seed).run();
    }
}
