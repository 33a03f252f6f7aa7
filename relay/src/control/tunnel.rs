//! `/tunnels/<name>`: shows one tunnel and its callers; kicks, pauses or resumes the tunnel, or unbinds its
//! name.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use tieline_wire::TunnelId;

use super::admin::{Admin, refuse, uncached};
use crate::audit::{Entry, Kind};
use crate::directory::Forgotten;
use crate::metrics::Cut;
use crate::shard::Paused;
use crate::state::Decision;

/// Limit of paused tunnels: each pause sends the whole set to every shard.
const PAUSED_MAX: usize = 1000;

/// Body of an order: an empty JSON object. As with `/revoke`, pages of other sites cannot send JSON here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// An operator's order about this tunnel.
pub(super) struct Order(TunnelId);

impl<S: Send + Sync> FromRequest<S> for Order {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let path = Path::<String>::from_request_parts(&mut parts, state).await;
        let Path(name) = path.map_err(IntoResponse::into_response)?;
        let request = Request::from_parts(parts, body);
        match Json::from_request(request, state).await {
            Ok(Json(Nothing {})) => TunnelId::parse(&name).map(Self).map_err(|_| unknown(&name)),
            Err(JsonRejection::MissingJsonContentType(_)) => {
                let text = "the body must be {}, with Content-Type: application/json";
                Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", text))
            }
            Err(_) => {
                let text = "the body must be {}";
                Err(refuse(StatusCode::BAD_REQUEST, "bad_body", text))
            }
        }
    }
}

/// Shows the tunnel.
pub(super) async fn show(State(admin): State<Arc<Admin>>, Path(name): Path<String>) -> Response {
    let Ok(tunnel) = TunnelId::parse(&name) else {
        return unknown(&name);
    };
    let Some(detail) = admin.inspect.detail(tunnel.clone()).await else {
        let text = "not every shard answered in time";
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "shards_busy", text);
    };
    if detail.row.is_some() {
        return uncached(Json(detail).into_response());
    }
    let paused = admin.pauses.lock().await.contains(&tunnel);
    if !paused && detail.bound.is_none() {
        return unknown(&name);
    }
    let mut absent = json!({
        "tunnel_id": tunnel.as_str(), "paused": paused, "links": 0, "callers": [],
        "callers_total": 0,
    });
    if let Some(bound) = detail.bound {
        absent["bound"] = json!(bound);
    }
    uncached(Json(absent).into_response())
}

/// Takes the tunnel from the links that serve it, with its sessions.
pub(super) async fn kick(State(admin): State<Arc<Admin>>, Order(tunnel): Order) -> Response {
    let Cut { links, sessions } = finished(admin.inspect.kick(tunnel.clone())).await;
    if links == 0 {
        let detail = admin.inspect.detail(tunnel.clone()).await;
        return match detail.and_then(|it| it.bound) {
            Some(_) => absent(&tunnel),
            None => unknown(tunnel.as_str()),
        };
    }
    admin.note(Kind::Kicked, tunnel, links);
    uncached(Json(json!({ "links_ended": links, "sessions_ended": sessions })).into_response())
}

/// Unbinds the name, so that another agent can have it.
pub(super) async fn forget(State(admin): State<Arc<Admin>>, Order(tunnel): Order) -> Response {
    match admin.inspect.forget(tunnel.clone()).await {
        Some(Forgotten::Free) => {
            admin.note(Kind::Forgotten, tunnel, 0);
            uncached(Json(json!({ "forgotten": true })).into_response())
        }
        Some(Forgotten::Unknown) => unknown(tunnel.as_str()),
        Some(Forgotten::Live) => {
            let text = format!(
                "an agent serves {tunnel} and would get the name back at once: first revoke its token, its \
                 holder or its key (POST /revoke), or stop the agent"
            );
            refuse(StatusCode::CONFLICT, "tunnel_live", &text)
        }
        None => {
            let text = "the name's shard did not answer in time";
            refuse(StatusCode::SERVICE_UNAVAILABLE, "shards_busy", text)
        }
    }
}

/// Refuses the tunnel's callers from now on, and ends their sessions.
pub(super) async fn pause(State(admin): State<Arc<Admin>>, Order(tunnel): Order) -> Response {
    let change = |paused: &mut Paused| {
        if paused.len() >= PAUSED_MAX && !paused.contains(&tunnel) {
            return false;
        }
        paused.insert(tunnel.clone());
        true
    };
    let decision = Decision::Paused(tunnel.clone());
    let Some(Cut { sessions, .. }) = admin.change_pauses(decision, change).await else {
        let text = format!("{PAUSED_MAX} tunnels are paused already");
        return refuse(StatusCode::INSUFFICIENT_STORAGE, "too_many", &text);
    };
    admin.note(Kind::Paused, tunnel, sessions);
    uncached(Json(json!({ "paused": true, "sessions_ended": sessions })).into_response())
}

/// Admits the tunnel's callers again.
pub(super) async fn resume(State(admin): State<Arc<Admin>>, Order(tunnel): Order) -> Response {
    let mut was_paused = false;
    let change = |paused: &mut Paused| {
        was_paused = paused.remove(&tunnel);
        was_paused
    };
    let decision = Decision::Resumed(tunnel.clone());
    let _none_was_cut = admin.change_pauses(decision, change).await;
    if was_paused {
        admin.note(Kind::Resumed, tunnel, 0);
    }
    uncached(Json(json!({ "paused": false })).into_response())
}

impl Admin {
    /// Applies `change` to the paused tunnels. If it returns true, stores `decision`, tells every shard, and
    /// returns what that ended.
    async fn change_pauses(
        &self,
        decision: Decision,
        change: impl FnOnce(&mut Paused) -> bool,
    ) -> Option<Cut> {
        let mut pauses = Arc::clone(&self.pauses).lock_owned().await;
        let mut paused = Paused::clone(&pauses);
        if !change(&mut paused) {
            return None;
        }
        self.book.decide(decision);
        *pauses = Arc::new(paused);
        let told = self.inspect.pause(Arc::clone(&pauses));
        let told = async move {
            let cut = told.await;
            drop(pauses);
            cut
        };
        Some(finished(told).await)
    }

    fn note(&self, kind: Kind, tunnel: TunnelId, count: usize) {
        let entry = || Entry::new(kind).tunnel(tunnel).count(count as u64);
        self.audit.note(entry);
    }
}

/// Runs `told` to its end even if the requester disconnects: otherwise only some shards would know.
async fn finished(told: impl Future<Output = Cut> + Send + 'static) -> Cut {
    // The task fails only if the runtime is shut down, which ends this task, too.
    tokio::spawn(told).await.unwrap_or_default()
}

fn absent(tunnel: &TunnelId) -> Response {
    let text = format!(
        "no agent serves {tunnel} now, and the name is still bound to its last agent: GET \
         /tunnels/{tunnel} shows the owner, POST /tunnels/{tunnel}/forget frees the name"
    );
    refuse(StatusCode::CONFLICT, "tunnel_absent", &text)
}

fn unknown(name: &str) -> Response {
    let text = format!("no agent serves a tunnel named {name:?}");
    refuse(StatusCode::NOT_FOUND, "unknown_tunnel", &text)
}
