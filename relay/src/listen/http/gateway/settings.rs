//! Settings of the HTTP front, and the facts about one connection that it starts with.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use ipnet::IpNet;

use crate::certificates::Challenges;
use crate::config::PublicUrl;
use crate::listen::proxied::Source;

/// Buffer limit of one connection in one direction, and therefore the longest head.
pub(crate) const HTTP_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Idle timeout while the relay drains, so that a request that is already on its way to the relay is
/// still answered.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_millis(250);

/// [`DRAIN_GRACE`] of an HTTP/2 connection: its answer to GOAWAY takes a round trip.
pub(crate) const DRAIN_GRACE_HTTP2: Duration = Duration::from_secs(1);

/// Remote end of a frontend connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) source: Source,
    /// Whether the connection uses TLS: decides the scheme of URLs in answers.
    pub(crate) https: bool,
}

/// Settings of the HTTP front.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The relay's own domain; a tunnel's host name is a label below it.
    pub(crate) domain: Option<String>,
    /// Configured base of the relay's URLs in answers.
    pub(crate) public_url: Option<PublicUrl>,
    /// Authority of `public_url`, as a target may write it.
    pub(crate) public_authority: Option<Bytes>,
    /// Whether agents must show certificates of their own in the handshake of TLS, which HTTP addresses do not ask for.
    pub(crate) are_agents_certified: bool,
    /// Where requests in clear text are redirected to, if they are: the relay's own `https` URL.
    pub(crate) redirect: Option<PublicUrl>,
    /// Origins of web pages that may send requests.
    pub(crate) origins: Origins,
    /// Networks whose X-Forwarded-* headers are trusted.
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Answers to a CA, if the relay orders a certificate.
    pub(crate) challenges: Option<Arc<Challenges>>,
    /// Whether the relay consumes `Authorization`; otherwise the field goes to the target.
    pub(crate) takes_tokens: bool,
    /// Whether agents of this machine need no token, and agents of other machines are turned away.
    pub(crate) trusts_this_machine: bool,
    /// Header field that carries the target's `Authorization` where the relay consumes that field.
    pub(crate) target_authorization: Option<HeaderName>,
    /// Silence after which an event stream gets a comment; zero turns comments off.
    pub(crate) sse_keepalive: Duration,
    /// Longest time for receiving a request's head.
    pub(crate) head_timeout: Duration,
    /// Longest time between two requests of a kept-alive connection.
    pub(crate) idle_timeout: Duration,
    /// Longest time in which a caller takes no byte of an answer that is ready for it, or sends no byte
    /// of a body that the target waits for. A quiet event stream does not count.
    pub(crate) stall_timeout: Duration,
    /// Longest time for opening a session.
    pub(crate) open_timeout: Duration,
    /// How long a body with `Expect: 100-continue` waits for the target's `100 Continue`.
    pub(crate) continue_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            domain: None,
            public_url: None,
            public_authority: None,
            are_agents_certified: false,
            redirect: None,
            origins: Origins::default(),
            trusted_proxies: Vec::new(),
            challenges: None,
            takes_tokens: false,
            trusts_this_machine: false,
            target_authorization: None,
            sse_keepalive: Duration::from_secs(15),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            stall_timeout: Duration::from_secs(300),
            open_timeout: Duration::from_secs(30),
            continue_timeout: Duration::from_secs(1),
        }
    }
}

/// Origins of other pages that may use the relay's tunnels, as browsers write them; `*` allows all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins(pub(crate) Vec<String>);

impl Origins {
    /// Whether pages of `origin` are allowed.
    pub(in crate::listen::http) fn has(&self, origin: &[u8]) -> bool {
        let is_it = |one: &String| one.as_bytes().eq_ignore_ascii_case(origin);
        self.has_all() || self.0.iter().any(is_it)
    }

    /// Whether pages of every origin are allowed.
    pub(in crate::listen::http) fn has_all(&self) -> bool {
        self.0.iter().any(|one| one == "*")
    }
}
