//! Audit data of one request: caller, address, tunnel and outcome.

use std::net::IpAddr;
use std::rc::Rc;

use http::StatusCode;
use http::request::Parts;
use tieline_wire::TunnelId;

use super::callers::AdmittedCaller;
use crate::audit::Call;
use crate::listen::http::gateway::Gateway;

/// Audit data of a request so far; `None` if the audit log is off.
pub(crate) struct AuditRecord<G: Gateway>(Option<AuditedRequest<G>>);

struct AuditedRequest<G: Gateway> {
    gateway: G,
    call: Call,
    admitted: Option<Rc<AdmittedCaller<G>>>,
}

impl<G: Gateway> AuditRecord<G> {
    /// Starts the record of a request. The query is left out, because it may contain secrets.
    pub(crate) fn begin(gateway: &G, parts: &Parts, peer: IpAddr) -> Self {
        Self(gateway.is_audited().then(|| {
            let mut call = Call::new(parts.method.clone(), parts.uri.path());
            call.address = Some(peer);
            AuditedRequest {
                gateway: gateway.clone(),
                call,
                admitted: None,
            }
        }))
    }

    /// Records the caller's address.
    pub(crate) fn comes_from(&mut self, address: IpAddr) {
        if let Some(it) = &mut self.0 {
            it.call.address = Some(address);
        }
    }

    /// Records the caller.
    pub(crate) fn is_of(&mut self, admitted: &Rc<AdmittedCaller<G>>) {
        if let Some(it) = &mut self.0 {
            it.admitted = Some(Rc::clone(admitted));
        }
    }

    /// Records the tunnel.
    pub(crate) fn leads_to(&mut self, tunnel: &str) {
        if let Some(it) = &mut self.0 {
            it.call.tunnel = TunnelId::parse(tunnel).ok();
        }
    }

    /// Records that method and path were searched and hold no token of the relay.
    pub(crate) fn searched(&mut self) {
        if let Some(it) = &mut self.0 {
            it.call.searched();
        }
    }

    /// Discards the record of a request that concerns no tunnel.
    pub(crate) fn forget(&mut self) {
        self.0 = None;
    }

    /// Writes the record of an answered request to the audit log.
    pub(crate) fn note(mut self, status: StatusCode, problem: Option<&'static str>) {
        self.end(Some(status), problem);
    }

    fn end(&mut self, status: Option<StatusCode>, problem: Option<&'static str>) {
        if let Some(it) = self.0.take() {
            let caller = it.admitted.as_ref().map(|it| &it.caller);
            it.gateway.note(it.call, caller, status, problem);
        }
    }
}

impl<G: Gateway> Drop for AuditRecord<G> {
    fn drop(&mut self) {
        // The caller left before the answer, or the stream was reset; the target may have processed the
        // request nevertheless.
        self.end(None, Some("given_up"));
    }
}
