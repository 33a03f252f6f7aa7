//! A key set behind a URL: fetches it, keeps it fresh, and handles key rotation.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use tieline_token::{JWKS_BYTES_MAX, Jwks, KeySet};
use tokio::sync::{Notify, mpsc};
use tokio::time::{self, Instant};
use tracing::{info, warn};

use crate::config::HttpUrl;
use crate::control::client::{ClientError, HttpClient, Limits, max_age};

/// Limits of one fetch.
const LIMITS: Limits = Limits {
    time: Duration::from_secs(10),
    bytes: JWKS_BYTES_MAX,
};

/// Time settings of the fetches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Refresh interval if the response does not state a lifetime.
    refresh_default: Duration,
    /// Shortest refresh interval: a wrong header must not cause a flood of fetches.
    refresh_min: Duration,
    /// Longest refresh interval: a removed key must not stay valid for ever.
    refresh_max: Duration,
    /// Time that a removed key stays valid: an issuer still hands out tokens signed before all of its
    /// servers changed to the new key.
    overlap: Duration,
    /// Shortest time between two fetches caused by tokens with unknown keys.
    wish_gap: Duration,
    /// First pause after a failed fetch.
    retry_min: Duration,
    /// Longest pause after a failed fetch.
    retry_max: Duration,
}

impl Pace {
    pub(super) const STANDARD: Self = Self {
        refresh_default: Duration::from_secs(10 * 60),
        refresh_min: Duration::from_secs(60),
        refresh_max: Duration::from_secs(24 * 3600),
        overlap: Duration::from_secs(10 * 60),
        wish_gap: Duration::from_secs(10),
        retry_min: Duration::from_secs(1),
        retry_max: Duration::from_secs(60),
    };

    /// Pause after a failed fetch: exponential backoff with jitter, so that relays do not fetch in step.
    fn pause_after(&self, failures: u32) -> Duration {
        let pause = self.retry_min.saturating_mul(1 << failures.min(10));
        pause
            .min(self.retry_max)
            .mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

/// Why a fetch did not return keys.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("{0}")]
    Content(String),
}

/// Fetches the key set at a URL.
pub(super) struct RemoteKeys {
    url: HttpUrl,
    client: HttpClient,
    pace: Pace,
    /// Notified when a token names an unknown key.
    keys_due: Arc<Notify>,
    news: mpsc::Sender<KeySet>,
    current: KeySet,
    /// Removed keys, each with the time until which they stay valid.
    retired: Vec<(Instant, KeySet)>,
}

impl RemoteKeys {
    pub(super) fn new(
        url: HttpUrl,
        client: HttpClient,
        pace: Pace,
        keys_due: Arc<Notify>,
        news: mpsc::Sender<KeySet>,
    ) -> Self {
        Self {
            url,
            client,
            pace,
            keys_due,
            news,
            current: KeySet::default(),
            retired: Vec::new(),
        }
    }

    /// Fetches at once and at each refresh, until the receiver of the keys is dropped.
    pub(super) async fn run(mut self) {
        let mut failures: u32 = 0;
        let mut told = KeySet::default();
        let mut first = true;
        loop {
            let fetched_at = Instant::now();
            let mut next_at = match self.fetch().await {
                Ok((keys, good_for)) => {
                    if failures > 0 || first {
                        info!(url = %self.url, keys = keys.len(), "keys fetched");
                    }
                    failures = 0;
                    self.replace(keys, fetched_at);
                    fetched_at + good_for
                }
                Err(error) => {
                    let pause = self.pace.pause_after(failures);
                    failures = failures.saturating_add(1);
                    let held = self.current.len();
                    warn!(url = %self.url, held, "cannot fetch keys: {error}; next try in {pause:?}");
                    Instant::now() + pause
                }
            };
            loop {
                let keys = self.valid(Instant::now());
                let is_news = keys != told || (first && failures == 0);
                if is_news {
                    if self.news.send(keys.clone()).await.is_err() {
                        return;
                    }
                    (told, first) = (keys, false);
                }
                let retires_at = self.retired.iter().map(|(end, _)| *end).min();
                tokio::select! {
                    () = time::sleep_until(next_at) => break,
                    () = until(retires_at) => {}
                    // While fetches fail, the retry comes soon enough.
                    () = self.keys_due.notified(), if failures == 0 => {
                        next_at = next_at.min(fetched_at + self.pace.wish_gap);
                    }
                    () = self.news.closed() => return,
                }
            }
        }
    }

    async fn fetch(&self) -> Result<(KeySet, Duration), FetchError> {
        let request = Request::get(self.url.uri())
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .body(Full::<Bytes>::default())
            .map_err(|error| FetchError::Content(error.to_string()))?;
        let answer = self.client.send(request, LIMITS).await?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status()));
        }
        self.read(&answer)
    }

    fn read(&self, answer: &Response<Bytes>) -> Result<(KeySet, Duration), FetchError> {
        let read =
            Jwks::read(answer.body()).map_err(|error| FetchError::Content(error.to_string()))?;
        if read.keys.is_empty() {
            let why = read.skipped.first();
            let why = why.map_or_else(|| "it is empty".to_owned(), ToString::to_string);
            return Err(FetchError::Content(format!("no usable key; {why}")));
        }
        if read.keys != self.current {
            for skipped in &read.skipped {
                warn!(url = %self.url, "unusable: {skipped}");
            }
        }
        let good_for = max_age(answer.headers()).unwrap_or(self.pace.refresh_default);
        let good_for = good_for.clamp(self.pace.refresh_min, self.pace.refresh_max);
        Ok((read.keys, good_for))
    }

    /// Replaces the current set; removed keys stay valid for the overlap.
    fn replace(&mut self, keys: KeySet, now: Instant) {
        for (_, retired) in &mut self.retired {
            *retired = retired.without(&keys);
        }
        let gone = self.current.without(&keys);
        if !gone.is_empty() {
            info!(url = %self.url, gone = gone.len(), "keys have left the set");
            self.retired.push((now + self.pace.overlap, gone));
        }
        self.current = keys;
    }

    /// The keys that are valid at `now`.
    fn valid(&mut self, now: Instant) -> KeySet {
        self.retired
            .retain(|(end, keys)| *end > now && !keys.is_empty());
        let mut keys = self.current.clone();
        for (_, retired) in &self.retired {
            keys.extend(retired.clone());
        }
        keys
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
