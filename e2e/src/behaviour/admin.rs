//! What a relay says about itself on its admin port.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::{HttpStream, SOON, soon};

/// One reading of `/metrics`.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Family, labels as written, value.
    samples: Vec<(String, String, i64)>,
}

impl Metrics {
    /// The sum of a family.
    ///
    /// # Panics
    /// There is no such family: a test that asks for it has its name wrong.
    #[must_use]
    pub fn get(&self, family: &str) -> i64 {
        self.sum(family, |_| true)
    }

    /// The samples of a family whose labels contain the value `label`, such as a reason's word.
    ///
    /// # Panics
    /// There is no such sample: a test that asks for it has its name wrong.
    #[must_use]
    pub fn labelled(&self, family: &str, label: &str) -> i64 {
        let quoted = format!("\"{label}\"");
        self.sum(family, |labels| labels.contains(&quoted))
    }

    fn sum(&self, family: &str, wanted: impl Fn(&str) -> bool) -> i64 {
        let mut values = self
            .samples
            .iter()
            .filter(|(name, labels, _)| name == family && wanted(labels))
            .map(|(_, _, value)| *value)
            .peekable();
        assert!(values.peek().is_some(), "no such metric: {family}\n{self}");
        values.sum()
    }

    fn parse(text: &str) -> Result<Self> {
        let mut samples = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').context("a sample has a value")?;
            let (family, labels) = name.split_once('{').unwrap_or((name, ""));
            let value = value.parse().with_context(|| line.to_owned())?;
            samples.push((
                family.to_owned(),
                labels.trim_end_matches('}').to_owned(),
                value,
            ));
        }
        Ok(Self { samples })
    }
}

impl fmt::Display for Metrics {
    /// What is not zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (family, labels, value) in self.samples.iter().filter(|(_, _, value)| *value != 0) {
            writeln!(f, "    {family}{{{labels}}} {value}")?;
        }
        Ok(())
    }
}

/// One row of `/tunnels`.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "named as in the contract")]
pub struct TunnelRow {
    pub tunnel_id: String,
    pub dcc: String,
    pub capabilities: Vec<String>,
    pub agent_version: String,
    pub registered_at_ms_ago: u64,
    pub last_heartbeat_ms_ago: u64,
    pub session_count: usize,
    pub generation: String,
    pub shard: usize,
    pub shards: Vec<usize>,
    pub links: usize,
    pub agents: usize,
}

pub(super) async fn metrics(address: SocketAddr) -> Result<Metrics> {
    Metrics::parse(&get(address, "/metrics").await?)
}

pub(super) async fn tunnels(address: SocketAddr) -> Result<Vec<TunnelRow>> {
    Ok(serde_json::from_str(&get(address, "/tunnels").await?)?)
}

/// How long the first page of `/tunnels` takes to its first byte, and to its last. Blocks, so that what else the
/// caller's runtime does is not measured with it.
pub(super) fn time_tunnels(address: SocketAddr) -> Result<(Duration, Duration)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    let started = Instant::now();
    stream.write_all(b"GET /tunnels?limit=1000 HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = vec![0];
    stream.read_exact(&mut answer)?;
    let first = started.elapsed();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.ends_with(b"}"), "/tunnels broke off");
    Ok((first, started.elapsed()))
}

pub(super) async fn get(address: SocketAddr, path: &str) -> Result<String> {
    soon(path, async {
        let mut http = HttpStream::connect(address).await?;
        http.get(path).await?;
        let (head, body) = http.answer().await?;
        ensure!(head.status() == 200, "{path}: {head:?}");
        Ok(String::from_utf8(body.bytes)?)
    })
    .await?
}

/// The status and the JSON of what is answered to an order.
pub(super) async fn post(address: SocketAddr, path: &str, body: &Value) -> Result<(u16, Value)> {
    soon(path, async {
        let mut http = HttpStream::connect(address).await?;
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        http.write(head + &body).await?;
        let (head, body) = http.answer().await?;
        Ok((head.status(), serde_json::from_slice(&body.bytes)?))
    })
    .await?
}
