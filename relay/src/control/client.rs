//! HTTP client for requests of the relay to other servers: one request, one whole response, within limits.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
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
}

/// An HTTP client; clones share its connections.
#[derive(Clone, Debug)]
pub(super) struct HttpClient(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl HttpClient {
    /// A client for `url`; with TLS it trusts the system's certificate authorities.
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
        Ok(Self(client))
    }

    /// Sends a request and reads the whole response; does not follow redirects.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        limits: Limits,
    ) -> Result<Response<Bytes>, ClientError> {
        let exchange = async {
            let answer = self.0.request(request).await;
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
