//! State that all requests of one frontend connection share.

use std::rc::Rc;

use crate::listen::http::gateway::Gateway;
use crate::listen::http::gateway::settings::{Peer, Settings};
use crate::listen::http::inbound::forwarded::PeerName;
use crate::listen::http::outbound::pool::Pool;
use crate::listen::http::policy::callers::Callers;

/// State shared by the requests of one frontend connection.
pub(super) struct Front<G: Gateway> {
    pub(super) gateway: G,
    pub(super) pool: Rc<Pool<G>>,
    pub(super) callers: Callers<G>,
    pub(super) settings: Rc<Settings>,
    pub(super) peer: Peer,
    pub(super) peer_name: PeerName,
}

impl<G: Gateway> Front<G> {
    pub(super) fn new(gateway: G, settings: Rc<Settings>, peer: Peer, is_http2: bool) -> Self {
        Self {
            pool: Rc::new(Pool::new(gateway.clone(), is_http2)),
            gateway,
            callers: Callers::new(),
            settings,
            peer_name: PeerName::of(peer.address),
            peer,
        }
    }
}
