//! A link over QUIC: moves bytes between the streams of its connection and the mux.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use quinn_proto::{ConnectionError, Event};
use tieline_transport::quic::{self, LinkStreams};
use tieline_wire::{LinkEnd, SendBatching};
use tracing::debug;

use super::{LinkHost, both, is_of_unreached_agent, pass_on};
use crate::io::{sleep, timeout, turn};
use crate::quic::Connection;
use crate::session::SharedMux;

/// Time for an agent to acknowledge the reason of the link's end, and what was sent before.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Moves bytes until the link ends, and returns why. The connection is closed and every session reset before this returns.
pub(crate) async fn run(
    connection: &Connection,
    link: &Rc<SharedMux>,
    host: &impl LinkHost,
) -> LinkEnd {
    let streams = LinkStreams::relay();
    // Payload waits until the agent has acknowledged it, and must not pin the block that it was read into.
    link.carrier().runs_over_quic(streams.progress());
    let streams = RefCell::new(streams);
    let heard = Cell::new(false);
    let reason = {
        let reader = pin!(read(connection, &streams, link, host, &heard));
        let writer = pin!(write(connection, &streams, link));
        both(reader, writer, || heard.take() && link.has_output()).await
    };
    connection.end(link.closing().unwrap_or(reason));
    link.fail_sessions(reason);
    reason
}

/// Reads until the connection is lost; returns the reason of the link's end.
async fn read(
    connection: &Connection,
    streams: &RefCell<LinkStreams>,
    link: &Rc<SharedMux>,
    host: &impl LinkHost,
    heard: &Cell<bool>,
) -> LinkEnd {
    loop {
        let lost = poll_fn(|cx| poll_events(connection, &mut streams.borrow_mut(), cx)).await;
        heard.set(true);
        let mut stay = None;
        let outcome = connection.with(|proto, _| {
            link.receive_streams(&mut streams.borrow_mut(), proto, |mux, event| {
                // A connection cannot move to another shard, which has another endpoint.
                pass_on(host, mux, event, false, &mut stay);
            })
        });
        // First, because an error behind a refused hello is not the reason of the link's end.
        if let Some(Err(reason)) = stay {
            link.close(reason);
        }
        if let Err(error) = outcome {
            debug!(%error, "link broken");
            link.close(error.reason);
        }
        if let Some(error) = lost {
            debug!(%error, "link's connection lost");
            return end_of(connection, &error);
        }
        if link.closing().is_some() {
            // The writer sends the reason, and ends the link.
            std::future::pending::<()>().await;
        }
    }
}

/// Notes all events of the connection; ready if there was one, with the error that ended the connection.
fn poll_events(
    connection: &Connection,
    streams: &mut LinkStreams,
    cx: &mut Context<'_>,
) -> Poll<Option<ConnectionError>> {
    let mut any = false;
    while let Poll::Ready(event) = connection.poll_event(cx) {
        any = true;
        match event {
            Event::Stream(event) => streams.handle_event(event),
            Event::ConnectionLost { reason } => return Poll::Ready(Some(reason)),
            _ => {}
        }
    }
    // Resets wait for acknowledgements, which are no events.
    let is_acknowledged = connection.take_heard() && streams.poll_timeout().is_some();
    match any || is_acknowledged {
        true => Poll::Ready(None),
        false => Poll::Pending,
    }
}

/// Why a link ends whose `connection` was lost.
fn end_of(connection: &Connection, error: &ConnectionError) -> LinkEnd {
    match error {
        // The relay stops and closes all connections, or the agent uses up connection IDs.
        ConnectionError::LocallyClosed => connection.own_end().unwrap_or(LinkEnd::ShuttingDown),
        // The agent's reason is its own, and none for which the relay evicts a link.
        ConnectionError::ApplicationClosed(_) => LinkEnd::LinkLost,
        error => quic::lost(error).reason,
    }
}

async fn write(
    connection: &Connection,
    streams: &RefCell<LinkStreams>,
    link: &Rc<SharedMux>,
) -> LinkEnd {
    let transmit = || {
        connection.with(|proto, _| link.transmit_streams(&mut streams.borrow_mut(), proto));
    };
    loop {
        sendable(streams, link).await;
        let mut batching = SendBatching::default();
        while link.closing().is_none() && link.goes_on(&mut batching) {
            turn().await;
        }
        transmit();
        if let Some(reason) = link.closing() {
            if !is_of_unreached_agent(reason) {
                let arrived = poll_fn(|cx| {
                    let lost = poll_events(connection, &mut streams.borrow_mut(), cx);
                    transmit();
                    let has_arrived =
                        connection.with(|proto, _| streams.borrow().has_arrived(proto));
                    match has_arrived || matches!(lost, Poll::Ready(Some(_))) {
                        true => Poll::Ready(()),
                        false => Poll::Pending,
                    }
                });
                // The connection ends now, whether or not the agent knows why.
                let _ = timeout(FAREWELL_TIMEOUT, arrived).await;
            }
            return reason;
        }
    }
}

/// Waits until there may be something to send, or a reset has waited long enough.
async fn sendable(streams: &RefCell<LinkStreams>, link: &SharedMux) {
    let mut timer = None;
    poll_fn(|cx| {
        if link.poll_sendable(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(at) = streams.borrow().poll_timeout() else {
            return Poll::Pending;
        };
        let timer = timer.get_or_insert_with(|| sleep(link.time_until(at)));
        Pin::new(timer).poll(cx)
    })
    .await;
}
