//! One direction of a link over streams: a way for the control frames, and one for each session. Each way keeps its
//! order; the ways overtake each other.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tieline_wire::{Moment, Mux, Output, SessionEnd, SessionId};

use super::Random;

/// What travels on the way of a session.
pub(crate) enum Item {
    /// Makes the stream known to the peer.
    Start,
    Data(Bytes, bool),
    Finish,
    Reset(SessionEnd),
}

/// Items on their way, with the time of their arrival.
pub(crate) struct Way<T> {
    items: VecDeque<(Moment, T)>,
    /// The sender may add nothing until then.
    pub(crate) blocked_until: Option<Moment>,
}

impl<T> Default for Way<T> {
    fn default() -> Self {
        Self {
            items: VecDeque::new(),
            blocked_until: None,
        }
    }
}

impl<T> Way<T> {
    fn push(&mut self, now: Moment, delay: Duration, item: T) {
        let before = self.items.back().map_or(now, |(at, _)| *at);
        self.items.push_back((before.max(now + delay), item));
    }

    pub(crate) fn arrived(&self, now: Moment) -> Option<&T> {
        let front = self.items.front().filter(|(at, _)| *at <= now);
        front.map(|(_, item)| item)
    }

    pub(crate) fn take(&mut self) -> Option<T> {
        self.items.pop_front().map(|(_, item)| item)
    }

    pub(crate) fn last_arrived(&self, now: Moment) -> Option<&T> {
        let back = self.items.back().filter(|(at, _)| *at <= now);
        back.map(|(_, item)| item)
    }

    pub(crate) fn clear(&mut self) {
        self.items.clear();
    }

    /// The next time at which something arrives, or may be added again.
    fn next(&self, now: Moment) -> Option<Moment> {
        let arrives = self.items.iter().map(|(at, _)| *at).find(|at| *at > now);
        arrives.into_iter().chain(self.blocked_until).min()
    }
}

/// All ways of one direction.
pub(crate) struct Ways {
    delay: Duration,
    pub(crate) control: Way<Bytes>,
    /// The ways of sessions whose streams the sender may write to.
    pub(crate) sessions: BTreeMap<SessionId, Way<Item>>,
}

impl Ways {
    pub(crate) fn new(delay: Duration) -> Self {
        Self {
            delay,
            control: Way::default(),
            sessions: BTreeMap::new(),
        }
    }

    /// The sender may write to the stream of a session from now on.
    pub(crate) fn start(&mut self, id: SessionId, now: Moment, random: &mut Random) {
        let delay = delay(self.delay, random);
        let way = self.sessions.entry(id).or_default();
        way.push(now, delay, Item::Start);
    }

    /// Lets the sessions go on whose streams take something again.
    pub(crate) fn unblock(&mut self, now: Moment, mux: &mut Mux) {
        for (id, way) in &mut self.sessions {
            if way.blocked_until.is_some_and(|until| until <= now) {
                way.blocked_until = None;
                mux.resume(*id);
            }
        }
    }

    /// Takes what `mux` has to send; true if that was anything.
    pub(crate) fn fill(&mut self, now: Moment, mux: &mut Mux, random: &mut Random) -> bool {
        let mut writer = Writer {
            now,
            takes_control: random.percent(80),
            room: 1 + random.below(20),
            added: 0,
            control: Vec::new(),
            ways: self,
            random,
        };
        mux.poll_streams(now, &mut writer);
        let (control, added) = (writer.control, writer.added);
        if !control.is_empty() {
            let delay = delay(self.delay, random);
            self.control.push(now, delay, control.into());
        }
        added > 0
    }

    pub(crate) fn next(&self, now: Moment) -> Option<Moment> {
        let sessions = self.sessions.values().filter_map(|way| way.next(now));
        sessions.chain(self.control.next(now)).min()
    }

    /// Payload bytes of a session that are on their way, or wait at their end.
    pub(crate) fn bytes_of(&self, id: SessionId) -> u64 {
        let items = self.sessions.get(&id).map(|way| way.items.iter());
        let len = |(_, item): &(Moment, Item)| match item {
            Item::Data(payload, _) => payload.len() as u64,
            _ => 0,
        };
        items.into_iter().flatten().map(len).sum()
    }
}

fn delay(base: Duration, random: &mut Random) -> Duration {
    // Now and then a lost packet, which is sent again.
    let lost = if random.percent(10) { base * 3 } else { base };
    lost + random.millis(20)
}

/// Puts what a mux sends on the ways.
struct Writer<'a> {
    now: Moment,
    takes_control: bool,
    /// How many items of sessions are taken in one turn.
    room: u64,
    added: u64,
    control: Vec<u8>,
    ways: &'a mut Ways,
    random: &'a mut Random,
}

impl Writer<'_> {
    fn push(&mut self, id: SessionId, item: Item) {
        let delay = delay(self.ways.delay, self.random);
        let is_blocked = self.random.percent(10);
        let until = self.now + Duration::from_millis(1) + self.random.millis(300);
        let way = self.ways.sessions.get_mut(&id).expect("a way that takes");
        way.push(self.now, delay, item);
        way.blocked_until = is_blocked.then_some(until);
        self.added += 1;
    }
}

impl Output for Writer<'_> {
    fn takes_control(&self) -> bool {
        self.takes_control
    }

    fn is_full(&self) -> bool {
        self.added >= self.room
    }

    fn takes(&self, session: SessionId) -> bool {
        let way = self.ways.sessions.get(&session);
        way.is_some_and(|way| way.blocked_until.is_none())
    }

    fn control(&mut self, bytes: &[u8]) {
        self.control.extend_from_slice(bytes);
        self.added += 1;
    }

    fn data(&mut self, session: SessionId, payload: Bytes, end_of_message: bool) {
        self.push(session, Item::Data(payload, end_of_message));
    }

    fn finish(&mut self, session: SessionId, _: u64) {
        self.push(session, Item::Finish);
    }

    fn reset(&mut self, session: SessionId, reason: SessionEnd) {
        // A reset may overtake everything on its stream, but not the stream's beginning.
        if self.random.percent(50) {
            let way = self.ways.sessions.get_mut(&session);
            let items = &mut way.expect("a way that takes").items;
            items.retain(|(_, item)| matches!(item, Item::Start));
        }
        self.push(session, Item::Reset(reason));
    }
}
