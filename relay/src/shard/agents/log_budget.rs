//! Limit on log lines that peers cause: a peer that can connect must not be able to fill a disk.

use std::cell::Cell;
use std::time::Duration;

use tieline_wire::Moment;
use tracing::info;

/// Lines written in one window; the metrics count every event regardless.
const LINES_MAX: u32 = 100;

const WINDOW: Duration = Duration::from_secs(1);

/// Lines written and lines suppressed in the current window.
#[derive(Debug, Default)]
pub(super) struct LogBudget {
    since: Cell<Moment>,
    lines: Cell<u32>,
    left_out: Cell<u64>,
}

impl LogBudget {
    /// Whether another line may be written.
    pub(super) fn takes_one(&self, now: Moment) -> bool {
        if now >= self.since.get() + WINDOW {
            self.since.set(now);
            self.lines.set(0);
            let lines = self.left_out.take();
            if lines > 0 {
                info!(
                    lines,
                    "log lines about agents suppressed; the metrics count every event"
                );
            }
        }
        if self.lines.get() >= LINES_MAX {
            self.left_out.set(self.left_out.get() + 1);
            return false;
        }
        self.lines.set(self.lines.get() + 1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_cut_off_until_the_next_window() {
        let budget = LogBudget::default();
        let at = |millis| Moment::default() + Duration::from_millis(millis);
        let written = |millis, count| (0..count).filter(|_| budget.takes_one(at(millis))).count();
        assert_eq!(written(10_000, 5_000), LINES_MAX as usize);
        assert_eq!(written(10_999, 10), 0);
        assert_eq!(written(11_000, 10), 10);
    }
}
