//! The demo's MCP server: Streamable HTTP on a loopback port.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::rpc::{self, Headers, Reply};

/// Path of the MCP endpoint.
const PATH: &str = "/mcp";

/// Limit on the bytes of a request.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// Limit on remembered MCP sessions; the oldest is dropped first.
const MCP_SESSIONS_MAX: usize = 1024;

/// A running server; dropping it stops the server.
pub(super) struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    /// Required value of `Host`: a web page that reaches this port by DNS rebinding makes the browser send another
    /// host name.
    authority: Arc<str>,
    mcp_sessions: Arc<Mutex<VecDeque<String>>>,
}

impl Server {
    /// Binds a loopback port and starts to serve.
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Shared {
            authority: address.to_string().into(),
            mcp_sessions: Arc::default(),
        };
        let router = Router::new()
            .route(PATH, post(message).delete(end_session))
            .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
            .with_state(shared);
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::warn!(%error, "the demo's MCP server ended");
            }
        });
        Ok(Self { address, task })
    }

    /// URL of the MCP endpoint.
    pub(super) fn url(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn mcp_sessions(&self) -> MutexGuard<'_, VecDeque<String>> {
        let locked = self.mcp_sessions.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> String {
        let id = format!("{:032x}", fastrand::u128(..));
        let mut mcp_sessions = self.mcp_sessions();
        if mcp_sessions.len() == MCP_SESSIONS_MAX {
            mcp_sessions.pop_front();
        }
        mcp_sessions.push_back(id.clone());
        id
    }

    fn knows(&self, id: &str) -> bool {
        self.mcp_sessions().iter().any(|known| known == id)
    }

    fn end(&self, id: &str) -> bool {
        let mut mcp_sessions = self.mcp_sessions();
        let before = mcp_sessions.len();
        mcp_sessions.retain(|known| known != id);
        mcp_sessions.len() < before
    }
}

async fn message(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    if text(&headers, header::HOST.as_str()) != Some(&*shared.authority) {
        let words = "this server answers only under its own address";
        return (StatusCode::MISDIRECTED_REQUEST, words).into_response();
    }
    let mcp = Headers {
        version: text(&headers, rpc::VERSION_HEADER),
        method: text(&headers, rpc::METHOD_HEADER),
        name: text(&headers, rpc::NAME_HEADER),
    };
    let message: Value = match serde_json::from_slice(&body) {
        Ok(message) => message,
        Err(error) => return reply(&shared, rpc::unreadable(&error.to_string())),
    };
    if !rpc::is_sessionless(&mcp, &message) && message["method"] != "initialize" {
        match text(&headers, rpc::SESSION_HEADER) {
            None => return (StatusCode::BAD_REQUEST, "no Mcp-Session-Id").into_response(),
            Some(id) if !shared.knows(id) => return StatusCode::NOT_FOUND.into_response(),
            Some(_) => {}
        }
    }
    reply(&shared, rpc::respond(&mcp, &message))
}

fn reply(shared: &Shared, reply: Reply) -> Response {
    match reply {
        Reply::Accepted => StatusCode::ACCEPTED.into_response(),
        Reply::Welcome { body } => {
            ([(rpc::SESSION_HEADER, shared.begin())], axum::Json(body)).into_response()
        }
        Reply::Answer { status, body } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, axum::Json(body)).into_response()
        }
    }
}

async fn end_session(State(shared): State<Shared>, headers: HeaderMap) -> StatusCode {
    match text(&headers, rpc::SESSION_HEADER) {
        Some(id) if shared.end(id) => StatusCode::NO_CONTENT,
        Some(_) => StatusCode::NOT_FOUND,
        None => StatusCode::BAD_REQUEST,
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
