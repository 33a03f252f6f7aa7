//! The relay's account at the CA, and the HTTP client below it.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt, Full};
use instant_acme::{Account, BodyWrapper, BytesResponse, Error, ExternalAccountKey, NewAccount};
use tracing::info;

use super::cache::Cache;
use super::error::AcmeError;
use super::heard::Heard;
use super::nonce::{Rounds, repeated};
use crate::config::AcmeConfig;
use crate::control::client::{HttpClient, Limits};

/// Limits of one exchange with the CA.
const LIMITS: Limits = Limits {
    time: Duration::from_secs(30),
    // Twice the longest certificate with its chain and key that the cache keeps.
    bytes: 256 * 1024,
};

/// Longest pause that a CA may ask for, in seconds. The ACME client adds the CA's number to the clock without a check.
const RETRY_SECONDS_MAX: u64 = 7 * 24 * 60 * 60;

/// Opens the account that the cache has, or makes one; that must happen under the lock.
pub(super) async fn open(
    config: &AcmeConfig,
    cache: &Cache,
    client: &HttpClient,
    heard: &Heard,
) -> Result<Account, AcmeError> {
    let builder = || {
        Account::builder_with_http(Box::new(Transport {
            client: client.clone(),
            heard: heard.clone(),
        }))
    };
    if let Some(credentials) = cache.credentials()? {
        return Ok(builder().from_credentials(credentials).await?);
    }
    cache.put_damaged_aside()?;
    let mail = config.email.as_ref().map(|mail| format!("mailto:{mail}"));
    let contact: Vec<&str> = mail.iter().map(String::as_str).collect();
    let wanted = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let key = config
        .eab
        .as_ref()
        .map(|it| ExternalAccountKey::new(it.key_id.clone(), &it.key_bytes()));
    let url = config.directory_url.to_string();
    let created = repeated!(builder().create(&wanted, url.clone(), key.as_ref()));
    let (account, credentials) = created?;
    cache.keep_credentials(&credentials)?;
    info!(
        account = account.id(),
        "the CA has made an account for this relay"
    );
    Ok(account)
}

/// The relay's HTTP client, as the ACME client calls it.
struct Transport {
    client: HttpClient,
    heard: Heard,
}

impl instant_acme::HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (client, heard) = (self.client.clone(), self.heard.clone());
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let sending = client.send(Request::from_parts(head, Full::new(body)), LIMITS);
            let answer = sending
                .await
                .map_err(|error| Error::Other(Box::new(error)))?;
            heard.hear(&answer);
            let (mut parts, body) = answer.into_parts();
            bound_retry(&mut parts.headers);
            Ok(BytesResponse {
                parts,
                body: Box::new(body),
            })
        })
    }
}

/// Replaces a pause that is longer than [`RETRY_SECONDS_MAX`].
fn bound_retry(headers: &mut HeaderMap) {
    let Some(value) = headers.get_mut(RETRY_AFTER) else {
        return;
    };
    let text = value.to_str().unwrap_or_default().trim();
    // A number that is too long to be read is not read by the ACME client either.
    if text
        .parse::<u64>()
        .is_ok_and(|seconds| seconds > RETRY_SECONDS_MAX)
    {
        *value = HeaderValue::from(RETRY_SECONDS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_cannot_make_the_clock_overflow() {
        for (text, wanted) in [
            ("18446744073709551615", "604800"),
            (" 604801", "604800"),
            ("30", "30"),
            (
                "Fri, 31 Dec 1999 23:59:59 GMT",
                "Fri, 31 Dec 1999 23:59:59 GMT",
            ),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            bound_retry(&mut headers);
            assert_eq!(headers[RETRY_AFTER], wanted);
        }
    }
}
