//! The protocol's state of an endpoint, and its connections by their handle.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use quinn_proto::ConnectionHandle;

use super::connection::Connection;
use crate::metrics::ShardMetrics;

/// An endpoint's connections.
pub(super) struct Table {
    pub(super) proto: RefCell<quinn_proto::Endpoint>,
    /// By handle: the protocol gives out the lowest number that is free.
    connections: RefCell<Vec<Option<Rc<Connection>>>>,
    metrics: Arc<ShardMetrics>,
}

impl Table {
    pub(super) fn new(proto: quinn_proto::Endpoint, metrics: Arc<ShardMetrics>) -> Self {
        Self {
            proto: RefCell::new(proto),
            connections: RefCell::default(),
            metrics,
        }
    }

    pub(super) fn insert(&self, handle: ConnectionHandle, connection: Rc<Connection>) {
        let mut connections = self.connections.borrow_mut();
        if connections.len() <= handle.0 {
            connections.resize_with(handle.0 + 1, || None);
        }
        connections[handle.0] = Some(connection);
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
            self.metrics.quic_connections.dec();
        }
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

    /// Passes events between a connection and the endpoint's state; true once the connection is over, and removed from
    /// both.
    pub(super) fn exchange(
        &self,
        handle: ConnectionHandle,
        connection: &mut quinn_proto::Connection,
    ) -> bool {
        let mut is_over = false;
        while let Some(event) = connection.poll_endpoint_events() {
            is_over |= event.is_drained();
            let answer = self.proto.borrow_mut().handle_event(handle, event);
            if let Some(answer) = answer {
                connection.handle_event(answer);
            }
        }
        if is_over {
            // At once, because the handle may be given to the next connection.
            self.remove(handle);
        }
        is_over
    }
}
