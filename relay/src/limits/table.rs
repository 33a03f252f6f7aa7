//! Who used how much of what, for all shards: a table of fixed size without locks.
//!
//! Nothing is allocated for a new address, so that a flood of them costs no memory. Where a place is
//! needed, that of whoever used least is taken: a flood cannot wash out those who use most.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicU32, AtomicU64};

/// Places that one holder can have: the processor looks through them in some 20 ns.
const WAYS: usize = 8;

/// How often a place is looked for while other shards take them.
const ATTEMPTS_MAX: usize = 4;

/// Kinds of rates that are counted for each.
pub(super) const RATES: usize = 3;

/// What one holder used. Cache lines of its own: the next one is somebody else's, on another shard.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Place {
    /// Whose it is: a hash, or 0 for nobody.
    holder: AtomicU64,
    /// When all that was used is paid for, in nanoseconds.
    paid_at: [AtomicU64; RATES],
    /// Sessions that are open. Never set anew, so that whoever counted one up can count it down.
    sessions: AtomicU32,
}

impl Place {
    fn used_until(&self) -> u64 {
        let paid_at = self.paid_at.iter().map(|it| it.load(Relaxed));
        paid_at.max().unwrap_or(0)
    }
}

/// A place in a table.
pub(super) type Index = u32;

/// How fast something may be used: so many in so much time, all of them at once if none was used
/// before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) count: u64,
    pub(super) window_ns: u64,
}

impl Rate {
    /// How long it takes to earn `count`.
    fn price_ns(self, count: u64) -> u64 {
        count.saturating_mul(self.window_ns) / self.count.max(1)
    }
}

/// All holders of one kind.
#[derive(Debug)]
pub(super) struct Table(Box<[Place]>);

impl Table {
    /// One for `places` holders, rounded up to whole groups.
    pub(super) fn new(places: usize) -> Self {
        let places = places.div_ceil(WAYS).max(1) * WAYS;
        Self((0..places).map(|_| Place::default()).collect())
    }

    /// The place of a holder, by a hash that nobody else can predict. `None` if every place that it
    /// could have is taken by somebody with an open session: it then goes uncounted.
    pub(super) fn find(&self, hash: u64) -> Option<Index> {
        let holder = hash.max(1);
        let groups = self.0.len() / WAYS;
        // The remainder is below the number of groups, a usize.
        let first = usize::try_from(holder % groups as u64).ok()? * WAYS;
        let group = &self.0[first..first + WAYS];
        for _ in 0..ATTEMPTS_MAX {
            let known = group
                .iter()
                .position(|it| it.holder.load(Acquire) == holder);
            if let Some(way) = known {
                return Index::try_from(first + way).ok();
            }
            let free = group.iter().enumerate();
            let free = free.filter(|(_, it)| it.sessions.load(Acquire) == 0);
            let (way, place) = free.min_by_key(|(_, it)| it.used_until())?;
            let before = place.holder.load(Acquire);
            let taken = place
                .holder
                .compare_exchange(before, holder, AcqRel, Acquire);
            if taken.is_ok() {
                // What another shard counts for the one before in this moment is lost.
                place.paid_at.iter().for_each(|it| it.store(0, Relaxed));
                return Index::try_from(first + way).ok();
            }
        }
        None
    }

    /// Uses `count` at `now_ns`, all or nothing.
    ///
    /// # Errors
    /// In how many nanoseconds it may be tried again.
    pub(super) fn spend(
        &self,
        at: Index,
        rate: usize,
        allowed: Rate,
        count: u64,
        now_ns: u64,
    ) -> Result<(), u64> {
        let price = allowed.price_ns(count);
        let mut late_ns = 0;
        let spent = self
            .paid_at(at, rate)
            .fetch_update(AcqRel, Acquire, |paid_at| {
                let then = paid_at.max(now_ns) + price;
                late_ns = then.saturating_sub(now_ns + allowed.window_ns);
                (late_ns == 0).then_some(then)
            });
        spent.map(drop).map_err(|_| late_ns)
    }

    /// Notes that `count` was used, whether or not it was allowed; what is owed beyond `debt_ns` is
    /// forgiven.
    pub(super) fn charge(
        &self,
        at: Index,
        rate: usize,
        allowed: Rate,
        count: u64,
        (now_ns, debt_ns): (u64, u64),
    ) {
        let price = allowed.price_ns(count);
        // It always has a new value.
        let _ = self
            .paid_at(at, rate)
            .fetch_update(AcqRel, Acquire, |paid_at| {
                let then = paid_at.max(now_ns).saturating_add(price);
                Some(then.min(now_ns + allowed.window_ns + debt_ns))
            });
    }

    /// Whether more was used than allowed.
    ///
    /// # Errors
    /// For how many nanoseconds that is still so.
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

    /// Counts a session; false if there are as many as may be.
    pub(super) fn open(&self, at: Index, sessions_max: u32) -> bool {
        let counted = self
            .sessions(at)
            .fetch_update(AcqRel, Acquire, |now| (now < sessions_max).then(|| now + 1));
        counted.is_ok()
    }

    /// A session that was counted is over.
    pub(super) fn close(&self, at: Index) {
        self.sessions(at).fetch_sub(1, AcqRel);
    }

    fn paid_at(&self, at: Index, rate: usize) -> &AtomicU64 {
        &self.0[at as usize].paid_at[rate]
    }

    fn sessions(&self, at: Index) -> &AtomicU32 {
        &self.0[at as usize].sessions
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Ten at once, one more each second.
    const TEN: Rate = Rate {
        count: 10,
        window_ns: 10 * SECOND,
    };

    fn allowed(table: &Table, at: Index, attempts: usize, now_ns: u64) -> usize {
        let spend = |_: &usize| table.spend(at, 0, TEN, 1, now_ns).is_ok();
        (0..attempts).filter(spend).count()
    }

    #[test]
    fn what_was_saved_up_is_there_at_once_and_then_it_comes_evenly() {
        let table = Table::new(8);
        let at = table.find(7).unwrap();
        let start = 100 * SECOND;
        assert_eq!(allowed(&table, at, 50, start), 10);
        assert_eq!(table.spend(at, 0, TEN, 1, start), Err(SECOND));
        assert_eq!(allowed(&table, at, 50, start + SECOND - 1), 0);
        assert_eq!(allowed(&table, at, 50, start + SECOND), 1);
        assert_eq!(allowed(&table, at, 50, start + 4 * SECOND), 3);
        assert_eq!(allowed(&table, at, 50, start + 1000 * SECOND), 10);
        // Another kind, and another holder, have their own.
        assert_eq!(table.spend(at, 1, TEN, 10, start), Ok(()));
        let other = table.find(8).unwrap();
        assert_eq!(allowed(&table, other, 50, start), 10);
    }

    #[test]
    fn more_than_allowed_may_be_owed_but_not_for_ever() {
        let table = Table::new(8);
        let at = table.find(7).unwrap();
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
        let at = table.find(7).unwrap();
        assert!((0..3).all(|_| table.open(at, 3)));
        assert!(!table.open(at, 3));
        table.close(at);
        assert!(table.open(at, 3));
    }

    #[test]
    fn a_flood_of_holders_does_not_wash_out_who_uses_most_nor_who_has_sessions() {
        let table = Table::new(64);
        let heavy = table.find(1).unwrap();
        assert_eq!(allowed(&table, heavy, 10, SECOND), 10);
        let open = table.find(2).unwrap();
        assert!(table.open(open, 10));
        for hash in 1000..100_000 {
            let at = table.find(hash).unwrap();
            table.spend(at, 0, TEN, 1, SECOND).unwrap();
        }
        assert_eq!(table.find(1), Some(heavy));
        assert_eq!(allowed(&table, heavy, 10, SECOND), 0);
        assert_eq!(table.find(2), Some(open));
    }

    #[test]
    fn where_all_have_sessions_a_new_one_goes_uncounted() {
        let table = Table::new(WAYS);
        for hash in 1..=WAYS as u64 {
            assert!(table.open(table.find(hash).unwrap(), 1));
        }
        assert_eq!(table.find(1000), None);
        table.close(table.find(3).unwrap());
        assert_eq!(table.find(1000), table.find(1000));
        assert!(table.find(1000).is_some());
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
                        if table.open(at, 2) {
                            table.close(at);
                        }
                        if table.spend(at, 0, TEN, 1, SECOND).is_ok() {
                            passed.fetch_add(1, Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(passed.into_inner(), 10);
        let at = table.find(7).unwrap();
        assert!(table.open(at, 1), "a session is left over");
    }

    #[test]
    #[ignore = "measures; by hand, with --release"]
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
                table.spend(at, 1, rate, 1, round).unwrap();
                assert!(table.open(at, 10));
                table.close(at);
            }
            let each = began.elapsed().as_secs_f64() * 1e9 / rounds as f64;
            println!("{holders} holders: {each:.1} ns");
        }
    }
}
