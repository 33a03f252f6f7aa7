//! Lines of children's standard errors, each with the number of its child.

use std::collections::VecDeque;

use tieline_bridge::ChildId;

/// Most bytes of lines that are kept of ended children, and that are returned of all children.
const LOG_BYTES_MAX: usize = 64 * 1024;

/// The last lines of children that have ended.
#[derive(Debug, Default)]
pub(super) struct EndedLogs {
    lines: VecDeque<String>,
    bytes: usize,
}

impl EndedLogs {
    /// Appends the lines of a child that has ended, and drops the oldest ones.
    pub(super) fn push(&mut self, child: ChildId, lines: Vec<String>) {
        for line in named(child, lines) {
            self.bytes += cost(&line);
            self.lines.push_back(line);
        }
        while self.bytes > LOG_BYTES_MAX
            && let Some(line) = self.lines.pop_front()
        {
            self.bytes -= cost(&line);
        }
    }

    /// The lines, oldest first.
    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}

/// The lines with the number of their child in front.
pub(super) fn named(child: ChildId, lines: Vec<String>) -> Vec<String> {
    let lines = lines.into_iter();
    lines.map(|line| format!("[{child}] {line}")).collect()
}

/// The last lines of each part, which share the limit evenly, so that one child does not displace the others.
pub(super) fn joined(parts: Vec<Vec<String>>) -> Vec<String> {
    let share = LOG_BYTES_MAX / parts.len().max(1);
    let parts = parts.into_iter();
    parts.flat_map(|part| last(part, share)).collect()
}

fn last(mut lines: Vec<String>, bytes_max: usize) -> Vec<String> {
    let mut bytes = 0;
    let kept = lines.iter().rev().take_while(|line| {
        bytes += cost(line);
        bytes <= bytes_max
    });
    let kept = kept.count();
    lines.split_off(lines.len() - kept)
}

/// Bytes that a line counts for, with its end.
fn cost(line: &str) -> usize {
    line.len() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(count: usize, len: usize) -> Vec<String> {
        vec!["x".repeat(len); count]
    }

    #[test]
    fn the_last_lines_of_ended_children_are_kept() {
        let mut logs = EndedLogs::default();
        logs.push(ChildId(1), vec!["first".to_owned()]);
        logs.push(ChildId(2), vec!["second".to_owned()]);
        assert_eq!(logs.lines(), ["[1] first", "[2] second"]);
        logs.push(ChildId(3), lines(70, 1_000));
        let kept = logs.lines();
        assert!(kept.iter().all(|line| line.starts_with("[3] x")));
        assert_eq!(kept.len(), LOG_BYTES_MAX / 1_005);
    }

    #[test]
    fn a_talkative_child_does_not_displace_the_others() {
        let quiet = vec!["quiet".to_owned()];
        let all = joined(vec![quiet.clone(), lines(100, 1_000)]);
        assert_eq!(all[0], "quiet");
        assert_eq!(all.len(), 1 + LOG_BYTES_MAX / 2 / 1_001);
        assert_eq!(joined(vec![quiet.clone()]), quiet);
        assert!(joined(Vec::new()).is_empty());
    }
}
