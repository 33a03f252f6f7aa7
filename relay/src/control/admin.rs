//! State that the pages of the admin port share, and the form of their answers.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::sync::{Mutex, watch};

use super::acme::{ShownAcme, report};
use super::auth::Orders;
use super::{Changes, Inspect, Phase};
use crate::audit::Audit;
use crate::certificates::CertificateTable;
use crate::config::Secret;
use crate::metrics::{ShardMetrics, TlsReport};
use crate::shard::Paused;
use crate::state::NoteQueue;

/// The paused tunnels. Locked while shards are told, so that they hear of changes in order.
pub(super) type Pauses = Arc<Mutex<Arc<Paused>>>;

/// State shared by the pages.
pub(super) struct Admin {
    pub(super) inspect: Arc<dyn Inspect>,
    pub(super) orders: Orders,
    /// Token that a request must present, if one is set.
    pub(super) token: Option<Secret>,
    pub(super) metrics: Vec<Arc<ShardMetrics>>,
    pub(super) audit: Audit,
    pub(super) pauses: Pauses,
    pub(super) book: NoteQueue,
    pub(super) changes: Changes,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) started: Instant,
    pub(super) memory_limit_bytes: Option<u64>,
    pub(super) shard_budget_bytes: u64,
    pub(super) start_epoch_seconds: u64,
    /// Absent if no address has TLS.
    pub(super) certificates: Option<watch::Receiver<Arc<CertificateTable>>>,
    /// Absent if the relay orders no certificate.
    pub(super) acme: Option<ShownAcme>,
}

impl Admin {
    /// State of the certificates.
    pub(super) fn tls(&self) -> TlsReport {
        let table = self.certificates.as_ref().map(|it| it.borrow().shown());
        TlsReport {
            certificates: table.unwrap_or_default(),
            acme: self.acme.as_ref().map(report),
        }
    }
}

/// A JSON error: a code for programs in `error`, and a message for people.
pub(super) fn refuse(status: StatusCode, error: &str, message: &str) -> Response {
    uncached((status, Json(json!({ "error": error, "message": message }))).into_response())
}

pub(super) fn uncached(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    answer
}
