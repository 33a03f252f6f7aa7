//! Usage of each token holder or address, for all shards: a table of atomics with a fixed size.
//!
//! A new holder needs no memory, so a flood of addresses costs none. It replaces the holder that used least, so a
//! flood cannot push out the holders that use most.
//! Long because the tests of concurrent steps stand beside these steps.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release};

/// Places that one holder can have; searching them takes some 20 ns.
const WAYS: usize = 8;

/// Times that a shard yields while another shard gives a place of the same group to a new holder. That takes less
/// than a microsecond, but the kernel may preempt the other shard meanwhile.
const YIELDS_MAX: usize = 1000;

/// Number of rates that are counted per holder.
pub(super) const RATES: usize = 3;

/// Bit of [`Counter::users`] that is set while the place gets a new holder.
const CHANGING: u64 = 1 << 63;

/// Operations that the table needs of a shared number; `model` implements them for loom.
pub(super) trait Number: Default {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, to: u64, order: Ordering);
    fn add(&self, count: u64, order: Ordering) -> u64;
    fn subtract(&self, count: u64, order: Ordering) -> u64;
    fn exchange(&self, from: u64, to: u64, order: Ordering) -> Result<u64, u64>;
    /// Lets other threads run.
    fn pause();

    /// Replaces the value by `next` of it, unless that is `None`; returns whether it did.
    fn update(&self, next: impl Fn(u64) -> Option<u64>) -> bool {
        let mut now = self.load(Acquire);
        while let Some(to) = next(now) {
            match self.exchange(now, to, AcqRel) {
                Ok(_) => return true,
                Err(other) => now = other,
            }
        }
        false
    }
}

impl Number for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        Self::load(self, order)
    }

    fn store(&self, to: u64, order: Ordering) {
        Self::store(self, to, order);
    }

    fn add(&self, count: u64, order: Ordering) -> u64 {
        self.fetch_add(count, order)
    }

    fn subtract(&self, count: u64, order: Ordering) -> u64 {
        self.fetch_sub(count, order)
    }

    fn exchange(&self, from: u64, to: u64, order: Ordering) -> Result<u64, u64> {
        self.compare_exchange_weak(from, to, order, Acquire)
    }

    fn pause() {
        std::thread::yield_now();
    }
}

/// Usage of one holder. Fills a cache line, because other shards change the neighbours.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Counter<N> {
    /// Hash of the holder; 0 before the first one. Changed only under [`CHANGING`].
    holder: N,
    /// Per rate: time at which all usage is paid for, in nanoseconds.
    paid_at: [N; RATES],
    /// Open sessions; each is also a user.
    sessions: N,
    /// Number of users, who keep the place's holder from being replaced; and [`CHANGING`].
    users: N,
}

impl<N: Number> Counter<N> {
    fn used_until(&self) -> u64 {
        let paid_at = self.paid_at.iter().map(|it| it.load(Relaxed));
        paid_at.max().unwrap_or(0)
    }

    /// Becomes a user of the place if the place belongs to `holder`.
    fn enter(&self, holder: u64) -> bool {
        if self.holder.load(Acquire) != holder {
            return false;
        }
        let users = self.users.add(1, Acquire);
        // From here on the holder cannot be replaced, unless a change had begun already.
        let is_entered = users & CHANGING == 0 && self.holder.load(Acquire) == holder;
        if !is_entered {
            self.leave();
        }
        is_entered
    }

    fn leave(&self) {
        self.users.subtract(1, Release);
    }

    /// Gives the place to a new holder, who becomes its first user; false if the place has users.
    fn change(&self, holder: u64) -> bool {
        // A single exchange rather than `update`: a place with users is not a candidate.
        if self.users.exchange(0, CHANGING, Acquire).is_err() {
            return false;
        }
        self.paid_at.iter().for_each(|it| it.store(0, Relaxed));
        self.holder.store(holder, Release);
        // Shards that see the bit uncount themselves again, so their part of the number is kept.
        self.users.subtract(CHANGING - 1, Release);
        true
    }
}

/// Index of a place in a table.
pub(super) type Index = u32;

/// A rate limit: `count` per window. After a window without use, all of it may be used at once
/// (a token bucket).
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) count: u64,
    pub(super) window_ns: u64,
}

impl Rate {
    /// Time that allows `count`.
    fn price_ns(self, count: u64) -> u64 {
        count.saturating_mul(self.window_ns) / self.count.max(1)
    }
}

/// Table of all holders of one kind, in groups of `ways` places; a holder's hash selects the group.
#[derive(Debug)]
pub(super) struct Table<N = AtomicU64> {
    places: Box<[Counter<N>]>,
    /// Lock of each group: 1 while a shard gives one of its places to a new holder.
    changing: Box<[N]>,
    ways: usize,
}

/// A user of a holder's place; the place keeps its holder while this lives.
#[derive(Debug)]
pub(super) struct Occupied<'a, N: Number = AtomicU64> {
    table: &'a Table<N>,
    at: Index,
}

impl<N: Number> Occupied<'_, N> {
    /// Stays a user of the place until [`Table::leave`].
    pub(super) fn keep(self) -> Index {
        let at = self.at;
        std::mem::forget(self);
        at
    }
}

impl<N: Number> Deref for Occupied<'_, N> {
    type Target = Index;

    fn deref(&self) -> &Index {
        &self.at
    }
}

impl<N: Number> Drop for Occupied<'_, N> {
    fn drop(&mut self) {
        self.table.leave(self.at);
    }
}

impl Table {
    /// A table for `places` holders, rounded up to whole groups.
    pub(super) fn new(places: usize) -> Self {
        Self::with_groups(places.div_ceil(WAYS).max(1), WAYS)
    }
}

impl<N: Number> Table<N> {
    /// A table of `groups` groups with `ways` places each.
    pub(super) fn with_groups(groups: usize, ways: usize) -> Self {
        Self {
            places: (0..groups * ways).map(|_| Counter::default()).collect(),
            changing: (0..groups).map(|_| N::default()).collect(),
            ways,
        }
    }

    /// The place of the holder with this keyed hash; the key keeps callers from choosing a group. `None` if other
    /// holders use all places of the group: the holder then goes uncounted.
    pub(super) fn find(&self, hash: u64) -> Option<Occupied<'_, N>> {
        let holder = hash.max(1);
        // The remainder is below the number of groups, so it fits a usize.
        let group = usize::try_from(holder % self.changing.len() as u64).ok()?;
        let first = group * self.ways;
        let places = &self.places[first..first + self.ways];
        let known = || places.iter().position(|it| it.enter(holder));
        let way = known().or_else(|| {
            let changing = &self.changing[group];
            for _ in 0..YIELDS_MAX {
                if changing.exchange(0, 1, Acquire).is_ok() {
                    // Another shard may have given the holder a place after the first look.
                    let way = known().or_else(|| least_used(places, holder));
                    changing.store(0, Release);
                    return way;
                }
                N::pause();
            }
            None
        })?;
        let at = Index::try_from(first + way).ok()?;
        Some(Occupied { table: self, at })
    }

    /// Ends a use that was kept by [`Occupied::keep`].
    pub(super) fn leave(&self, at: Index) {
        self.places[at as usize].leave();
    }

    /// Spends `count` at `now_ns`, all or nothing.
    ///
    /// # Errors
    /// Nanoseconds until a retry may succeed.
    pub(super) fn spend(
        &self,
        at: Index,
        rate: usize,
        allowed: Rate,
        count: u64,
        now_ns: u64,
    ) -> Result<(), u64> {
        let price = allowed.price_ns(count);
        let late_ns = Cell::new(0);
        let is_spent = self.paid_at(at, rate).update(|paid_at| {
            let then = paid_at.max(now_ns) + price;
            late_ns.set(then.saturating_sub(now_ns + allowed.window_ns));
            (late_ns.get() == 0).then_some(then)
        });
        match is_spent {
            true => Ok(()),
            false => Err(late_ns.get()),
        }
    }

    /// Counts a use of `count` without checking the limit; debt beyond `debt_ns` is
    /// dropped.
    pub(super) fn charge(
        &self,
        at: Index,
        rate: usize,
        allowed: Rate,
        count: u64,
        (now_ns, debt_ns): (u64, u64),
    ) {
        let price = allowed.price_ns(count);
        self.paid_at(at, rate).update(|paid_at| {
            let then = paid_at.max(now_ns).saturating_add(price);
            Some(then.min(now_ns + allowed.window_ns + debt_ns))
        });
    }

    /// Checks whether the use is within the limit.
    ///
    /// # Errors
    /// Nanoseconds for which the limit is still exceeded.
    pub(super) fn check(
        &self,
        at: Index,
        rate: usize,
        allowed: Rate,
        now_ns: u64,
    ) -> Result<(), u64> {
        let paid_at = self.paid_at(at, rate).load(Acquire);
        match paid_at.saturating_sub(now_ns + allowed.window_ns) {
            0 => Ok(()),
            late_ns => Err(late_ns),
        }
    }

    /// Counts a session; false at the limit.
    pub(super) fn open(&self, at: Index, sessions_max: u32) -> bool {
        self.sessions(at)
            .update(|now| (now < sessions_max.into()).then(|| now + 1))
    }

    /// Uncounts a session.
    pub(super) fn close(&self, at: Index) {
        self.sessions(at).subtract(1, AcqRel);
    }

    fn paid_at(&self, at: Index, rate: usize) -> &N {
        &self.places[at as usize].paid_at[rate]
    }

    fn sessions(&self, at: Index) -> &N {
        &self.places[at as usize].sessions
    }
}

/// Gives `holder` the place without users that was used least, if there is one.
fn least_used<N: Number>(places: &[Counter<N>], holder: u64) -> Option<usize> {
    // A chosen place may get a user before it is given away, so up to all places are tried.
    for _ in 0..places.len() {
        let free = places.iter().enumerate();
        let free = free.filter(|(_, it)| it.users.load(Acquire) == 0);
        let (way, place) = free.min_by_key(|(_, it)| it.used_until())?;
        if place.change(holder) {
            return Some(way);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Ten at once, then one per second.
    const TEN: Rate = Rate {
        count: 10,
        window_ns: 10 * SECOND,
    };

    /// The holder's place, without remaining a user of it.
    fn place(table: &Table, hash: u64) -> Index {
        *table.find(hash).unwrap()
    }

    fn allowed(table: &Table, at: Index, attempts: usize, now_ns: u64) -> usize {
        let spend = |_: &usize| table.spend(at, 0, TEN, 1, now_ns).is_ok();
        (0..attempts).filter(spend).count()
    }

    #[test]
    fn what_was_saved_up_is_there_at_once_and_then_it_comes_evenly() {
        let table = Table::new(8);
        let at = place(&table, 7);
        let start = 100 * SECOND;
        assert_eq!(allowed(&table, at, 50, start), 10);
        assert_eq!(table.spend(at, 0, TEN, 1, start), Err(SECOND));
        assert_eq!(allowed(&table, at, 50, start + SECOND - 1), 0);
        assert_eq!(allowed(&table, at, 50, start + SECOND), 1);
        assert_eq!(allowed(&table, at, 50, start + 4 * SECOND), 3);
        assert_eq!(allowed(&table, at, 50, start + 1000 * SECOND), 10);
        // Other rates and other holders are counted separately.
        assert_eq!(table.spend(at, 1, TEN, 10, start), Ok(()));
        let other = place(&table, 8);
        assert_eq!(allowed(&table, other, 50, start), 10);
    }

    #[test]
    fn more_than_allowed_may_be_owed_but_not_for_ever() {
        let table = Table::new(8);
        let at = place(&table, 7);
        let charge = |count, now| table.charge(at, 2, TEN, count, (now, 60 * SECOND));
        charge(10, SECOND);
        assert_eq!(table.check(at, 2, TEN, SECOND), Ok(()));
        charge(5, SECOND);
        assert_eq!(table.check(at, 2, TEN, SECOND), Err(5 * SECOND));
        assert_eq!(table.check(at, 2, TEN, 6 * SECOND), Ok(()));
        charge(u64::MAX, SECOND);
        assert_eq!(table.check(at, 2, TEN, SECOND), Err(60 * SECOND));
    }

    #[test]
    fn so_many_sessions_and_no_more() {
        let table = Table::new(8);
        let at = place(&table, 7);
        assert!((0..3).all(|_| table.open(at, 3)));
        assert!(!table.open(at, 3));
        table.close(at);
        assert!(table.open(at, 3));
    }

    #[test]
    fn a_flood_of_holders_does_not_wash_out_who_uses_most_nor_who_has_sessions() {
        let table = Table::new(64);
        let heavy = place(&table, 1);
        assert_eq!(allowed(&table, heavy, 10, SECOND), 10);
        let in_use = table.find(2).unwrap();
        for hash in 1000..100_000 {
            let at = place(&table, hash);
            table.spend(at, 0, TEN, 1, SECOND).unwrap();
        }
        assert_eq!(place(&table, 1), heavy);
        assert_eq!(allowed(&table, heavy, 10, SECOND), 0);
        assert_eq!(place(&table, 2), *in_use);
    }

    #[test]
    fn where_all_places_are_in_use_a_new_holder_goes_uncounted() {
        let table = Table::new(WAYS);
        let mut pins: Vec<_> = (1..=WAYS as u64).map(|hash| table.find(hash)).collect();
        assert!(pins.iter().all(Option::is_some));
        assert!(table.find(1000).is_none());
        pins.swap_remove(3);
        assert_eq!(place(&table, 1000), place(&table, 1000));
    }

    #[test]
    fn shards_that_count_at_once_count_right() {
        let table = Table::new(64);
        let passed = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let at = table.find(7).unwrap();
                        if table.open(*at, 2) {
                            table.close(*at);
                        }
                        if table.spend(*at, 0, TEN, 1, SECOND).is_ok() {
                            passed.fetch_add(1, Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(passed.into_inner(), 10);
        let at = place(&table, 7);
        assert!(table.open(at, 1), "a session was not uncounted");
    }

    #[test]
    #[ignore = "a measurement: run by hand with --release"]
    fn how_long_a_look_takes() {
        let table = Table::new(64 * 1024);
        let rate = Rate {
            count: u64::MAX / (20 * SECOND),
            window_ns: 10 * SECOND,
        };
        for (holders, rounds) in [(1_u64, 10_000_000_u64), (10_000, 10_000_000)] {
            let began = std::time::Instant::now();
            for round in 0..rounds {
                let hash = (round % holders + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let at = table.find(hash).unwrap();
                table.spend(*at, 1, rate, 1, round).unwrap();
                assert!(table.open(*at, 10));
                table.close(*at);
            }
            let each = began.elapsed().as_secs_f64() * 1e9 / rounds as f64;
            println!("{holders} holders: {each:.1} ns");
        }
    }
}
