//! The protocol's state of an endpoint, and its connections by their handle.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use quinn_proto::ConnectionHandle;

use super::connection::Connection;
use super::id_allowance::IdAllowance;
use crate::metrics::{QuicDrop, ShardMetrics};

/// An endpoint's connections.
pub(super) struct Table {
    pub(super) proto: RefCell<quinn_proto::Endpoint>,
    /// By handle: a number that is free again is given out before a new one.
    connections: RefCell<Vec<Option<Rc<Connection>>>>,
    count: Cell<usize>,
    metrics: Arc<ShardMetrics>,
}

impl Table {
    pub(super) fn new(proto: quinn_proto::Endpoint, metrics: Arc<ShardMetrics>) -> Self {
        Self {
            proto: RefCell::new(proto),
            connections: RefCell::default(),
            count: Cell::new(0),
            metrics,
        }
    }

    pub(super) fn insert(&self, handle: ConnectionHandle, connection: Rc<Connection>) {
        let mut connections = self.connections.borrow_mut();
        if connections.len() <= handle.0 {
            connections.resize_with(handle.0 + 1, || None);
        }
        connections[handle.0] = Some(connection);
        self.count.set(self.count.get() + 1);
        self.metrics.quic_connections.inc();
    }

    pub(super) fn find(&self, handle: ConnectionHandle) -> Option<Rc<Connection>> {
        self.connections.borrow().get(handle.0)?.clone()
    }

    pub(super) fn remove(&self, handle: ConnectionHandle) {
        let mut connections = self.connections.borrow_mut();
        let gone = connections.get_mut(handle.0).and_then(Option::take);
        drop(connections);
        if gone.is_some() {
            self.count.set(self.count.get() - 1);
            self.metrics.quic_connections.dec();
        }
    }

    /// Number of connections.
    pub(super) fn len(&self) -> usize {
        self.count.get()
    }

    /// Counts a datagram that is not sent, because its receiver has not proved its address.
    pub(super) fn is_withheld(&self) {
        self.metrics.quic_dropped(QuicDrop::Unproved, 1);
    }

    /// Counts packets of a connection that were sent, and those that were lost.
    pub(super) fn count(&self, sent: u64, lost: u64) {
        self.metrics.quic_sent.add(sent);
        self.metrics.quic_lost.add(lost);
    }

    /// All connections.
    pub(super) fn all(&self) -> Vec<Rc<Connection>> {
        self.connections
            .borrow()
            .iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// Whether a peer is still to be told that the relay has closed its connection.
    pub(super) fn has_close_due(&self) -> bool {
        let connections = self.connections.borrow();
        connections.iter().flatten().any(|it| it.is_close_due())
    }

    /// Passes events between a connection and the endpoint's state. A connection that is over is removed from both.
    pub(super) fn exchange(
        &self,
        now: Instant,
        handle: ConnectionHandle,
        connection: &mut quinn_proto::Connection,
        ids: &mut IdAllowance,
    ) -> Exchanged {
        let (mut is_over, mut is_flooded) = (false, false);
        while let Some(event) = connection.poll_endpoint_events() {
            is_over |= event.is_drained();
            // The connection is closed now. What the endpoint's state has of it goes with the last event.
            if is_flooded && !event.is_drained() {
                continue;
            }
            let answer = self.proto.borrow_mut().handle_event(handle, event);
            // An answer has connection IDs: first all, and then one for each that the peer retired.
            if let Some(answer) = answer {
                match ids.take(now) {
                    true => connection.handle_event(answer),
                    false => is_flooded = true,
                }
            }
        }
        if is_over {
            // At once, because the handle may be given to the next connection.
            self.remove(handle);
            return Exchanged::Over;
        }
        match is_flooded {
            true if !connection.is_closed() => {
                self.metrics.quic_id_floods.inc();
                Exchanged::Flooded
            }
            _ => Exchanged::GoesOn,
        }
    }
}

/// What became of a connection in [`Table::exchange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchanged {
    GoesOn,
    /// The peer uses up more connection IDs than it may; the connection must be closed.
    Flooded,
    Over,
}
