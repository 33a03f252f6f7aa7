//! One direction of the path as arithmetic: which packet is lost, which waits, and when each arrives. Knows neither
//! sockets nor a clock.
//!
//! A packet meets, in this order: loss, the queue with its two limits, the rate, the delay. A lost packet takes neither
//! a place in the queue nor time of the bottleneck, as with netem.

use std::collections::VecDeque;

const NS_PER_S: u64 = 1_000_000_000;

/// What one direction does to packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct WaySettings {
    /// Time from the end of a packet's transmission to its arrival.
    pub(crate) delay_ns: u64,
    /// Rate of the bottleneck, in bits per second; `None` for none.
    pub(crate) rate_bits: Option<u64>,
    /// Bytes that may wait for the bottleneck, the packet in transmission included.
    pub(crate) queue_bytes_max: u64,
    /// Packets that may wait for the bottleneck, the packet in transmission included.
    pub(crate) queue_packets_max: usize,
    /// Share of packets that are lost, from 0 to 1.
    pub(crate) loss: f64,
    /// Share of packets that are held back, from 0 to 1.
    pub(crate) reorder: f64,
    /// Time by which a packet that is held back arrives later.
    pub(crate) held_back_ns: u64,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    /// The loss took it.
    Lost,
    /// It met a full queue.
    QueueFull,
    /// It arrives.
    Arrives {
        /// Time of the arrival, on the clock of [`Way::offer`].
        at_ns: u64,
        /// Time until its transmission has ended.
        queued_ns: u64,
        /// Whether later packets may overtake it.
        is_held_back: bool,
    },
}

/// A packet that the bottleneck has not yet sent.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    sent_at_ns: u64,
    bytes: u64,
}

/// State of one direction.
#[derive(Debug)]
pub(crate) struct Way {
    settings: WaySettings,
    random: fastrand::Rng,
    /// When the bottleneck has sent all packets that it took.
    free_at_ns: u64,
    /// Part of a nanosecond at the end of `free_at_ns`, as bits times [`NS_PER_S`]; without it, the rate of small
    /// packets would be off by their rounding.
    remainder: u64,
    waiting: VecDeque<Waiting>,
    waiting_bytes: u64,
}

impl Way {
    pub(crate) fn new(settings: WaySettings, seed: u64) -> Self {
        Self {
            settings,
            random: fastrand::Rng::with_seed(seed),
            free_at_ns: 0,
            remainder: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        }
    }

    /// Decides on the next packet, of `bytes` with its IP header. `now_ns` never goes back.
    pub(crate) fn offer(&mut self, bytes: u64, now_ns: u64) -> Fate {
        // Both are drawn for every packet, so that the fate of the n-th depends on seed and n alone.
        let is_lost = self.random.f64() < self.settings.loss;
        let is_held_back = self.random.f64() < self.settings.reorder;
        if is_lost {
            return Fate::Lost;
        }
        if !self.has_room(bytes, now_ns) {
            return Fate::QueueFull;
        }
        let sent_at_ns = self.transmit(bytes, now_ns);
        let held_back_ns = match is_held_back {
            true => self.settings.held_back_ns,
            false => 0,
        };
        Fate::Arrives {
            at_ns: sent_at_ns + self.settings.delay_ns + held_back_ns,
            queued_ns: sent_at_ns - now_ns,
            is_held_back,
        }
    }

    /// Whether the queue takes one more packet; an empty one takes any.
    fn has_room(&mut self, bytes: u64, now_ns: u64) -> bool {
        while let Some(&first) = self.waiting.front()
            && first.sent_at_ns <= now_ns
        {
            self.waiting.pop_front();
            self.waiting_bytes -= first.bytes;
        }
        self.waiting.is_empty()
            || (self.waiting.len() < self.settings.queue_packets_max
                && self.waiting_bytes + bytes <= self.settings.queue_bytes_max)
    }

    /// Puts the packet at the end of the queue; returns when the bottleneck has sent it.
    fn transmit(&mut self, bytes: u64, now_ns: u64) -> u64 {
        let Some(rate_bits) = self.settings.rate_bits else {
            return now_ns;
        };
        if self.free_at_ns < now_ns {
            self.free_at_ns = now_ns;
            self.remainder = 0;
        }
        let bit_ns = bytes * 8 * NS_PER_S + self.remainder;
        self.free_at_ns += bit_ns / rate_bits;
        self.remainder = bit_ns % rate_bits;
        self.waiting.push_back(Waiting {
            sent_at_ns: self.free_at_ns,
            bytes,
        });
        self.waiting_bytes += bytes;
        self.free_at_ns
    }
}

#[cfg(test)]
mod tests;
