//! Names without an agent: the time for which each is kept, and the order of their eviction beyond the limit.
//!
//! The registrant with the most such names loses a name first; within the registrant, the key with the most names loses
//! its oldest name. Of registrants with equally many names, the registrant that began last to have such names loses
//! first; the same holds for keys. A flood of short-lived names thus evicts its own holder's bindings, and of another
//! holder only those in excess of the flooding holder's number.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use slab::Slab;
use tieline_wire::{AgentKey, Moment, TunnelId};

use crate::limits::Registrant;

/// All names of one home shard that have no agent.
#[derive(Default)]
pub(super) struct Absent {
    /// Names in order of the end of their time.
    ends: BTreeSet<(Moment, TunnelId)>,
    registrants: Slab<Counted>,
    registrant_of: HashMap<Registrant, usize>,
    pairs: Slab<Pair>,
    pair_of: HashMap<(usize, AgentKey), usize>,
    /// Registrants, fewest names first: (number of names, the registrant's `number`, slab index).
    by_account: BTreeSet<(usize, u64, usize)>,
    /// Pairs of each registrant, fewest names first: (registrant, number of names, the pair's `number`, slab index).
    by_pair: BTreeSet<(usize, usize, u64, usize)>,
    /// The names of each pair, oldest first.
    names: BTreeSet<(usize, Moment, TunnelId)>,
    /// Number of names that were ever added.
    last: u64,
}

/// A registrant and the number of its names.
struct Counted {
    registrant: Registrant,
    /// Value of `Absent::last` when the registrant got its first name. Of equals, the highest number loses first.
    number: u64,
    count: usize,
}

/// A key of a registrant, and the number of its names.
struct Pair {
    registrant: usize,
    key: AgentKey,
    /// Value of `Absent::last` when the pair got its first name. Of equals, the highest number loses first.
    number: u64,
    count: usize,
}

/// Entry of a name without an agent.
#[derive(Clone, Copy, Debug)]
pub(super) struct AbsentEntry {
    ends_at: Moment,
    pair: usize,
}

impl AbsentEntry {
    /// Remaining time for which the name is kept.
    pub(super) fn left(self, now: Moment) -> Duration {
        self.ends_at.saturating_since(now)
    }
}

impl Absent {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Adds a name that is kept until `ends_at`.
    pub(super) fn add(
        &mut self,
        tunnel: &TunnelId,
        registrant: &Registrant,
        key: &AgentKey,
        ends_at: Moment,
    ) -> AbsentEntry {
        self.last += 1;
        let number = self.last;
        let registrant = match self.registrant_of.get(registrant) {
            Some(known) => *known,
            None => {
                let new = self.registrants.insert(Counted {
                    registrant: registrant.clone(),
                    number,
                    count: 0,
                });
                self.registrant_of.insert(registrant.clone(), new);
                new
            }
        };
        let pair = *self.pair_of.entry((registrant, *key)).or_insert_with(|| {
            self.pairs.insert(Pair {
                registrant,
                key: *key,
                number,
                count: 0,
            })
        });
        self.count(pair, |count| count + 1);
        self.ends.insert((ends_at, tunnel.clone()));
        self.names.insert((pair, ends_at, tunnel.clone()));
        AbsentEntry { ends_at, pair }
    }

    /// Removes a name that an agent serves again or that is forgotten.
    pub(super) fn remove(&mut self, tunnel: &TunnelId, place: AbsentEntry) {
        let AbsentEntry { ends_at, pair } = place;
        if !self.names.remove(&(pair, ends_at, tunnel.clone())) {
            return;
        }
        self.ends.remove(&(ends_at, tunnel.clone()));
        self.count(pair, |count| count - 1);
    }

    /// Changes the count of a pair and its registrant by one, and removes either at zero.
    fn count(&mut self, at: usize, change: fn(usize) -> usize) {
        let pair = &mut self.pairs[at];
        let (registrant, number, before) = (pair.registrant, pair.number, pair.count);
        pair.count = change(before);
        let now = pair.count;
        self.by_pair.remove(&(registrant, before, number, at));
        if now == 0 {
            let Pair {
                registrant, key, ..
            } = self.pairs.remove(at);
            self.pair_of.remove(&(registrant, key));
        } else {
            self.by_pair.insert((registrant, now, number, at));
        }
        let counted = &mut self.registrants[registrant];
        let (number, before) = (counted.number, counted.count);
        counted.count = change(before);
        let now = counted.count;
        self.by_account.remove(&(before, number, registrant));
        if now == 0 {
            let Counted { registrant, .. } = self.registrants.remove(registrant);
            self.registrant_of.remove(&registrant);
        } else {
            self.by_account.insert((now, number, registrant));
        }
    }

    /// A name whose time is over, if there is one.
    pub(super) fn overdue(&self, now: Moment) -> Option<TunnelId> {
        let (ends_at, tunnel) = self.ends.first()?;
        (*ends_at <= now).then(|| tunnel.clone())
    }

    /// The name that is evicted first.
    pub(super) fn most_expendable(&self) -> Option<TunnelId> {
        let (_, _, registrant) = *self.by_account.last()?;
        let pairs = (registrant, 0, 0, 0)..=(registrant, usize::MAX, u64::MAX, usize::MAX);
        let (_, _, _, pair) = *self.by_pair.range(pairs).next_back()?;
        let from = (pair, Moment::default());
        let oldest = self.names.range((pair, from.1, least())..).next()?;
        Some(oldest.2.clone())
    }
}

/// The least name in sort order.
fn least() -> TunnelId {
    // Only '-' sorts before '0' among the allowed characters, and no name begins with it.
    TunnelId::parse("0").expect("a digit is a valid name")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> TunnelId {
        TunnelId::parse(text).unwrap()
    }

    fn registrant(sub: &str) -> Registrant {
        Registrant::Holder(sub.into())
    }

    const fn at(micros: u64) -> Moment {
        Moment::from_micros(micros)
    }

    #[test]
    fn the_agent_with_most_absent_names_loses_its_oldest_first() {
        let mut absent = Absent::default();
        let key = |n| AgentKey::new([n; 32]);
        // Ada has the oldest name of all.
        absent.add(&name("ada-1"), &registrant("ada"), &key(1), at(1));
        for n in 0..10_u8 {
            // Eve's key 3 floods, her key 2 does not.
            let seat = if n == 0 { 2 } else { 3 };
            let eves = name(&format!("eve-{n}"));
            absent.add(&eves, &registrant("eve"), &key(seat), at(u64::from(n) + 10));
        }
        let mut places = HashMap::new();
        for (pair, ends_at, tunnel) in &absent.names {
            let place = AbsentEntry {
                ends_at: *ends_at,
                pair: *pair,
            };
            places.insert(tunnel.clone(), place);
        }
        let lost = forget_down_to(&mut absent, &places, 2);
        assert_eq!(lost[..3], ["eve-1", "eve-2", "eve-3"]);
        assert!(!lost.contains(&"ada-1".to_owned()), "{lost:?}");
        assert_eq!(absent.overdue(at(1)), Some(name("ada-1")));
    }

    /// Evicts names until `left` are left; returns the evicted ones.
    fn forget_down_to(
        absent: &mut Absent,
        places: &HashMap<TunnelId, AbsentEntry>,
        left: usize,
    ) -> Vec<String> {
        let mut lost = Vec::new();
        while absent.len() > left {
            let gone = absent.most_expendable().unwrap();
            absent.remove(&gone, places[&gone]);
            lost.push(gone.as_str().to_owned());
        }
        lost
    }

    #[test]
    fn a_holder_with_more_names_than_one_that_floods_loses_them_down_to_as_many() {
        let (mut absent, mut places) = (Absent::default(), HashMap::new());
        let mut add = |absent: &mut Absent, sub: &str, n: u64| {
            let tunnel = name(&format!("{sub}-{n}"));
            let place = absent.add(&tunnel, &registrant(sub), &AgentKey::new([1; 32]), at(n));
            places.insert(tunnel, place);
        };
        (0..12).for_each(|n| add(&mut absent, "ada", n));
        (100..108).for_each(|n| add(&mut absent, "eve", n));
        let lost = forget_down_to(&mut absent, &places, 16);
        assert_eq!(lost, ["ada-0", "ada-1", "ada-2", "ada-3"]);
    }

    #[test]
    fn among_equals_the_account_and_the_key_that_came_last_lose_first() {
        let (mut absent, mut places) = (Absent::default(), HashMap::new());
        let mut add = |absent: &mut Absent, sub: &str, key: u8, n: u64| {
            let tunnel = name(&format!("{sub}-{key}-{n}"));
            let place = absent.add(&tunnel, &registrant(sub), &AgentKey::new([key; 32]), at(n));
            places.insert(tunnel.clone(), place);
            (tunnel, place)
        };
        // A removed registrant's slab index is reused, and must not affect the order of age.
        let (gone, place) = add(&mut absent, "gone", 1, 1);
        add(&mut absent, "ada", 1, 2);
        add(&mut absent, "ada", 2, 1);
        absent.remove(&gone, place);
        add(&mut absent, "eve", 1, 4);
        add(&mut absent, "eve", 2, 3);
        let lost = forget_down_to(&mut absent, &places, 0);
        assert_eq!(lost, ["eve-2-3", "ada-2-1", "eve-1-4", "ada-1-2"]);
    }

    #[test]
    fn nothing_is_left_of_names_that_are_gone() {
        let mut absent = Absent::default();
        let mut places = Vec::new();
        for n in 0..50_u8 {
            let tunnel = name(&format!("n{n}"));
            let (registrant, key) = (registrant(&format!("sub-{}", n % 3)), [n % 7; 32]);
            let place = absent.add(&tunnel, &registrant, &AgentKey::new(key), at(n.into()));
            places.push((tunnel, place));
        }
        for (tunnel, place) in places {
            absent.remove(&tunnel, place);
            // Removing a name twice is harmless.
            absent.remove(&tunnel, place);
        }
        assert!(absent.ends.is_empty() && absent.names.is_empty());
        assert!(absent.registrants.is_empty() && absent.registrant_of.is_empty());
        assert!(absent.pairs.is_empty() && absent.pair_of.is_empty());
        assert!(absent.by_account.is_empty() && absent.by_pair.is_empty());
    }
}
