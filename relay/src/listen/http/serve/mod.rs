//! Serves one frontend connection: from the caller's first byte to the reason for the end.
//!
//! `connection` drives hyper's server, which calls `forward` for each request. `forward` reads the request into a
//! `context`, finds the `destination`, adapts the request for it, sends it through `metadata` (`exchange`), and lets
//! the answer `pass`; `upgrade` answers requests for a WebSocket, and `redirect` those in clear text. `metadata`
//! repeats requests for OAuth metadata, and maps URLs in such answers and in forms. What the requests of a connection
//! share is its [`Front`].

mod connection;
mod context;
mod destination;
mod exchange;
mod forward;
mod metadata;
mod pass;
mod redirect;
mod upgrade;

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use hyper::rt::{Read, Write};

use super::frontend::caller::Outlet;
use super::frontend::deadline::{Watchdog, linger};
use super::frontend::refused_head;
use super::frontend::state::FrontendState;
use super::gateway::Gateway;
use super::gateway::ended::Ended;
use super::gateway::settings::{Peer, Settings};
use super::gateway::upgraded::Upgraded;
use super::inbound::forwarded::PeerName;
use super::outbound::pool::Pool;
use super::policy::callers::Callers;
use crate::io::Liveness;

/// State that all requests of one frontend connection share.
struct Front<G: Gateway> {
    gateway: G,
    pool: Rc<Pool<G>>,
    callers: Callers<G>,
    settings: Rc<Settings>,
    peer: Peer,
    peer_name: PeerName,
    /// What the connection becomes once its last answer, a `101`, is written.
    upgraded: RefCell<Option<Upgraded<G>>>,
}

/// Serves one frontend connection until it ends, and returns it to be closed or reset; or until it has left HTTP, with
/// what it became and the caller's bytes that came behind the request.
///
/// Dropping the future drops every session of the connection.
pub(crate) async fn serve<IO, G>(
    io: IO,
    gateway: G,
    peer: Peer,
    settings: Rc<Settings>,
) -> (IO, Ended, Option<(Upgraded<G>, Bytes)>)
where
    IO: Read + Write + Liveness + Unpin + 'static,
    G: Gateway,
{
    let state = Rc::new(FrontendState::default());
    let caller = Outlet::caller(io, &state);
    let decided = {
        let mut watchdog = Watchdog::default();
        poll_fn(|cx| match Outlet::poll_http2(&caller, cx) {
            Poll::Ready(is_http2) => Poll::Ready(Ok(is_http2)),
            Poll::Pending => watchdog.poll(cx, &state, &settings, &gateway).map(Err),
        })
        .await
    };
    let (ended, upgraded) = match decided {
        Ok(is_http2) => {
            let front = Rc::new(Front {
                pool: Rc::new(Pool::new(gateway.clone(), is_http2)),
                gateway: gateway.clone(),
                callers: Callers::new(),
                settings,
                peer_name: PeerName::of(peer.source.address()),
                peer,
                upgraded: RefCell::default(),
            });
            let serving = Rc::clone(&front);
            let ended = match is_http2 {
                true => serving.serve_http2(&caller, &state).await,
                false => serving.serve_http1(&caller, &state).await,
            };
            // If the connection ended in another way, the caller has not got the `101`.
            let upgraded = front.upgraded.take();
            (ended, upgraded.filter(|_| ended == Ended::Closed))
        }
        Err(ended) => (ended, None),
    };
    let (mut io, held, input) = Outlet::into_inner(caller);
    if let Some(upgraded) = upgraded {
        return (io, ended, Some((upgraded, input)));
    }
    if !held.bytes.is_empty() {
        let ended = (ended, state.head_error.take());
        refused_head::write_answer(&mut io, &gateway, peer.source.address().ip(), held, ended)
            .await;
    }
    let has_unread_bytes =
        ended == Ended::Malformed || (ended == Ended::Closed && state.is_body_unread());
    if has_unread_bytes {
        linger(&mut io, &gateway).await;
    }
    (io, ended, None)
}
