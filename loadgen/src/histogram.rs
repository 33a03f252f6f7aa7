//! Latency recorder that counts from the intended send time of each request.
//!
//! In an open loop the intended send time follows from the arrival rate alone. A stall of the path, or of
//! this generator, therefore counts against every request that fell due during the stall, not only
//! against the request in flight. Times are nanoseconds since an origin that the caller chooses.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

/// Highest trackable latency, in nanoseconds; longer latencies are recorded as this value.
const LATENCY_NS_MAX: u64 = 120_000_000_000;

/// Three significant digits: a recorded value is off by at most 0.1 %.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Due times of one thread's requests, at a constant rate over all threads together.
///
/// Arrival `g` of the whole run is due at `start + g / rate` and belongs to connection
/// `g % connections`. A thread owns the connections `first`, `first + step`, `first + 2 step`, ...
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// Arrivals per second, over all connections.
    pub(crate) rate: u32,
    /// Due time of arrival 0.
    pub(crate) start_ns: u64,
    /// Number of connections of the whole run.
    pub(crate) connections: u64,
    /// Index of this thread's first connection.
    pub(crate) first: u64,
    /// Distance between the indices of this thread's connections.
    pub(crate) step: u64,
    /// Number of this thread's connections.
    pub(crate) own: u64,
}

impl Schedule {
    /// Due time of this thread's arrival `n`, which belongs to the thread's connection `n % own`.
    pub(crate) fn due_ns(&self, n: u64) -> u64 {
        let connection = self.first + self.step * (n % self.own);
        let arrival = u128::from(n / self.own * self.connections + connection);
        let offset = arrival * 1_000_000_000 / u128::from(self.rate.max(1));
        self.start_ns
            .saturating_add(u64::try_from(offset).unwrap_or(u64::MAX))
    }
}

/// Measured part of a round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// End of the warm-up and start of the measured part.
    pub(crate) from_ns: u64,
    /// End of the measured part; no request is sent from here on.
    pub(crate) until_ns: u64,
}

impl Window {
    /// Whether a time lies within the measured part.
    pub(crate) fn contains(&self, ns: u64) -> bool {
        (self.from_ns..self.until_ns).contains(&ns)
    }
}

/// Measurements of one thread in one round.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    window: Window,
    /// Latency: from intended send to the last byte of the answer, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// Delay of the generator itself: from intended send to the first attempt to send, in nanoseconds.
    pub(crate) send_delay: Histogram<u64>,
    /// Answers that arrived within the window; divisor of rates and of CPU time per request.
    pub(crate) answered_in_window: u64,
    /// Requests of the window that had no answer at the end of the round.
    pub(crate) unanswered: u64,
    /// Duration of bursts: from the start to the last answer, in nanoseconds.
    pub(crate) bursts: Histogram<u64>,
    /// Bulk bytes that the client's sockets took within the window.
    pub(crate) up_bytes: u64,
    /// Bulk bytes that the client received within the window.
    pub(crate) down_bytes: u64,
}

impl Recorder {
    /// An empty recorder.
    pub(crate) fn new(window: Window) -> Self {
        let empty = || {
            Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS)
                .expect("the bounds are constants that the histogram accepts")
        };
        Self {
            window,
            latency: empty(),
            send_delay: empty(),
            answered_in_window: 0,
            unanswered: 0,
            bursts: empty(),
            up_bytes: 0,
            down_bytes: 0,
        }
    }

    /// Records the first attempt to write a request to the socket.
    pub(crate) fn sent(&mut self, intended_ns: u64, now_ns: u64) {
        if self.window.contains(intended_ns) {
            self.send_delay
                .saturating_record(now_ns.saturating_sub(intended_ns).max(1));
        }
    }

    /// Records a complete answer.
    pub(crate) fn answered(&mut self, intended_ns: u64, now_ns: u64) {
        if self.window.contains(now_ns) {
            self.answered_in_window += 1;
        }
        if self.window.contains(intended_ns) {
            self.latency
                .saturating_record(now_ns.saturating_sub(intended_ns).max(1));
        }
    }

    /// Records an unanswered request with the time it waited: omitting it would understate latency.
    pub(crate) fn gave_up(&mut self, intended_ns: u64, now_ns: u64) {
        if self.window.contains(intended_ns) {
            self.unanswered += 1;
            self.latency
                .saturating_record(now_ns.saturating_sub(intended_ns).max(1));
        }
    }

    /// Records a burst whose last answer has arrived.
    pub(crate) fn burst(&mut self, begun_ns: u64, now_ns: u64) {
        if self.window.contains(begun_ns) {
            self.bursts
                .saturating_record(now_ns.saturating_sub(begun_ns).max(1));
        }
    }

    /// Records bulk bytes sent up and received down.
    pub(crate) fn moved(&mut self, up: usize, down: usize, now_ns: u64) {
        if self.window.contains(now_ns) {
            self.up_bytes += up as u64;
            self.down_bytes += down as u64;
        }
    }

    /// Adds the measurements of another thread.
    pub(crate) fn merge(&mut self, other: &Self) {
        let merged = self.latency.add(&other.latency).is_ok()
            && self.send_delay.add(&other.send_delay).is_ok()
            && self.bursts.add(&other.bursts).is_ok();
        assert!(merged, "histograms with the same bounds can be added");
        self.answered_in_window += other.answered_in_window;
        self.unanswered += other.unanswered;
        self.up_bytes += other.up_bytes;
        self.down_bytes += other.down_bytes;
    }
}

/// One interval of a histogram log.
#[derive(Debug)]
pub(crate) struct Interval<'a> {
    /// Measured path.
    pub(crate) tag: String,
    /// Start of the measurement.
    pub(crate) started: SystemTime,
    /// Duration of the measurement.
    pub(crate) length: Duration,
    /// Latency in nanoseconds.
    pub(crate) latency: &'a Histogram<u64>,
}

/// Writes a log in the format of HdrHistogram's tools (interval log, V2 encoding).
///
/// Values are nanoseconds; the human-readable maximum of each line is in milliseconds.
pub(crate) fn write_log(
    out: &mut impl Write,
    title: &str,
    intervals: &[Interval<'_>],
) -> anyhow::Result<()> {
    let start = intervals
        .iter()
        .map(|interval| interval.started)
        .min()
        .unwrap_or(UNIX_EPOCH);
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment(title)
        .add_comment("[Histogram log format version 1.3]")
        .with_start_time(start)
        .with_base_time(start)
        .with_max_value_divisor(1_000_000.0)
        .begin_log_with(out, &mut serializer)?;
    for interval in intervals {
        let since_start = interval.started.duration_since(start).unwrap_or_default();
        log.write_histogram(
            interval.latency,
            since_start,
            interval.length,
            Tag::new(&interval.tag),
        )
        .map_err(|error| anyhow::anyhow!("{error}"))
        .context("cannot write a histogram")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    const MS: u64 = 1_000_000;

    fn schedule(rate: u32, connections: u64, first: u64, step: u64, own: u64) -> Schedule {
        Schedule {
            rate,
            start_ns: 5,
            connections,
            first,
            step,
            own,
        }
    }

    #[test]
    fn arrivals_are_evenly_spaced_and_do_not_drift() {
        let schedule = schedule(3000, 16, 0, 1, 16);
        assert_eq!(schedule.due_ns(0), 5);
        assert_eq!(schedule.due_ns(1), 5 + 333_333);
        // The rounding error of a third of a nanosecond per arrival must not accumulate.
        assert_eq!(schedule.due_ns(3_000_000), 5 + 1_000_000_000_000);
    }

    #[test]
    fn threads_share_the_arrivals_without_gap_or_overlap() {
        let (rate, connections) = (1000, 5);
        let whole = schedule(rate, connections, 0, 1, connections);
        let mut shared: Vec<u64> = (0..6)
            .map(|n| schedule(rate, connections, 0, 2, 3).due_ns(n))
            .collect();
        shared.extend((0..4).map(|n| schedule(rate, connections, 1, 2, 2).due_ns(n)));
        shared.sort_unstable();
        assert_eq!(shared, (0..10).map(|n| whole.due_ns(n)).collect::<Vec<_>>());
    }

    #[test]
    fn a_stall_counts_against_every_request_that_fell_due_during_it() {
        // One request per millisecond, answered after 1 µs, except for a stall from 100 ms to 200 ms.
        let schedule = Schedule {
            start_ns: 0,
            ..schedule(1000, 1, 0, 1, 1)
        };
        let mut recorder = Recorder::new(Window {
            from_ns: 0,
            until_ns: 1000 * MS,
        });
        for n in 0..1000 {
            let due = schedule.due_ns(n);
            let answered = if (100 * MS..200 * MS).contains(&due) {
                200 * MS
            } else {
                due + 1000
            };
            recorder.answered(due, answered);
        }
        // A tenth of all requests waited, half of those for more than 50 ms. A closed-loop generator,
        // which waits for each answer, would have recorded a single slow request.
        assert_eq!(recorder.latency.len(), 1000);
        let slow = recorder.latency.count_between(2 * MS, LATENCY_NS_MAX);
        assert!((98..=100).contains(&slow), "{slow}");
        let p95 = recorder.latency.value_at_quantile(0.95);
        assert!((49 * MS..52 * MS).contains(&p95), "{p95}");
        assert!(recorder.latency.max() >= 100 * MS - 100_000);
    }

    #[test]
    fn the_intended_time_decides_what_is_part_of_a_round() {
        let mut recorder = Recorder::new(Window {
            from_ns: 100,
            until_ns: 200,
        });
        recorder.answered(99, 150); // due in the warm-up, answered in the window
        recorder.answered(150, 160);
        recorder.answered(199, 900); // due in the window, answered after it
        recorder.answered(200, 210);
        recorder.gave_up(199, 1_000);
        recorder.gave_up(50, 1_000);
        assert_eq!(recorder.latency.len(), 3);
        assert_eq!(recorder.answered_in_window, 2);
        assert_eq!(recorder.unanswered, 1);
    }

    #[test]
    fn merging_adds_counts_and_keeps_the_maximum() {
        let window = Window {
            from_ns: 0,
            until_ns: 100,
        };
        let (mut left, mut right) = (Recorder::new(window), Recorder::new(window));
        left.answered(0, 10);
        left.sent(0, 1);
        right.answered(0, 90);
        right.gave_up(1, 500);
        left.merge(&right);
        assert_eq!((left.latency.len(), left.latency.max()), (3, 499));
        assert_eq!(
            (
                left.answered_in_window,
                left.unanswered,
                left.send_delay.len()
            ),
            (2, 1, 1)
        );
    }

    #[test]
    fn a_log_can_be_read_back() {
        let mut recorder = Recorder::new(Window {
            from_ns: 0,
            until_ns: 100,
        });
        recorder.answered(1, 51);
        let interval = Interval {
            tag: "direct".to_owned(),
            started: UNIX_EPOCH + Duration::from_secs(1000),
            length: Duration::from_millis(1500),
            latency: &recorder.latency,
        };
        let mut log = Vec::new();
        write_log(&mut log, "one line", &[interval]).unwrap();
        let entry = IntervalLogIterator::new(&log)
            .filter_map(Result::ok)
            .find_map(|entry| match entry {
                LogEntry::Interval(interval) => Some(interval),
                LogEntry::StartTime(_) | LogEntry::BaseTime(_) => None,
            })
            .unwrap();
        assert_eq!(
            entry.tag().map(|tag| tag.as_str().to_owned()),
            Some("direct".to_owned())
        );
        let bytes = {
            use std::process::{Command, Stdio};
            let mut decode = Command::new("base64")
                .arg("-d")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            decode
                .stdin
                .take()
                .unwrap()
                .write_all(entry.encoded_histogram().as_bytes())
                .unwrap();
            decode.wait_with_output().unwrap().stdout
        };
        let read: Histogram<u64> = Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .unwrap();
        assert_eq!((read.len(), read.max()), (1, 50));
    }
}
