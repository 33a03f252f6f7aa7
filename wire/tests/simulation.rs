//! Two muxes over a simulated link: ordered, with delay, a rate, arbitrary splits, and a cut.
//!
//! Every run follows from its seed. `SEED=n` replays one, `SIM_SEEDS=n` runs that many.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod peers;
mod simulated;

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use peers::{NONCE, open_message, signed_hello};
use simulated::Random;
use simulated::end::{End, Flow};
use simulated::pipe::Pipe;
use tieline_wire::{Event, LinkEnd, Moment, Mux, OpenError, RelayHello, Settings, limits};

/// Longest time without progress while every reader reads; after it a session counts as stalled.
const STALL: Duration = Duration::from_secs(60);

struct World {
    now: Moment,
    random: Random,
    /// The relay's end, then the agent's.
    ends: [End; 2],
    /// The pipe from the relay, then the pipe from the agent.
    pipes: [Pipe; 2],
    settings: Settings,
    sessions_to_open: u64,
    opens_at: Moment,
    cut_at: Option<Moment>,
    /// Progress of all sessions together, and when it last changed.
    progress: (u64, Moment),
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let delay = Duration::from_millis(random.pick(&[1, 20, 100, 300]));
        let rate = random.pick(&[200_000, 1_000_000, 20_000_000, 1_000_000_000]);
        let settings = Settings {
            budget_bytes: random.pick(&[0, 100_000, 1_000_000, 64_000_000]),
            sessions_max: u32::try_from(1 + random.below(20)).unwrap(),
            ..Settings::default()
        };
        let now = Moment::from_micros(random.below(1 << 40));
        let cut = random.percent(25);
        let relay = Mux::relay(RelayHello::new(NONCE, settings.sessions_max), settings, now);
        let agent = Mux::agent(settings, now);
        Self {
            now,
            ends: [End::new(relay, true), End::new(agent, false)],
            pipes: [Pipe::new(delay, rate), Pipe::new(delay, rate)],
            settings,
            sessions_to_open: 1 + random.below(30),
            opens_at: now,
            cut_at: cut.then(|| now + random.millis(4000)),
            progress: (0, now),
            random,
        }
    }

    /// Gives `end` the bytes that have arrived, in pieces of any size.
    fn deliver(&mut self, end: usize) {
        while let Some(bytes) = self.pipes[1 - end].arrived(self.now) {
            let mut bytes = Bytes::from(bytes);
            while !bytes.is_empty() && self.ends[end].error.is_none() {
                let whole = bytes.len() as u64;
                let most = self
                    .random
                    .pick(&[1 + self.random.0 % 16, 1000, whole, whole]);
                let piece = usize::try_from(most.min(whole)).unwrap();
                self.input(end, bytes.split_to(piece));
            }
        }
    }

    fn input(&mut self, end: usize, mut input: Bytes) {
        let at = &mut self.ends[end];
        loop {
            match at.mux.handle_input(self.now, &mut input) {
                Ok(Some(event)) => at.event(event, self.now, &mut self.random),
                Ok(None) => return,
                Err(error) => panic!("an honest peer was blamed: {error}"),
            }
        }
    }

    /// Gives both ends the bytes that have arrived; they accept every session and take every byte at once.
    fn accept_all(&mut self) {
        for end in 0..2 {
            while let Some(bytes) = self.pipes[1 - end].arrived(self.now) {
                let at = &mut self.ends[end];
                let mut input = Bytes::from(bytes);
                while let Some(event) = at.mux.handle_input(self.now, &mut input).unwrap() {
                    match event {
                        Event::RelayHello(_) => at.mux.hello(&signed_hello()),
                        Event::Open { session, .. } => at.mux.opened(session),
                        Event::Data {
                            session, payload, ..
                        } => at.mux.consumed(session, payload.len()),
                        _ => {}
                    }
                }
            }
        }
    }

    fn open_sessions(&mut self) {
        let relay = &mut self.ends[0];
        if !relay.mux.is_established() {
            return;
        }
        while self.sessions_to_open > 0 && self.opens_at <= self.now {
            let id = match relay.mux.open(&open_message()) {
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

    /// Does everything that is due now.
    fn turn(&mut self) {
        if self.cut_at.is_some_and(|at| at <= self.now) {
            for pipe in &mut self.pipes {
                pipe.cut = true;
                pipe.flying.clear();
            }
        }
        for end in 0..2 {
            self.deliver(end);
            let at = &mut self.ends[end];
            if at.error.is_none() && at.mux.poll_timeout() <= self.now {
                if let Err(error) = at.mux.handle_timeout(self.now) {
                    at.error = Some((self.now, error.reason));
                } else {
                    assert!(at.mux.poll_timeout() > self.now, "the deadline is not over");
                }
            }
        }
        self.open_sessions();
        loop {
            let mut moved = false;
            for (at, pipe) in self.ends.iter_mut().zip(&mut self.pipes) {
                if at.error.is_some() {
                    continue;
                }
                moved |= at.act(self.now);
                while let Some(id) = at.mux.poll_writable() {
                    assert!(at.mux.send_capacity(id) > 0, "writable, but no capacity");
                    at.write(id, &mut self.random);
                }
                moved |= at.transmit(self.now, pipe, &mut self.random);
                let live = at.mux.session_count() as u64;
                let most =
                    self.settings.budget_bytes + live * u64::from(limits::SESSION_CREDIT_BYTES);
                assert!(
                    at.unread() <= most,
                    "{} unread, {most} allowed",
                    at.unread()
                );
            }
            if !moved {
                return;
            }
        }
    }

    fn next_time(&self) -> Moment {
        let mut times = Vec::new();
        for (at, pipe) in self.ends.iter().zip(&self.pipes) {
            times.extend(pipe.flying.front().map(|(at, _)| *at));
            if at.error.is_none() {
                times.push(at.mux.poll_timeout());
                times.extend(at.next_action());
                if !at.transmit.is_empty() || at.mux.wants_transmit() {
                    times.push(pipe.room_at());
                }
            }
        }
        if self.sessions_to_open > 0 && self.opens_at > self.now {
            times.push(self.opens_at);
        }
        times.extend(self.cut_at.filter(|at| *at > self.now));
        let next = times.into_iter().min().unwrap();
        next.max(self.now + Duration::from_micros(1))
    }

    fn is_over(&self) -> bool {
        let quiet =
            |end: &End| end.mux.session_count() == 0 && end.flows.values().all(Flow::is_done);
        self.sessions_to_open == 0 && self.ends.iter().all(quiet)
    }

    fn run(&mut self) {
        let cut = self.cut_at;
        loop {
            self.turn();
            if cut.is_some() && self.ends.iter().all(|end| end.error.is_some()) {
                break;
            }
            if cut.is_none() && self.is_over() {
                break;
            }
            if cut.is_none() {
                let progress = self.ends.iter().map(End::progress).sum();
                if progress != self.progress.0 {
                    self.progress = (progress, self.now);
                }
                let still = self.now.saturating_since(self.progress.1);
                assert!(still < STALL, "a session stalls");
            }
            self.now = self.next_time();
        }
        self.check_streams();
        if let Some(cut) = cut {
            for end in &self.ends {
                let (at, reason) = end.error.unwrap();
                assert!(matches!(reason, LinkEnd::Stale | LinkEnd::HandshakeTimeout));
                assert!(
                    at <= cut + self.settings.stale,
                    "a cut is detected by the stale deadline"
                );
            }
        }
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
                if to.was_reset {
                    // A reset arrives after the bytes that were sent before it.
                    assert_eq!(to.received, from.sent, "session {id}");
                }
            }
        }
    }
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number in the environment"))
}

/// The seeds to run, from the environment or the usual ones.
fn seeds() -> Range<u64> {
    match number_from("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number_from("SIM_SEEDS").unwrap_or(60),
    }
}

#[test]
fn what_goes_in_comes_out_and_nothing_stalls_or_stays() {
    for seed in seeds() {
        // If a run fails, the last seed printed is the one to replay.
        println!("SEED={seed}");
        World::new(seed).run();
    }
}

/// Runs one session at full speed over a link with this round trip. Returns the share of the link's rate
/// that it got in the second half of `time`, and its sender's capacity 3 s after the sender stopped.
fn at_full_speed(round_trip: Duration, bits_per_second: u64, time: Duration) -> (f64, usize) {
    let rate = bits_per_second / 8;
    let mut world = World::new(1);
    world.settings = Settings::default();
    let (start, settings) = (world.now, world.settings);
    let relay = Mux::relay(RelayHello::new(NONCE, 10), settings, start);
    world.ends = [
        End::new(relay, true),
        End::new(Mux::agent(settings, start), false),
    ];
    let half = round_trip / 2;
    world.pipes = [Pipe::new(half, rate), Pipe::new(half, rate)];
    (world.sessions_to_open, world.cut_at) = (0, None);

    let mut session = None;
    let payload = Bytes::from(vec![1; 256 * 1024]);
    let mut measured = None;
    let mut share = 0.0;
    while world.now < start + time + Duration::from_secs(3) {
        world.accept_all();
        let relay = &mut world.ends[0].mux;
        if relay.is_established() && session.is_none() {
            session = relay.open(&open_message()).ok();
        }
        let is_sending = world.now < start + time;
        loop {
            let relay = &mut world.ends[0].mux;
            if let Some(id) = session.filter(|_| is_sending) {
                while relay.send_capacity(id) > 0 {
                    let len = relay.send_capacity(id).min(payload.len());
                    relay.send(id, payload.slice(..len), false).unwrap();
                }
            }
            let mut moved = false;
            for (at, pipe) in world.ends.iter_mut().zip(&mut world.pipes) {
                if at.mux.poll_timeout() <= world.now {
                    at.mux.handle_timeout(world.now).unwrap();
                }
                moved |= at.transmit(world.now, pipe, &mut world.random);
            }
            if !moved {
                break;
            }
        }
        let received = world.ends[1].mux.counters().bytes_received;
        match measured {
            None if world.now >= start + time / 2 => measured = Some((world.now, received)),
            Some((since, before)) if is_sending => {
                let seconds = world.now.saturating_since(since).as_secs_f64();
                #[expect(clippy::cast_precision_loss, reason = "a rate")]
                let rate = rate as f64;
                #[expect(clippy::cast_precision_loss, reason = "a rate")]
                let moved = (received - before) as f64;
                share = moved / seconds.max(0.001) / rate;
            }
            _ => {}
        }
        world.now = world.next_time();
    }
    (share, world.ends[0].mux.send_capacity(session.unwrap()))
}

/// Cuts a link while its agent sends a piece of a download every `pause`; returns how long after the cut each end, the
/// relay's first, gives the link up.
fn noticed_after_a_cut(seed: u64, pause: Duration) -> [Duration; 2] {
    let mut world = World::new(seed);
    (world.sessions_to_open, world.cut_at) = (0, None);
    let mut session = None;
    let mut sends_at = world.now;
    let cut_at = world.now + Duration::from_secs(5) + world.random.millis(4000);
    loop {
        if world.now >= cut_at {
            for pipe in &mut world.pipes {
                pipe.cut = true;
                pipe.flying.clear();
            }
        }
        world.accept_all();
        if session.is_none() && world.ends[0].mux.is_established() {
            session = world.ends[0].mux.open(&open_message()).ok();
        }
        let agent = &mut world.ends[1].mux;
        if let Some(id) = session.filter(|_| world.now >= sends_at)
            && agent.send_capacity(id) >= 100
        {
            agent.send(id, vec![1; 100].into(), false).unwrap();
            sends_at = world.now + pause;
        }
        for (at, pipe) in world.ends.iter_mut().zip(&mut world.pipes) {
            if at.error.is_none() && at.mux.poll_timeout() <= world.now {
                let outcome = at.mux.handle_timeout(world.now);
                at.error = outcome.err().map(|error| (world.now, error.reason));
            }
            if at.error.is_none() {
                at.transmit(world.now, pipe, &mut world.random);
            }
        }
        // Nothing happens any more once both ends have given the link up.
        if world.ends.iter().all(|end| end.error.is_some()) {
            break;
        }
        let next = world.next_time().min(sends_at.max(world.now + pause / 8));
        world.now = match world.now < cut_at {
            true => next.min(cut_at),
            false => next,
        };
    }
    world.ends.each_ref().map(|end| {
        let (at, reason) = end.error.unwrap();
        assert_eq!(reason, LinkEnd::Stale);
        at.saturating_since(cut_at)
    })
}

#[test]
fn both_ends_of_a_download_notice_a_dead_path_within_five_seconds() {
    for seed in seeds() {
        println!("SEED={seed}");
        for pause_ms in [10, 250, 450] {
            let noticed = noticed_after_a_cut(seed, Duration::from_millis(pause_ms));
            let latest = noticed.into_iter().max().unwrap();
            assert!(
                latest <= Duration::from_secs(5),
                "{noticed:?} with a piece every {pause_ms} ms"
            );
        }
    }
}

#[test]
fn windows_grow_until_a_link_is_full_whatever_its_round_trip_and_shrink_when_idle() {
    for (round_trip_ms, seconds) in [(1, 4), (20, 4), (100, 8), (300, 20)] {
        let round_trip = Duration::from_millis(round_trip_ms);
        let time = Duration::from_secs(seconds);
        let (share, left) = at_full_speed(round_trip, 200_000_000, time);
        println!("{round_trip_ms} ms: {:.0} % of the rate", share * 100.0);
        assert!(
            share > 0.8,
            "{round_trip_ms} ms: {share:.2} of the link's rate"
        );
        let floor = usize::try_from(limits::SESSION_CREDIT_BYTES).unwrap();
        assert!(
            left < floor,
            "{round_trip_ms} ms: {left} bytes of idle credit"
        );
    }
}
