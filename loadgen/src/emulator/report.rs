//! The counters of both directions, for a reader and for programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::counts::Counts;

/// What the path did.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Report {
    /// Seed of loss and reordering.
    pub(super) seed: u64,
    pub(super) near_to_far: Counts,
    pub(super) far_to_near: Counts,
}

impl Report {
    /// Two paragraphs, one for each direction.
    pub(super) fn text(&self) -> String {
        let mut text = format!("path, seed {}\n", self.seed);
        for (name, counts) in [
            ("near to far", &self.near_to_far),
            ("far to near", &self.far_to_near),
        ] {
            let _ = writeln!(text, "{name}: {}", line(counts));
        }
        text
    }
}

/// The counters that are not zero, in one line.
fn line(counts: &Counts) -> String {
    let mut line = format!(
        "{} packets, {} bytes; {} packets, {} bytes passed",
        counts.packets, counts.bytes, counts.passed_packets, counts.passed_bytes
    );
    let named = [
        ("lost", counts.lost),
        ("dropped by the full queue", counts.queue_full),
        ("held back", counts.held_back),
        ("of UDP dropped", counts.udp_dropped),
        ("of ICMP dropped", counts.icmp_dropped),
        ("too big", counts.too_big),
        ("refused by the receiver's device", counts.refused),
        ("dropped before the emulator read them", counts.unread),
    ];
    for (name, count) in named.into_iter().filter(|(_, count)| *count > 0) {
        let _ = write!(line, ", {count} {name}");
    }
    let ms = |ns: u64| Duration::from_nanos(ns).as_secs_f64() * 1e3;
    let _ = write!(
        line,
        "; longest time in the queue {:.2} ms, latest arrival {:.2} ms too late",
        ms(counts.queue_ns_max),
        ms(counts.late_ns_max)
    );
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_what_happened_and_leaves_out_what_did_not() {
        let report = Report {
            seed: 7,
            near_to_far: Counts {
                packets: 10,
                bytes: 15_000,
                passed_packets: 8,
                passed_bytes: 12_000,
                lost: 2,
                queue_ns_max: 1_250_000,
                ..Counts::default()
            },
            far_to_near: Counts::default(),
        };
        let text = report.text();
        let expected = "near to far: 10 packets, 15000 bytes; 8 packets, 12000 bytes passed, 2 lost; longest time in \
                        the queue 1.25 ms, latest arrival 0.00 ms too late\n";
        assert!(
            text.starts_with("path, seed 7\n") && text.contains(expected),
            "{text}"
        );
        assert!(!text.contains("too big"), "{text}");
        let json = serde_json::to_value(report).unwrap();
        assert_eq!(json["near_to_far"]["lost"], 2);
        assert_eq!(json["far_to_near"]["packets"], 0);
    }
}
