//! `POST /revoke`: denies a token id, a token holder or an agent key from now on.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use tieline_token::CLAIM_BYTES_MAX;
use tokio::sync::oneshot;
use tokio::time;

use super::admin::{Admin, refuse, uncached};
use super::auth::{Order, REVOKED_KEPT};
use crate::audit::{Entry, Kind};
use crate::config::Denied;

/// Time for every shard to report the links that it ended.
const ENDED_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokeQuery {
    jti: Option<String>,
    sub: Option<String>,
    key: Option<String>,
}

/// Handles `POST /revoke`. A page of another site can send a form to loopback, but no JSON: browsers ask for
/// permission first (CORS preflight), and nothing here grants it.
pub(super) async fn revoke(
    State(admin): State<Arc<Admin>>,
    body: Result<Json<RevokeQuery>, JsonRejection>,
) -> Response {
    let bad = |text: &str| refuse(StatusCode::BAD_REQUEST, "bad_body", text);
    let wanted = match body {
        Ok(Json(wanted)) => wanted,
        Err(JsonRejection::MissingJsonContentType(_)) => {
            let text = "the body must be JSON, with Content-Type: application/json";
            return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", text);
        }
        Err(_) => return bad(r#"the body must be one of {"jti":...}, {"sub":...} or {"key":...}"#),
    };
    let fits = |text: &String| !text.is_empty() && text.len() <= CLAIM_BYTES_MAX;
    let denied = match wanted {
        RevokeQuery {
            jti: Some(jti),
            sub: None,
            key: None,
        } if fits(&jti) => Denied::Number(jti),
        RevokeQuery {
            jti: None,
            sub: Some(sub),
            key: None,
        } if fits(&sub) => Denied::Subject(sub),
        RevokeQuery {
            jti: None,
            sub: None,
            key: Some(key),
        } => match Denied::parse_key(&key) {
            Some(denied) => denied,
            None => return bad("`key` is 12 to 64 hexadecimal digits, as the log prints it"),
        },
        _ => return bad("the body must have exactly one of `jti`, `sub` and `key`, not empty"),
    };
    let what = denied.to_string();
    let (ended, answer) = oneshot::channel();
    let order = Order::Revoke { denied, ended };
    let busy = || {
        let text = "the relay is busy; the revocation may still take effect";
        refuse(StatusCode::SERVICE_UNAVAILABLE, "busy", text)
    };
    if admin.orders.try_send(order).is_err() {
        return busy();
    }
    match time::timeout(ENDED_TIMEOUT, answer).await {
        Ok(Ok(Ok(links))) => {
            let entry = || Entry::new(Kind::Revoked).what(what).count(links as u64);
            admin.audit.note(entry);
            let kept = REVOKED_KEPT.as_secs();
            let answer = json!({ "links_ended": links, "kept_for_seconds": kept });
            uncached(Json(answer).into_response())
        }
        Ok(Ok(Err(error))) => refuse(
            StatusCode::INSUFFICIENT_STORAGE,
            "too_many",
            &error.to_string(),
        ),
        _ => busy(),
    }
}
