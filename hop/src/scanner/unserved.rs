//! Request lines of the heads that went to hyper and that it has not served yet: which of them it refuses is known only
//! once it does.

use std::collections::VecDeque;

use super::head::RequestLine;

/// Request lines kept of heads in front of the last one, 16 bytes each. Only requests that are sent without waiting for
/// answers take places; hyper's buffer holds more heads than this only if they are short.
pub(super) const EARLIER_MAX: usize = 64;

/// Request lines of complete heads, numbered from 0 on in the order of the caller's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unserved {
    /// Number of complete heads so far, the one that the scanner refuses included.
    count: u64,
    /// Request line of the last of them.
    last: RequestLine,
    /// Number of leading heads whose request lines are not needed any more.
    served: u64,
    /// Request lines in front of the last one, without a gap: the first one has the number `first`.
    earlier: VecDeque<RequestLine>,
    first: u64,
}

impl Unserved {
    /// State before the first head.
    pub(super) const fn new() -> Self {
        Self {
            count: 0,
            last: RequestLine::EMPTY,
            served: 0,
            earlier: VecDeque::new(),
            first: 0,
        }
    }

    /// Number of the head that is not complete yet.
    pub(super) const fn next_number(&self) -> u64 {
        self.count
    }

    /// Takes the request line of a head that is complete.
    pub(super) fn push(&mut self, line: RequestLine) {
        let before = self.count.checked_sub(1);
        if let Some(number) = before.filter(|number| *number >= self.served) {
            if self.earlier.is_empty() {
                self.first = number;
            }
            let kept = self.earlier.len();
            // A line that found no place leaves a gap, which no later line may stand behind.
            if kept < EARLIER_MAX && self.first + kept as u64 == number {
                self.earlier.push_back(self.last);
            }
        }
        self.last = line;
        self.count += 1;
    }

    /// Drops the request lines of the first `served` heads, except the last line.
    pub(super) fn drop_served(&mut self, served: u64) {
        self.served = served;
        while self.first < served && self.earlier.pop_front().is_some() {
            self.first += 1;
        }
        if self.earlier.is_empty() {
            // Frees the buffer, which would otherwise live as long as the connection.
            self.earlier = VecDeque::new();
        }
    }

    /// Request line of the complete head with this number; `None` if it was dropped, or found no place.
    pub(super) fn line(&self, number: u64) -> Option<RequestLine> {
        if number.checked_add(1) == Some(self.count) {
            return Some(self.last);
        }
        let at = number.checked_sub(self.first)?;
        self.earlier.get(usize::try_from(at).ok()?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request line that is told from others by its length.
    const fn line(number: usize) -> RequestLine {
        RequestLine {
            target_bytes: 100 + number,
            ..RequestLine::EMPTY
        }
    }

    /// Numbers below `count` whose lines are known; checks that each is the right one.
    fn known(unserved: &Unserved, count: usize) -> Vec<usize> {
        let is_known = |number: &usize| {
            let found = unserved.line(*number as u64);
            assert!(found.is_none_or(|it| it == line(*number)), "{number}");
            found.is_some()
        };
        (0..count).filter(is_known).collect()
    }

    #[test]
    fn heads_that_were_served_before_the_next_one_came_take_no_place() {
        let mut unserved = Unserved::new();
        assert!(known(&unserved, 3).is_empty());
        for number in 0..5 {
            unserved.drop_served(number as u64);
            unserved.push(line(number));
            assert_eq!(known(&unserved, 9), [number]);
            assert_eq!(unserved.earlier.capacity(), 0);
        }
    }

    #[test]
    fn heads_that_wait_are_known_until_they_are_served() {
        let mut unserved = Unserved::new();
        for number in 0..5 {
            unserved.push(line(number));
        }
        for served in 0..5 {
            unserved.drop_served(served as u64);
            assert_eq!(known(&unserved, 9), (served..5).collect::<Vec<_>>());
        }
        unserved.drop_served(5);
        assert_eq!(unserved.earlier.capacity(), 0);
    }

    #[test]
    fn lines_beyond_the_limit_are_unknown_and_never_taken_for_others() {
        let all = EARLIER_MAX + 9;
        let mut unserved = Unserved::new();
        for number in 0..all {
            unserved.push(line(number));
        }
        let expected = |first: usize, last| (first..EARLIER_MAX).chain([last]).collect::<Vec<_>>();
        assert_eq!(known(&unserved, all + 9), expected(0, all - 1));
        // There is room again, but not behind the gap.
        unserved.drop_served(7);
        unserved.push(line(all));
        assert_eq!(known(&unserved, all + 9), expected(7, all));
        unserved.drop_served(EARLIER_MAX as u64 + 3);
        assert_eq!(known(&unserved, all + 9), [all]);
        unserved.push(line(all + 1));
        assert_eq!(known(&unserved, all + 9), [all, all + 1]);
    }
}
