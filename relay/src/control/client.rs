//! HTTP client for requests of the relay to other servers: one request, one whole response, within limits.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::time;

use crate::certificates::provider;
use crate::config::HttpUrl;
use crate::error::ConfigError;

/// Limit of idle connections kept to one server.
const IDLE_MAX: usize = 8;

/// Time that an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Limits of one exchange: time, and size of the response body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) time: Duration,
    pub(super) bytes: usize,
}

/// Why there is no response. No variant holds anything that was sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("no whole answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Connection(String),
    #[error("the answer breaks off, or is longer than {0} bytes")]
    Body(usize),
    #[error(
        "the server names the address {0} for a further request, which is less protected than its own: nothing is sent \
         there"
    )]
    Unprotected(String),
}

/// An HTTP client for one server; clones share its connections.
#[derive(Clone, Debug)]
pub(super) struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// URL that the settings name.
    url: HttpUrl,
}

impl HttpClient {
    /// A client for `url`, and for addresses that the server there names; with TLS it trusts the system's certificate
    /// authorities.
    pub(super) fn new(url: &HttpUrl) -> Result<Self, ConfigError> {
        let provider = provider();
        let builder = HttpsConnectorBuilder::new();
        let no_roots = |error: &dyn Error| {
            ConfigError::Conflict(format!(
                "{url}: {error}; install the system's certificates, or name a file of them in \
                 SSL_CERT_FILE"
            ))
        };
        let builder = if url.is_https() {
            builder
                .with_provider_and_native_roots(provider)
                .map_err(|error| no_roots(&error))?
        } else {
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(|error| no_roots(&error))?
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
            builder.with_tls_config(config)
        };
        let connector = builder.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_MAX)
            .build(connector);
        Ok(Self {
            client,
            url: url.clone(),
        })
    }

    /// Sends a request and reads the whole response; does not follow redirects. Refuses a request to an address that is
    /// less protected than the URL in the settings.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        limits: Limits,
    ) -> Result<Response<Bytes>, ClientError> {
        if !is_protected(request.uri(), &self.url) {
            return Err(ClientError::Unprotected(shown(request.uri())));
        }
        let exchange = async {
            let answer = self.client.request(request).await;
            let answer = answer.map_err(|error| ClientError::Connection(chain(&error)))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, limits.bytes).collect().await;
            let body = body.map_err(|_| ClientError::Body(limits.bytes))?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        time::timeout(limits.time, exchange)
            .await
            .unwrap_or(Err(ClientError::Timeout(limits.time)))
    }
}

/// Whether a request to `uri` is protected as well as one to `url`: by TLS, or on this machine if `url` has no TLS
/// either.
fn is_protected(uri: &Uri, url: &HttpUrl) -> bool {
    HttpUrl::parse(&uri.to_string()).is_some_and(|to| {
        to.is_https() || (!url.is_https() && (url.is_exposed() || !to.is_exposed()))
    })
}

/// Scheme and host of `uri`, without a user name or a path.
fn shown(uri: &Uri) -> String {
    let (scheme, host) = (uri.scheme_str(), uri.host());
    format!(
        "{}://{}",
        scheme.unwrap_or_default(),
        host.unwrap_or_default()
    )
}

/// Freshness lifetime that a response states (RFC 9111, 5.2.2.1).
pub(super) fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(header::CACHE_CONTROL).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let mut directives = texts.flat_map(|text| text.split(',').map(str::trim));
    directives.find_map(|directive| {
        let (name, seconds) = directive.split_once('=')?;
        let seconds = seconds.trim_matches('"').parse().ok()?;
        name.eq_ignore_ascii_case("max-age")
            .then(|| Duration::from_secs(seconds))
    })
}

/// An error and its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text += ": ";
            text += &message;
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_a_server_names_are_protected_as_well_as_its_own() {
        let (https, here, http) = (
            "https://ca.example/directory",
            "http://127.0.0.1:14000/directory",
            "http://ca.studio/directory",
        );
        for (own, named, wanted) in [
            (https, "https://acme.example/order", true),
            (https, "http://ca.example/order", false),
            (https, "http://127.0.0.1:9003/order", false),
            (https, "https://user@ca.example/order", false),
            (https, "/order", false),
            (here, "http://localhost:14000/order", true),
            (here, "http://[::1]:14000/order", true),
            (here, "https://ca.example/order", true),
            (here, "http://ca.example/order", false),
            (http, "http://other.studio/order", true),
        ] {
            let (url, uri) = (HttpUrl::parse(own).unwrap(), named.parse().unwrap());
            assert_eq!(is_protected(&uri, &url), wanted, "{own}: {named}");
        }
    }

    #[tokio::test]
    async fn a_request_to_a_less_protected_address_is_not_sent() {
        let client = HttpClient::new(&HttpUrl::parse("http://127.0.0.1:1/").unwrap()).unwrap();
        let limits = Limits {
            time: Duration::from_secs(30),
            bytes: 1,
        };
        let request = Request::get("http://user:secret@ca.invalid/order");
        let sent = client.send(request.body(Full::default()).unwrap(), limits);
        let error = sent.await.unwrap_err().to_string();
        assert!(
            error.contains("names the address http://ca.invalid "),
            "{error}"
        );
    }
}
