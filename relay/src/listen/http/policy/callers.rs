//! Callers of one frontend connection: each token is verified once, not for every request.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};

use aws_lc_rs::digest::{SHA256, digest};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use tieline_hop::headers::bearer;

use crate::listen::http::gateway::Gateway;
use crate::listen::http::problem::Problem;

/// Callers that one connection remembers; a proxy may multiplex several callers over one connection.
const REMEMBERED_MAX: usize = 8;

/// SHA-256 of a token, by which its caller is remembered.
pub(crate) type Digest = [u8; 32];

/// The callers of one frontend connection.
pub(crate) struct Callers<G: Gateway> {
    known: RefCell<Vec<Rc<AdmittedCaller<G>>>>,
}

/// A caller that was admitted, with the digest of its token. Every task that runs for the caller holds it.
pub(crate) struct AdmittedCaller<G: Gateway> {
    /// Key that separates callers whose target connections must not be mixed.
    pub(crate) key: Option<Digest>,
    pub(crate) caller: G::Caller,
}

impl<G: Gateway> Callers<G> {
    pub(crate) fn new() -> Self {
        Self {
            known: RefCell::default(),
        }
    }

    /// The caller that sent these headers, and whether it is new to the connection: the task that polls
    /// [`Callers::poll_revoked`] must be woken for a new caller. `elsewhere` is a token that the request has in another
    /// place than `Authorization`.
    pub(crate) fn admit(
        &self,
        gateway: &G,
        (headers, elsewhere): (&HeaderMap, Option<&str>),
        takes_tokens: bool,
    ) -> Result<(Rc<AdmittedCaller<G>>, bool), Problem> {
        let token = if takes_tokens {
            only_bearer(headers)?.or(elsewhere)
        } else {
            None
        };
        // Compared by digest, so that the time of a comparison reveals nothing about a token.
        let key = token.map(|token| {
            let mut key = Digest::default();
            key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
            key
        });
        let mut known = self.known.borrow_mut();
        let mut fitting = known.iter().filter(|it| it.key == key);
        if let Some(it) = fitting.find(|it| gateway.is_current(&it.caller)) {
            return Ok((Rc::clone(it), false));
        }
        let caller = gateway.authenticate(token).map_err(Problem::token)?;
        // Callers with a running request stay, however many there are: the number of streams is limited.
        let is_idle = |it: &Rc<AdmittedCaller<G>>| Rc::strong_count(it) == 1;
        known.retain(|it| !is_idle(it) || gateway.is_current(&it.caller));
        if known.len() >= REMEMBERED_MAX
            && let Some(place) = known.iter().position(is_idle)
        {
            known.remove(place);
        }
        let admitted = Rc::new(AdmittedCaller { key, caller });
        known.push(Rc::clone(&admitted));
        Ok((admitted, true))
    }

    /// Ready once any of these callers is revoked; the connection's requests cannot be ended separately.
    pub(crate) fn poll_revoked(&self, gateway: &G, cx: &mut Context<'_>) -> Poll<()> {
        let known = self.known.borrow();
        let mut polls = known.iter().map(|it| gateway.poll_revoked(cx, &it.caller));
        if polls.any(|poll| poll.is_ready()) {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// The bearer token of a request.
fn only_bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Problem::bad_request("there are two Authorization headers"));
    }
    Ok(value.to_str().ok().and_then(bearer))
}

/// Removes the caller's credential from a request, and moves the target's credential from
/// `target_field` into `Authorization`.
pub(crate) fn leave_credential(headers: &mut HeaderMap, target_field: Option<&HeaderName>) {
    headers.remove(AUTHORIZATION);
    if let Some(value) = target_field.and_then(|field| headers.remove(field)) {
        headers.insert(AUTHORIZATION, value);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        let values = values.iter().map(|&it| HeaderValue::from_static(it));
        values.map(|value| (AUTHORIZATION, value)).collect()
    }

    #[test]
    fn a_bearer_token_is_read_and_nothing_else() {
        let token =
            |values: &[&'static str]| only_bearer(&headers(values)).unwrap().map(str::to_owned);
        assert_eq!(token(&["Bearer t"]).as_deref(), Some("t"));
        assert_eq!(token(&["bearer  t "]).as_deref(), Some("t"));
        for other in [&["Basic dTpw"][..], &["Bearer"], &["t"], &[]] {
            assert_eq!(token(other), None, "{other:?}");
        }
        let mut two = headers(&["Bearer a"]);
        two.append(AUTHORIZATION, HeaderValue::from_static("Bearer b"));
        assert!(only_bearer(&two).is_err());
    }

    #[test]
    fn the_callers_credential_stays_and_the_targets_own_goes_on() {
        let field = HeaderName::from_static("x-target-authorization");
        let mut sent = headers(&["Bearer callers"]);
        leave_credential(&mut sent, Some(&field));
        assert!(sent.is_empty());
        let mut sent = headers(&["Bearer callers"]);
        sent.insert(&field, HeaderValue::from_static("Basic targets"));
        leave_credential(&mut sent, Some(&field));
        assert_eq!(sent, headers(&["Basic targets"]));
    }
}
