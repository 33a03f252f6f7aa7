//! Lines of children that are not messages: a person hears of one a minute.

use std::time::{Duration, Instant};

use tieline_bridge::ChildId;

use super::event::StdioEvent;
use crate::plain::{Plain, masked};

/// Least time between two lines that are told: some servers log to their standard output.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Most characters of a line that are told.
const LINE_CHARS_MAX: usize = 200;

/// Most bytes of a line that are looked at: 200 characters have at most 800.
const LOOKED_AT_BYTES_MAX: usize = 1024;

/// Counts lines that are not messages.
#[derive(Debug, Default)]
pub(super) struct Strays {
    told_at: Option<Instant>,
    /// Lines since the one that was told last.
    untold: u64,
    /// Lines that the bridge has not seen.
    besides: u64,
}

impl Strays {
    /// Takes a line; returns what is to be told of it.
    pub(super) fn note(&mut self, now: Instant, child: ChildId, line: &[u8]) -> Option<StdioEvent> {
        let since = self.told_at.map(|at| now.saturating_duration_since(at));
        if since.is_some_and(|since| since < TELL_INTERVAL) {
            self.untold += 1;
            return None;
        }
        self.told_at = Some(now);
        Some(StdioEvent::Stray {
            child: child.0,
            line: shown(line),
            untold: std::mem::take(&mut self.untold),
        })
    }

    /// As [`Strays::note`], for a line that the bridge has not seen and does not count.
    pub(super) fn note_besides(
        &mut self,
        now: Instant,
        child: ChildId,
        line: &[u8],
    ) -> Option<StdioEvent> {
        self.besides += 1;
        self.note(now, child, line)
    }

    /// Number of lines that the bridge has not seen.
    pub(super) const fn besides(&self) -> u64 {
        self.besides
    }
}

/// The beginning of a line without tokens and hidden characters.
fn shown(line: &[u8]) -> String {
    let part = &line[..line.len().min(LOOKED_AT_BYTES_MAX)];
    let text = String::from_utf8_lossy(part);
    let plain = Plain(masked(text.trim())).to_string();
    match plain.char_indices().nth(LINE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &plain[..end]),
        None => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHILD: ChildId = ChildId(3);

    #[test]
    fn one_line_a_minute_is_told_with_the_number_of_the_others() {
        let (mut strays, start) = (Strays::default(), Instant::now());
        let stray = |line: &str, untold| StdioEvent::Stray {
            child: 3,
            line: line.to_owned(),
            untold,
        };
        assert_eq!(strays.note(start, CHILD, b"one\r"), Some(stray("one", 0)));
        assert_eq!(strays.note(start, CHILD, b"two"), None);
        let later = start + TELL_INTERVAL - Duration::from_millis(1);
        assert_eq!(strays.note_besides(later, CHILD, b"three"), None);
        let later = start + TELL_INTERVAL;
        assert_eq!(strays.note(later, CHILD, b"four"), Some(stray("four", 2)));
        assert_eq!(strays.besides(), 1);
    }

    #[test]
    fn a_long_line_is_told_in_part() {
        let line = "ü".repeat(100_000);
        let expected = format!("{}…", "ü".repeat(LINE_CHARS_MAX));
        assert_eq!(shown(line.as_bytes()), expected);
        assert_eq!(shown(b"\x07 bell"), "\\u{7} bell");
    }
}
