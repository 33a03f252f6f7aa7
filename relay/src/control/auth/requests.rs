//! Handles the shards' requests: to fetch newer keys, and to ask the provider about a tunnel.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::Full;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::debug;

use super::warn_if_exposed;
use crate::auth::{Question, RequestQueue, Ruling, ShardRequest};
use crate::config::{HttpUrl, ProviderAuth};
use crate::control::Inspect;
use crate::control::client::{HttpClient, Limits};
use crate::error::ConfigError;
use crate::state::now_seconds;

/// Limit of concurrent questions to the provider; more wait in the shards' queues.
const CALLS_MAX: usize = 32;

/// Limit of concurrent questions about new tunnels, so that renewals always have room.
const FIRST_CALLS_MAX: usize = 24;

/// Limits of one question.
const LIMITS: Limits = Limits {
    time: Duration::from_secs(5),
    bytes: 64 * 1024,
};

/// Longest wait of a question in the queue; after that its agent has to try again.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Path that a provider answers at.
const PATH: &str = "/api/verify";

/// Header field with the secret that authenticates the relay to the provider.
const SECRET_HEADER: &str = "x-relay-secret";

/// Handles the shards' requests to the control thread.
pub(super) struct ShardRequests {
    pub(super) asked: RequestQueue,
    pub(super) keys_due: Arc<Notify>,
    pub(super) inspect: Arc<dyn Inspect>,
    pub(super) provider: Option<Arc<Provider>>,
}

impl ShardRequests {
    /// Runs until all shards have dropped their side of the queues.
    pub(super) async fn run(mut self) {
        let (mut first, mut renewals) = (JoinSet::new(), JoinSet::new());
        loop {
            let has_room = first.len() + renewals.len() < CALLS_MAX;
            tokio::select! {
                biased;
                Some(_) = first.join_next(), if !first.is_empty() => {}
                Some(_) = renewals.join_next(), if !renewals.is_empty() => {}
                question = self.asked.renewals.recv(), if has_room => match question {
                    Some(question) => drop(renewals.spawn(self.rule(question))),
                    None => return,
                },
                ask = self.asked.asks.recv(), if has_room && first.len() < FIRST_CALLS_MAX => match ask {
                    Some(ShardRequest::NewerKeys) => self.keys_due.notify_one(),
                    Some(ShardRequest::Rule(question)) => drop(first.spawn(self.rule(question))),
                    None => return,
                },
            }
        }
    }

    /// Asks the provider, and sends its ruling to the shard.
    fn rule(&self, question: Question) -> impl Future<Output = ()> + Send + 'static {
        let inspect = Arc::clone(&self.inspect);
        let provider = self.provider.clone();
        async move {
            let ruling = match provider {
                Some(provider) => provider.ask(&question).await,
                None => Ruling::Unavailable("no provider is configured".to_owned()),
            };
            inspect.rule(question, ruling).await;
        }
    }
}

/// The provider: a server that decides about agents' tokens.
pub(super) struct Provider {
    url: HttpUrl,
    secret: HeaderValue,
    client: HttpClient,
}

impl Provider {
    pub(super) fn new(config: &ProviderAuth) -> Result<Self, ConfigError> {
        warn_if_exposed("auth_provider_url", &config.url);
        let wrong = |what: &str| ConfigError::Conflict(format!("{}: {what}", config.url));
        let mut secret = HeaderValue::from_str(config.secret.reveal())
            .map_err(|_| wrong("its secret is not fit for a header field"))?;
        secret.set_sensitive(true);
        Ok(Self {
            url: config
                .url
                .join(PATH)
                .ok_or_else(|| wrong("no path can be added to it"))?,
            secret,
            client: HttpClient::new(&config.url)?,
        })
    }

    async fn ask(&self, question: &Question) -> Ruling {
        if question.asked_at.elapsed() > WAIT_MAX {
            return Ruling::Unavailable("the question waited too long in the queue".to_owned());
        }
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.url.uri())
            .header(SECRET_HEADER, self.secret.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(question.body())));
        let request = match request {
            Ok(request) => request,
            Err(error) => return Ruling::Unavailable(error.to_string()),
        };
        let ruling = match self.client.send(request, LIMITS).await {
            Ok(answer) => question.ruling(answer.status().as_u16(), answer.body(), now_seconds()),
            Err(error) => Ruling::Unavailable(error.to_string()),
        };
        if let Ruling::Unavailable(why) = &ruling {
            debug!(tunnel = %question.tunnel, why, "no usable answer from the provider");
        }
        ruling
    }
}
