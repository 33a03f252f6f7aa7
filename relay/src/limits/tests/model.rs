//! Loom test of the table: runs its code in every interleaving of two shards, and lets each load return every value
//! that the memory model allows.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::sync::atomic::AtomicU64;
use loom::{model::Builder, thread};

use super::super::table::{Number, Rate, Table};

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
        self.compare_exchange(from, to, order, Ordering::Acquire)
    }

    fn pause() {
        thread::yield_now();
    }
}

const NOW: u64 = 1_000_000_000;

/// Allows one use per window.
const ONE: Rate = Rate {
    count: 1,
    window_ns: NOW,
};

/// Runs `run` on two shards at once, with the shard's number, on a table of one group of `ways` places; `end`
/// gets the number of runs that returned true.
fn check<N: Number + 'static>(
    ways: usize,
    run: fn(&Table<N>, u64) -> bool,
    end: fn(&Table<N>, usize),
) {
    let mut builder = Builder::new();
    // The builder has read LOOM_MAX_PREEMPTIONS already.
    builder.preemption_bound = Some(builder.preemption_bound.unwrap_or(0).max(3));
    builder.check(move || {
        let table = Arc::new(Table::<N>::with_groups(1, ways));
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || run(&table, 1))
        };
        let here = run(&table, 0);
        let there = other.join().unwrap();
        end(&table, usize::from(here) + usize::from(there));
    });
}

fn spends<N: Number>(table: &Table<N>, hash: u64) -> bool {
    let at = table.find(hash).expect("a place is free");
    table.spend(*at, 0, ONE, 1, NOW).is_ok()
}

/// Checks that one holder who comes on two shards at once can spend only once.
fn check_one_account<N: Number + 'static>() {
    check::<N>(
        2,
        |table, _| spends(table, 7),
        |_, passed| assert_eq!(passed, 1, "accounts"),
    );
}

#[test]
fn a_holder_who_comes_on_two_shards_at_once_has_one_place_and_one_account() {
    check_one_account::<AtomicU64>();
}

/// A number whose lock does not exclude: two shards may give away places of a group at the same time.
#[derive(Default)]
struct Unlocked(AtomicU64);

impl Number for Unlocked {
    fn load(&self, order: Ordering) -> u64 {
        Number::load(&self.0, order)
    }

    fn store(&self, to: u64, order: Ordering) {
        Number::store(&self.0, to, order);
    }

    fn add(&self, count: u64, order: Ordering) -> u64 {
        self.0.add(count, order)
    }

    fn subtract(&self, count: u64, order: Ordering) -> u64 {
        self.0.subtract(count, order)
    }

    fn exchange(&self, from: u64, to: u64, order: Ordering) -> Result<u64, u64> {
        match (from, to) {
            (0, 1) => Ok(0),
            _ => self.0.exchange(from, to, order),
        }
    }

    fn pause() {
        AtomicU64::pause();
    }
}

#[test]
#[should_panic(expected = "accounts")]
fn without_a_lock_a_holder_would_have_two_accounts() {
    check_one_account::<Unlocked>();
}

#[test]
fn a_place_that_is_in_use_is_given_to_no_other_holder() {
    fn run(table: &Table<AtomicU64>, shard: u64) -> bool {
        // The other holder may have the only place.
        let Some(at) = table.find(7 + shard) else {
            return false;
        };
        let is_spent = table.spend(*at, 0, ONE, 1, NOW).is_ok();
        assert!(is_spent, "the place has another holder's usage");
        assert!(table.open(*at, 1), "the place has another holder's session");
        table.close(*at);
        true
    }
    check(1, run, |table, passed| {
        assert!(passed > 0);
        // The last user has left the place.
        let at = table.find(9).expect("a place is free");
        assert!(table.open(*at, 1), "a session was not uncounted");
    });
}

#[test]
fn holders_who_come_at_once_find_places_of_their_own() {
    let run = |table: &Table<AtomicU64>, shard| spends(table, 7 + shard);
    check(2, run, |table, passed| {
        assert_eq!(passed, 2);
        assert!(!spends(table, 7) && !spends(table, 8));
    });
}
