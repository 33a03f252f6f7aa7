//! What is known of one request beside its answer: who asked for what, for the audit log.

use std::net::IpAddr;
use std::rc::Rc;

use http::StatusCode;
use http::request::Parts;
use tieline_wire::TunnelId;

use super::Gateway;
use super::callers::Presented;
use crate::audit::Call;

/// One request, as far as it has come; nothing where nobody wants to know.
pub(super) struct Trail<G: Gateway>(Option<Noted<G>>);

struct Noted<G: Gateway> {
    gateway: G,
    call: Call,
    presented: Option<Rc<Presented<G>>>,
}

impl<G: Gateway> Trail<G> {
    /// A request begins. Of its path the query is left out: secrets travel there.
    pub(super) fn begin(gateway: &G, parts: &Parts, peer: IpAddr) -> Self {
        Self(gateway.is_audited().then(|| {
            let mut call = Call::new(parts.method.clone(), parts.uri.path());
            call.address = Some(peer);
            Noted {
                gateway: gateway.clone(),
                call,
                presented: None,
            }
        }))
    }

    /// Where it comes from.
    pub(super) fn comes_from(&mut self, address: IpAddr) {
        if let Some(it) = &mut self.0 {
            it.call.address = Some(address);
        }
    }

    /// Who asks.
    pub(super) fn is_of(&mut self, presented: &Rc<Presented<G>>) {
        if let Some(it) = &mut self.0 {
            it.presented = Some(Rc::clone(presented));
        }
    }

    /// What for.
    pub(super) fn leads_to(&mut self, tunnel: &str) {
        if let Some(it) = &mut self.0 {
            it.call.tunnel = TunnelId::parse(tunnel).ok();
        }
    }

    /// Notes that method and path were searched and hold no token of the relay.
    pub(super) fn searched(&mut self) {
        if let Some(it) = &mut self.0 {
            it.call.searched();
        }
    }

    /// It asks nothing of any tunnel.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }

    /// It is answered.
    pub(super) fn note(mut self, status: StatusCode, problem: Option<&'static str>) {
        self.end(Some(status), problem);
    }

    fn end(&mut self, status: Option<StatusCode>, problem: Option<&'static str>) {
        if let Some(it) = self.0.take() {
            let caller = it.presented.as_ref().map(|it| &it.caller);
            it.gateway.note(it.call, caller, status, problem);
        }
    }
}

impl<G: Gateway> Drop for Trail<G> {
    fn drop(&mut self) {
        // Its caller did not wait for an answer, or may have none; its target may have worked on it
        // all the same.
        self.end(None, Some("given_up"));
    }
}
