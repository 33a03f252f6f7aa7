//! Serves one frontend connection: from the caller's first byte to the reason for the end.
//!
//! `connection` drives hyper's server, which calls `forward` for each request. `forward` reads what is `asked`, finds
//! the `destination`, makes the request fit for it, sends it through `metadata` (`exchange`), and lets the answer
//! `pass`. `metadata` repeats requests for OAuth metadata, and maps URLs in such answers and in forms. What the requests
//! of a connection share is its `front`.

mod asked;
mod connection;
mod destination;
mod exchange;
mod forward;
mod front;
mod metadata;
mod pass;

use std::rc::Rc;

use hyper::rt::{Read, Write};

use self::connection::ConnectionContext;
use self::front::Front;
use super::frontend::caller::Caller;
use super::frontend::deadline::linger;
use super::frontend::state::State;
use super::frontend::unread;
use super::gateway::Gateway;
use super::gateway::ended::Ended;
use super::gateway::settings::{Peer, Settings};

/// Serves one frontend connection until it ends, and returns it to be closed or reset.
///
/// Dropping the future drops every session of the connection.
pub(crate) async fn serve<IO, G>(
    io: IO,
    gateway: G,
    peer: Peer,
    settings: Rc<Settings>,
) -> (IO, Ended)
where
    IO: Read + Write + Unpin + 'static,
    G: Gateway,
{
    let state = Rc::new(State::new());
    let caller = Caller::new(io, Rc::clone(&state));
    let context = ConnectionContext {
        state: &state,
        gateway: &gateway,
        settings: &settings,
        address: peer.address.ip(),
    };
    let decided = context.until(|cx| caller.poll_http2(cx).map(Ok)).await;
    let ended = match decided {
        Ok(is_http2) => {
            let front = Front::new(gateway.clone(), Rc::clone(&settings), peer, is_http2);
            if is_http2 {
                connection::serve_http2(&caller, front, &context).await
            } else {
                connection::serve_http1(&caller, front, &context).await
            }
        }
        Err(ended) => ended,
    };
    let (mut io, last) = caller.into_inner();
    if !last.held.is_empty() {
        let ended = (ended, state.take_unread());
        unread::tell(&mut io, &gateway, peer.address.ip(), last, ended).await;
    }
    let unread = ended == Ended::Malformed || (ended == Ended::Closed && state.is_body_unread());
    if unread {
        linger(&mut io, &gateway).await;
    }
    (io, ended)
}
