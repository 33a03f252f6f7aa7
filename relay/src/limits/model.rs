//! Loom runs the table's own code in every order that shards may take, and gives each load every value
//! that the memory model allows.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::sync::atomic::AtomicU64;
use loom::{model::Builder, thread};

use super::table::{Number, Rate, Table};

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

/// One at a time.
const ONE: Rate = Rate {
    count: 1,
    window_ns: NOW,
};

/// Runs two shards at once, each with its number, on a table of one group of `ways` places; `end` hears
/// how many of them say yes.
fn check<N: Number + 'static>(
    ways: usize,
    run: fn(&Table<N>, u64) -> bool,
    end: fn(&Table<N>, usize),
) {
    let mut builder = Builder::new();
    // It has read LOOM_MAX_PREEMPTIONS.
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

/// One holder comes on two shards, and may spend once.
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

/// Lets two shards give places of one group to new holders at once.
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
        // The other holder may be in the only place.
        let Some(at) = table.find(7 + shard) else {
            return false;
        };
        let is_spent = table.spend(*at, 0, ONE, 1, NOW).is_ok();
        assert!(is_spent, "another holder's account");
        assert!(table.open(*at, 1), "another holder's session");
        table.close(*at);
        true
    }
    check(1, run, |table, passed| {
        assert!(passed > 0);
        // The last user has left the place.
        let at = table.find(9).expect("a place is free");
        assert!(table.open(*at, 1), "a session is left over");
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
