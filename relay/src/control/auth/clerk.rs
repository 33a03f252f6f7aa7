//! What the shards want of the control thread: newer keys, and a provider's word.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::Full;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::debug;

use super::client::{HttpClient, Limits};
use super::warn_if_exposed;
use crate::auth::{Ask, Asked, Question, Ruling};
use crate::config::{HttpUrl, ProviderAuth};
use crate::control::Inspect;
use crate::error::ConfigError;

/// Questions that are asked at a time; more wait, and behind those the shards are told so.
const CALLS_MAX: usize = 32;

/// Those of them about tunnels that agents want: for those that live there is always room.
const FIRST_CALLS_MAX: usize = 24;

/// What one question may take.
const LIMITS: Limits = Limits {
    time: Duration::from_secs(5),
    bytes: 64 * 1024,
};

/// How long a question may wait for its turn: then its agent has better try again.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Where a provider answers.
const PATH: &str = "/api/verify";

/// How the relay proves itself to it.
const SECRET_HEADER: &str = "x-relay-secret";

/// Whoever sees to what the shards ask.
pub(super) struct Clerk {
    asked: Asked,
    wishes: Arc<Notify>,
    inspect: Arc<dyn Inspect>,
    provider: Option<Arc<Provider>>,
}

impl Clerk {
    pub(super) const fn new(
        asked: Asked,
        wishes: Arc<Notify>,
        inspect: Arc<dyn Inspect>,
        provider: Option<Arc<Provider>>,
    ) -> Self {
        Self {
            asked,
            wishes,
            inspect,
            provider,
        }
    }

    /// Answers until no shard can ask any more.
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
                    Some(Ask::NewerKeys) => self.wishes.notify_one(),
                    Some(Ask::Rule(question)) => drop(first.spawn(self.rule(question))),
                    None => return,
                },
            }
        }
    }

    /// Asks the provider, and tells the shard what it says.
    fn rule(&self, question: Question) -> impl Future<Output = ()> + Send + 'static {
        let inspect = Arc::clone(&self.inspect);
        let provider = self.provider.clone();
        async move {
            let ruling = match provider {
                Some(provider) => provider.ask(&question).await,
                None => Ruling::Unavailable("there is no provider".to_owned()),
            };
            inspect.rule(question, ruling).await;
        }
    }
}

/// The server that knows the agents.
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
            .map_err(|_| wrong("its secret cannot stand in a header"))?;
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
            return Ruling::Unavailable("too many questions were in front of it".to_owned());
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
            Ok(answer) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                let now_seconds = now.map_or(0, |since| since.as_secs());
                question.ruling(answer.status.as_u16(), &answer.body, now_seconds)
            }
            Err(error) => Ruling::Unavailable(error.to_string()),
        };
        if let Ruling::Unavailable(why) = &ruling {
            debug!(tunnel = %question.tunnel, why, "no word from the provider");
        }
        ruling
    }
}
