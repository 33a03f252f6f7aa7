//! Routes of the admin port, its checks of token, body and method, and the pages `/tunnels`, `/healthz` and `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};
use tieline_hop::headers::bearer;
use tokio::time;

use super::admin::{Admin, refuse, uncached};
use super::connections::ConnectionState;
use super::listing::{self, Extent, Listing};
use super::{Changes, Phase, revoke, tunnel};
use crate::config::Secret;
use crate::metrics::{self, AcmeReport, ShardMetrics, ShardStatus, ShownCertificate, TlsReport};

/// Largest page of `/tunnels`, and its default size.
const PAGE_TUNNELS_MAX: usize = 1000;

/// Longest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 4096;

/// Time for a request's body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The router of all pages. Those that change something need a token unless `is_local`.
pub(super) fn router(admin: Arc<Admin>, is_local: bool) -> Router {
    let changes = Router::new()
        .route("/revoke", post(revoke::revoke))
        .route("/tunnels/{name}/kick", post(tunnel::kick))
        .route("/tunnels/{name}/pause", post(tunnel::pause))
        .route("/tunnels/{name}/resume", post(tunnel::resume))
        .route("/tunnels/{name}/forget", post(tunnel::forget))
        .layer(middleware::from_fn_with_state(
            admin.changes.clone(),
            hold_changes,
        ));
    let changes = if is_local || admin.token.is_some() {
        changes
    } else {
        changes.layer(middleware::from_fn(refuse_changes))
    };
    let router = changes
        .route("/tunnels", get(tunnels))
        .route("/tunnels/{name}", get(tunnel::show))
        .route("/healthz", get(health))
        .route("/metrics", get(show_metrics))
        .fallback(|| async {
            refuse(
                StatusCode::NOT_FOUND,
                "not_found",
                "the pages are /tunnels, /tunnels/<name>, /healthz, /metrics and /revoke",
            )
        })
        .method_not_allowed_fallback(|uri: Uri| async move {
            let path = uri.path();
            let changes = ["/revoke", "/kick", "/pause", "/resume", "/forget"];
            let (allow, text) = match changes.iter().any(|end| path.ends_with(end)) {
                true => ("POST", "only POST is answered"),
                false => ("GET, HEAD", "only GET is answered"),
            };
            let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text);
            let headers = answer.headers_mut();
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
            answer
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(take_body));
    let router = match &admin.token {
        Some(token) => router.layer(middleware::from_fn_with_state(
            token.clone(),
            refuse_strangers,
        )),
        None => router,
    };
    router.with_state(admin)
}

/// Admits requests that present the admin token.
async fn refuse_strangers(State(token): State<Secret>, request: Request, next: Next) -> Response {
    let presented = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(bearer);
    if presented.is_some_and(|text| token.is(text)) {
        if let Some(standing) = request.extensions().get::<Arc<ConnectionState>>() {
            standing.trust();
        }
        return next.run(request).await;
    }
    let text = "this listener wants `Authorization: Bearer` and the token of admin_token_file";
    let mut answer = refuse(StatusCode::UNAUTHORIZED, "unauthorized", text);
    answer
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

/// Reads a request's whole body before its handler runs; refuses a body that does not arrive in time.
async fn take_body(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match time::timeout(BODY_TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => {
            let request = Request::from_parts(parts, Body::from(bytes));
            next.run(request).await
        }
        Ok(Err(_)) => {
            let text = format!("a body is at most {BODY_BYTES_MAX} bytes, and is sent whole");
            refuse(StatusCode::BAD_REQUEST, "bad_body", &text)
        }
        Err(_) => {
            let text = "the request's body did not come in time";
            refuse(StatusCode::REQUEST_TIMEOUT, "timeout", text)
        }
    }
}

/// Refuses changes on a listener that other machines can reach without a token.
async fn refuse_changes(request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let text = "this needs admin_token_file, because other machines can reach this listener";
    refuse(StatusCode::FORBIDDEN, "not_protected", text)
}

/// Refuses changes while another relay takes over or has taken over: they would hold at this relay only.
async fn hold_changes(State(changes): State<Changes>, request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    if let Some(_change) = changes.begin() {
        return next.run(request).await;
    }
    let text = "this relay is stopping, or another takes over: send the request again over a new connection";
    let mut answer = refuse(StatusCode::SERVICE_UNAVAILABLE, "draining", text);
    let headers = answer.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    limit: Option<usize>,
    after: Option<String>,
}

async fn tunnels(
    State(admin): State<Arc<Admin>>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Response {
    let Ok(Query(PageQuery { limit, after })) = query else {
        let text = "the query may have `limit` and `after`, as in ?limit=100&after=maya-1";
        return refuse(StatusCode::BAD_REQUEST, "bad_query", text);
    };
    // Without a query all rows come as one array: the contract of the older DCC relay.
    let is_paged = limit.is_some() || after.is_some();
    let limit = limit.unwrap_or(PAGE_TUNNELS_MAX);
    if !(1..=PAGE_TUNNELS_MAX).contains(&limit) {
        let text = format!("`limit` must be 1 to {PAGE_TUNNELS_MAX}");
        return refuse(StatusCode::BAD_REQUEST, "bad_query", &text);
    }
    let mut listing = Listing::begin(Arc::clone(&admin.inspect), &after.unwrap_or_default());
    // Asks the shards before the status is sent: later, a busy shard can only break the answer off.
    if let Err(error) = listing.fill().await {
        let text = error.to_string();
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "shards_busy", &text);
    }
    let extent = if is_paged {
        let total = admin.metrics.iter().map(|one| one.tunnels.read()).sum();
        Extent::Page { limit, total }
    } else {
        Extent::All
    };
    let rows = listing::body(listing, extent);
    let kind = [(header::CONTENT_TYPE, "application/json")];
    uncached((kind, Body::new(rows)).into_response())
}

#[derive(Deserialize)]
struct HealthQuery {
    verbose: Option<String>,
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    version: &'static str,
    uptime_ms: u128,
    start_epoch_seconds: u64,
    open_files_max: Option<u64>,
    memory_limit_bytes: Option<u64>,
    shard_budget_bytes: u64,
    shards: Vec<ShardHealth>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    certificates: Vec<ShownCertificate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acme: Option<AcmeReport>,
}

#[derive(Serialize)]
struct ShardHealth {
    #[serde(flatten)]
    status: ShardStatus,
    links: i64,
    tunnels: i64,
    sessions: i64,
}

async fn health(
    State(admin): State<Arc<Admin>>,
    query: Result<Query<HealthQuery>, QueryRejection>,
) -> Response {
    let (code, status) = if *admin.phase.borrow() >= Phase::Drains {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else {
        (StatusCode::OK, "ok")
    };
    let verbose = query.ok().and_then(|query| query.0.verbose);
    if verbose.is_none_or(|verbose| verbose == "0" || verbose == "false") {
        return uncached((code, format!("{status}\n")).into_response());
    }
    let TlsReport { certificates, acme } = admin.tls();
    let report = Health {
        status,
        version: env!("CARGO_PKG_VERSION"),
        uptime_ms: admin.started.elapsed().as_millis(),
        start_epoch_seconds: admin.start_epoch_seconds,
        // `null` without a limit.
        open_files_max: getrlimit(Resource::Nofile).current,
        memory_limit_bytes: admin.memory_limit_bytes,
        shard_budget_bytes: admin.shard_budget_bytes,
        shards: admin
            .inspect
            .shards()
            .into_iter()
            .map(|one| admin.shard_health(one))
            .collect(),
        certificates,
        acme,
    };
    uncached((code, Json(report)).into_response())
}

impl Admin {
    fn shard_health(&self, status: ShardStatus) -> ShardHealth {
        let metrics = self.metrics.get(status.shard);
        let read = |pick: fn(&ShardMetrics) -> &metrics::Gauge| {
            metrics.map_or(0, |metrics| pick(metrics).read())
        };
        ShardHealth {
            links: read(|m| &m.links),
            tunnels: read(|m| &m.tunnels),
            sessions: read(|m| &m.sessions),
            status,
        }
    }
}

async fn show_metrics(State(admin): State<Arc<Admin>>) -> Response {
    let shards = admin.inspect.shards();
    let text = metrics::render(
        &admin.metrics,
        &shards,
        admin.start_epoch_seconds,
        &admin.audit.counts(),
        &admin.tls(),
    );
    // Prometheus text format, version 0.0.4 (prometheus.io, "Exposition formats").
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    uncached((kind, text).into_response())
}
