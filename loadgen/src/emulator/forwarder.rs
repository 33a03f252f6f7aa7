//! The thread between the two devices: reads packets, lets them cross, and writes each when it is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, PipeReader, PipeWriter};
use std::num::NonZeroU64;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::counts::Counts;
use super::crossing::{Crossing, Delivery};
use super::device::{Device, READ_BYTES_MAX};
use super::settings::HELD_BYTES_MAX;

/// Most packets that are read from one device before due ones are written. These are up to 1 MiB, whose copies delay a
/// due packet by less than the 0.5 ms that the emulator promises.
const READS_MAX: usize = 16;

/// Priority of the thread (setpriority(2)): a delay is as exact as the thread's wake-up.
const PRIORITY: i32 = -20;

/// Handle of the thread. Dropping it stops the thread, and with it the path.
#[derive(Debug)]
pub(super) struct Forwarder {
    /// The thread ends when this end of the pipe is closed.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<io::Result<[Counts; 2]>>>,
}

impl Forwarder {
    /// Starts to forward between the devices of the near and of the far end. The first crossing is that from the near
    /// end to the far one.
    pub(super) fn start(devices: [Device; 2], crossings: [Crossing; 2]) -> anyhow::Result<Self> {
        let (stopped, stop) = io::pipe().context("cannot make a pipe")?;
        let forwarding = Forwarding {
            devices,
            crossings,
            flights: [Flight::default(), Flight::default()],
            began: Instant::now(),
            buffer: vec![0; READ_BYTES_MAX],
            deliveries: Vec::new(),
        };
        let thread = Builder::new()
            .name("emulator".to_owned())
            .spawn(move || forwarding.run(&stopped))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Whether the thread still forwards; an error ends it.
    pub(super) fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|it| !it.is_finished())
    }

    /// Stops the thread and returns the counters of both directions.
    pub(super) fn stop(mut self) -> anyhow::Result<[Counts; 2]> {
        drop(self.stop.take());
        let thread = self.thread.take().context("the emulator has no thread")?;
        let counts = thread
            .join()
            .map_err(|_| anyhow!("the emulator's thread panicked"))?;
        counts.context("the emulator cannot use its devices any more")
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// State of the thread. Index 0 is the near end, and the direction from there to the far one.
struct Forwarding {
    devices: [Device; 2],
    crossings: [Crossing; 2],
    /// Packets on their way to each device.
    flights: [Flight; 2],
    began: Instant,
    buffer: Vec<u8>,
    /// Empty between two packets; kept for its memory.
    deliveries: Vec<Delivery>,
}

impl Forwarding {
    fn run(mut self, stopped: &PipeReader) -> io::Result<[Counts; 2]> {
        // Without these two, which a restricted process may be refused, delays are less exact on a busy machine.
        let _ = rustix::process::setpriority_process(None, PRIORITY);
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        while !self.is_stopped(stopped)? {
            for end in 0..2 {
                self.deliver(end);
                self.take_in(end)?;
            }
        }
        Ok(self.crossings.map(|crossing| crossing.counts()))
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Waits until a packet can be read or is due; returns whether the thread was stopped.
    fn is_stopped(&self, stopped: &PipeReader) -> io::Result<bool> {
        let next = self.flights.iter().filter_map(Flight::next_ns).min();
        let now_ns = self.now_ns();
        let wait = next.map(|at_ns| Duration::from_nanos(at_ns.saturating_sub(now_ns)));
        let wait = wait.map(Timespec::try_from).transpose();
        let wait = wait.map_err(io::Error::other)?;
        let [near, far] = &self.devices;
        let mut watched = [
            PollFd::new(near, PollFlags::IN),
            PollFd::new(far, PollFlags::IN),
            PollFd::new(stopped, PollFlags::IN),
        ];
        match poll(&mut watched, wait.as_ref()) {
            Ok(_) => Ok(!watched[2].revents().is_empty()),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what is due at the device of `end`.
    fn deliver(&mut self, end: usize) {
        let now_ns = self.now_ns();
        while let Some(delivery) = self.flights[end].due(now_ns) {
            // Packets for this end come from the other one; answers of routers count there as well.
            let counts = self.crossings[1 - end].counts_mut();
            counts.late_ns_max = counts.late_ns_max.max(now_ns - delivery.at_ns);
            if self.devices[end].send(&delivery.bytes).is_err() {
                counts.refused += 1;
            }
        }
    }

    /// Reads packets of the device of `end` and sends them on their way.
    fn take_in(&mut self, end: usize) -> io::Result<()> {
        for _ in 0..READS_MAX {
            let Some(bytes) = self.devices[end].receive(&mut self.buffer)? else {
                break;
            };
            let now_ns = self.now_ns();
            let has_room = self.flights[1 - end].bytes + bytes as u64 <= HELD_BYTES_MAX;
            let answer = self.crossings[end].offer(
                &mut self.buffer[..bytes],
                now_ns,
                has_room,
                &mut self.deliveries,
            );
            for delivery in self.deliveries.drain(..) {
                self.flights[1 - end].push(delivery);
            }
            if let Some(answer) = answer {
                self.flights[end].push(answer);
            }
        }
        Ok(())
    }
}

/// Packets on their way to one device, the next one due first.
#[derive(Debug, Default)]
struct Flight {
    /// Time of the arrival, number of the packet, bytes. The number keeps packets of one time in order.
    waiting: BinaryHeap<Reverse<(u64, u64, Vec<u8>)>>,
    pushed: u64,
    /// Bytes of all packets.
    bytes: u64,
}

impl Flight {
    fn push(&mut self, delivery: Delivery) {
        self.bytes += delivery.bytes.len() as u64;
        self.pushed += 1;
        let Delivery { at_ns, bytes } = delivery;
        self.waiting.push(Reverse((at_ns, self.pushed, bytes)));
    }

    /// Time of the next arrival.
    fn next_ns(&self) -> Option<u64> {
        self.waiting.peek().map(|Reverse((at_ns, ..))| *at_ns)
    }

    /// Takes the next packet that is due at `now_ns`.
    fn due(&mut self, now_ns: u64) -> Option<Delivery> {
        self.next_ns().filter(|at_ns| *at_ns <= now_ns)?;
        let Reverse((at_ns, _, bytes)) = self.waiting.pop()?;
        self.bytes -= bytes.len() as u64;
        Some(Delivery { at_ns, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_leave_in_the_order_of_their_times_and_then_of_their_coming() {
        let mut flight = Flight::default();
        for (at_ns, byte) in [(5, 1), (3, 2), (5, 0), (9, 3)] {
            flight.push(Delivery {
                at_ns,
                bytes: vec![byte],
            });
        }
        assert_eq!((flight.bytes, flight.next_ns()), (4, Some(3)));
        let due: Vec<u8> = std::iter::from_fn(|| flight.due(5))
            .map(|delivery| delivery.bytes[0])
            .collect();
        assert_eq!(due, [2, 1, 0]);
        assert_eq!((flight.bytes, flight.next_ns()), (1, Some(9)));
        assert_eq!(flight.due(8), None);
    }
}
