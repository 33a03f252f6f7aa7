//! A minimal MCP client for the sessionless protocol version, to prove that the tunnel works.

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Uri, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::rpc;

/// Limit on the bytes of an answer.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// A connection to an MCP URL, kept for all calls.
pub(super) struct Client {
    sender: SendRequest<Full<Bytes>>,
    connection: JoinHandle<()>,
    uri: Uri,
    authority: String,
    last_id: u64,
}

impl Client {
    /// Connects to the host of `url`, which must be an `http://` URL.
    pub(super) async fn connect(url: &str) -> anyhow::Result<Self> {
        let uri: Uri = url
            .parse()
            .with_context(|| format!("cannot parse the URL {url:?}"))?;
        let authority = uri.authority().context("the URL has no host")?.to_string();
        let host = uri.host().context("the URL has no host")?;
        let address = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80));
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("cannot connect to {url}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(async {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the demo's connection failed");
            }
        });
        Ok(Self {
            sender,
            connection,
            uri,
            authority,
            last_id: 0,
        })
    }

    /// Makes one call and returns its result.
    pub(super) async fn call(&mut self, method: &str, mut params: Value) -> anyhow::Result<Value> {
        self.last_id += 1;
        params["_meta"] = json!({
            rpc::VERSION_KEY: rpc::VERSION_SESSIONLESS,
            rpc::CLIENT_CAPABILITIES_KEY: {},
        });
        let mut request = Request::post(self.uri.path())
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, text/event-stream")
            .header(rpc::VERSION_HEADER, rpc::VERSION_SESSIONLESS)
            .header(rpc::METHOD_HEADER, method);
        if let Some(name) = params["name"].as_str() {
            request = request.header(rpc::NAME_HEADER, name);
        }
        let id = self.last_id;
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let request = request.body(Full::new(Bytes::from(message.to_string())))?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
        let mut answer: Value = serde_json::from_slice(&body)
            .with_context(|| format!("{status}: {}", String::from_utf8_lossy(&body)))?;
        if !status.is_success() || answer["id"] != id || answer.get("result").is_none() {
            bail!("{status}: {answer}");
        }
        Ok(answer["result"].take())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
