//! The task of a connection that sends its packets and keeps its timers.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use quinn_proto::{ConnectionHandle, Transmit};
use tieline_transport::quic::close_code;
use tieline_wire::LinkEnd;

use super::connection::Connection;
use super::id_allowance::IdAllowance;
use super::sender::Sender;
use super::table::{Exchanged, Table};
use crate::io::{Sleep, sleep};

/// Sends in a row, before other tasks get a turn.
const SENDS_A_TURN: usize = 16;

/// Drives one connection; ready once the connection is over.
pub(super) struct Driver {
    table: Rc<Table>,
    sender: Rc<Sender>,
    connection: Rc<Connection>,
    handle: ConnectionHandle,
    /// The next time at which the state has something to do, or an earlier one that it had before.
    timer: Option<(Instant, Sleep)>,
    /// Datagrams that the socket had no room for.
    unsent: Option<(Transmit, Vec<u8>)>,
    /// Packets that were counted as sent, and as lost.
    counted: (u64, u64),
    /// Packets are to be counted: seldom, because the numbers are copied with all others of the connection.
    is_count_due: bool,
    /// Connection IDs that the peer may still use up.
    ids: IdAllowance,
    is_over: bool,
}

/// Outcome of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// There is nothing to send now.
    All,
    /// There may be more to send.
    Some,
    /// The socket has no room.
    Blocked,
}

impl Driver {
    pub(super) const fn new(
        table: Rc<Table>,
        sender: Rc<Sender>,
        connection: Rc<Connection>,
        handle: ConnectionHandle,
        now: Instant,
    ) -> Self {
        Self {
            ids: IdAllowance::new(now),
            table,
            sender,
            connection,
            handle,
            timer: None,
            unsent: None,
            counted: (0, 0),
            is_count_due: false,
            is_over: false,
        }
    }

    /// Fires due timers, and sends.
    fn step(&mut self, now: Instant) -> Sent {
        let connection = Rc::clone(&self.connection);
        let mut proto = connection.proto.borrow_mut();
        let is_due = proto.poll_timeout().is_some_and(|at| at <= now);
        if is_due {
            proto.handle_timeout(now);
        }
        let mut is_over = self.exchange(now, &mut proto);
        let sent = self.transmit(now, &mut proto);
        if sent == Sent::All {
            connection.all_is_sent();
        }
        is_over |= self.exchange(now, &mut proto);
        if std::mem::take(&mut self.is_count_due) || is_over {
            let path = proto.stats().path;
            let (sent, lost) = self.counted;
            self.counted = (path.sent_packets, path.lost_packets);
            self.table.count(
                path.sent_packets.saturating_sub(sent),
                path.lost_packets.saturating_sub(lost),
            );
        }
        drop(proto);
        self.is_over = is_over;
        if is_due || is_over {
            self.connection.news.raise();
        }
        sent
    }

    /// Passes events on; true once the connection is over.
    fn exchange(&mut self, now: Instant, proto: &mut quinn_proto::Connection) -> bool {
        let exchanged = self.table.exchange(now, self.handle, proto, &mut self.ids);
        if exchanged == Exchanged::Flooded {
            let reason = LinkEnd::Protocol;
            let word = reason.word().as_bytes();
            self.connection
                .close_at(now, proto, close_code(reason), word);
            // This round may have sent its packets already: another one tells the peer.
            self.connection.work.set();
        }
        exchanged == Exchanged::Over
    }

    /// Sends what the state has to send.
    fn transmit(&mut self, now: Instant, proto: &mut quinn_proto::Connection) -> Sent {
        if let Some((transmit, bytes)) = &self.unsent {
            if !self.sender.send(transmit, bytes) {
                return Sent::Blocked;
            }
            self.unsent = None;
        }
        let mut allowance = self.connection.allowance.borrow_mut();
        self.connection.note_address(&mut allowance, proto, now);
        let mut space = self.sender.space.borrow_mut();
        for _ in 0..SENDS_A_TURN {
            space.clear();
            let datagrams = self.sender.datagrams_max(proto.current_mtu());
            let Some(mut transmit) = proto.poll_transmit(now, datagrams, &mut space) else {
                return Sent::All;
            };
            let (to, len) = (transmit.destination, transmit.size);
            let stride = transmit.segment_size.unwrap_or(len);
            // A datagram that is longer than the path's MTU tries whether the path takes it.
            let allowed = match len > proto.current_mtu().into() && stride == len {
                true => allowance.allowed_probe(len, now),
                false => allowance.allowed(to, len, stride, now),
            };
            if allowed < len {
                self.table.is_withheld();
                if allowed == 0 {
                    continue;
                }
                transmit.size = allowed;
            }
            if !self.sender.send(&transmit, &space) {
                self.unsent = Some((transmit, space.clone()));
                return Sent::Blocked;
            }
        }
        Sent::Some
    }

    /// Ready once the state has something to do by its timers.
    fn poll_timer(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.connection.proto.borrow_mut().poll_timeout() else {
            self.timer = None;
            return Poll::Pending;
        };
        // A timer that fires too early costs less than one that is set anew with each packet.
        if self.timer.as_ref().is_none_or(|(set, _)| *set > at) {
            self.timer = Some((at, sleep(at.saturating_duration_since(now))));
        }
        let Some((_, timer)) = &mut self.timer else {
            return Poll::Pending;
        };
        let fired = Pin::new(timer).poll(cx);
        if fired.is_ready() {
            self.timer = None;
        }
        fired
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            let now = Instant::now();
            let sent = this.step(now);
            if this.is_over {
                return Poll::Ready(());
            }
            match sent {
                Sent::All => {}
                Sent::Some => cx.waker().wake_by_ref(),
                Sent::Blocked => this.sender.wait(cx),
            }
            // If one is ready, there is something to do, and the other must be asked again anyway.
            let is_due = this.poll_timer(now, cx).is_ready();
            this.is_count_due |= is_due;
            if this.connection.work.poll_wait(cx).is_pending() && !is_due {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // A shard that stops drops its tasks.
        if !self.is_over {
            self.table.remove(self.handle);
        }
    }
}
