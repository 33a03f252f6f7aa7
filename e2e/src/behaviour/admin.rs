//! Client of the relay's admin port: metrics, tunnels, orders.

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
    /// Metric family, labels as printed, value.
    samples: Vec<(String, String, i64)>,
}

impl Metrics {
    /// Sum over all samples of a family.
    ///
    /// # Panics
    /// No sample has this family name, which means that the test misspells it.
    #[must_use]
    pub fn get(&self, family: &str) -> i64 {
        self.sum(family, |_| true)
    }

    /// Sum over the samples of a family that have the label value `label`, such as a reason.
    ///
    /// # Panics
    /// No sample matches, which means that the test misspells the family or the label.
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
    /// Lists the samples that are not zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (family, labels, value) in self.samples.iter().filter(|(_, _, value)| *value != 0) {
            writeln!(f, "    {family}{{{labels}}} {value}")?;
        }
        Ok(())
    }
}

/// One row of the admin port's `/tunnels`.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "field names of the admin API")]
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
    pub transport: String,
    pub channel_bound: bool,
    pub paths: Vec<PathRow>,
}

/// One link in [`TunnelRow::paths`]; loss and MTU are known over QUIC alone.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "field names of the admin API")]
pub struct PathRow {
    pub shard: usize,
    pub transport: String,
    pub rtt_ms: Option<f64>,
    pub loss_percent: Option<f64>,
    pub mtu: Option<u16>,
}

pub(super) async fn metrics(address: SocketAddr) -> Result<Metrics> {
    Metrics::parse(&get(address, "/metrics").await?)
}

pub(super) async fn tunnels(address: SocketAddr) -> Result<Vec<TunnelRow>> {
    Ok(serde_json::from_str(&get(address, "/tunnels").await?)?)
}

/// Times from the request for the first page of `/tunnels` to its first and to its last byte. Blocking, so
/// that other tasks of the caller's runtime do not affect the times.
pub(super) fn time_tunnels(address: SocketAddr) -> Result<(Duration, Duration)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    let started = Instant::now();
    stream.write_all(b"GET /tunnels?limit=1000 HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = vec![0];
    stream.read_exact(&mut answer)?;
    let first = started.elapsed();
    stream.read_to_end(&mut answer)?;
    ensure!(
        answer.ends_with(b"}"),
        "the answer of /tunnels is incomplete"
    );
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

/// Posts JSON to the admin port; returns the status and the JSON of the answer.
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
