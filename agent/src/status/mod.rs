//! Status of a running agent: one line for a person, JSON for a program.

mod board;
mod socket;

use std::fmt;

use serde::{Deserialize, Serialize};

pub(crate) use self::board::Board;
pub use self::socket::list;
pub(crate) use self::socket::{Server, list_quietly};
use crate::event::{Span, is_raw};
use crate::plain::Plain;
use crate::stdio::StdioStatus;
use crate::targets::Health;
use crate::transport::Transport;

/// State of a link, of a tunnel or of the whole agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Dialling, or waiting for the relay's answer.
    Connecting,
    /// The tunnel is up.
    Registered,
    /// Waiting before the next attempt.
    BackingOff,
    /// Asked to stop; running sessions finish.
    Stopping,
    /// The relay refuses a tunnel to this target.
    Refused,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::Registered => "registered",
            Self::BackingOff => "backing off",
            Self::Stopping => "stopping",
            Self::Refused => "refused",
        })
    }
}

/// One link of an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Index of the link, from 0.
    pub link: u16,
    /// State of the link.
    pub state: State,
    /// What the link is over now: `tcp`, `tls`, `ws`, `wss` or `quic`; `None` while there is none. Agents of an older
    /// version do not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// True if the agent's proof is bound to the TLS connection, which then ends at the relay itself. Agents of an older
    /// version bind nothing.
    #[serde(default)]
    pub channel_bound: bool,
    /// Last measured round trip to the relay, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Over QUIC: share of the agent's packets that were lost, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_percent: Option<f64>,
    /// Over QUIC: bytes of the largest datagram that gets to the relay, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Number of sessions on the link.
    pub sessions: usize,
}

/// Why the relay refuses a tunnel to a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalStatus {
    /// Reason in one stable word.
    pub reason: String,
    /// Reason in a sentence.
    pub message: String,
    /// True if another attempt cannot succeed.
    pub is_final: bool,
}

/// One target of an agent, and its tunnel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// The tunnel's name: the granted name, or the name that is asked for.
    pub name: String,
    /// State of the tunnel.
    pub state: State,
    /// The URL to give to callers, once the tunnel was registered.
    pub url: Option<String>,
    /// Every URL of the tunnel.
    pub urls: Vec<String>,
    /// The generation that the relay granted last.
    pub generation: Option<u64>,
    /// The target.
    pub target: String,
    /// The kind of application; may be empty.
    pub dcc: String,
    /// Whether the target takes connections.
    pub health: Option<Health>,
    /// The relay's refusal, if there is no tunnel because of it.
    pub refusal: Option<RefusalStatus>,
    /// Processes of the target's program; `None` for a target at an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdio: Option<StdioStatus>,
    /// The last lines that the processes wrote to standard error, the oldest first; 64 KiB of all targets together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<String>,
}

impl fmt::Display for TunnelStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = way(self.url.as_deref(), &self.target);
        let health = aside(self.health.as_ref());
        write!(f, "{}  {}{way}", Plain(&self.name), self.state)?;
        write!(f, "  -> {}{health}", Plain(&self.target))?;
        if let Some(stdio) = &self.stdio {
            write!(f, "\n        {}", processes(stdio))?;
        }
        match &self.refusal {
            Some(refusal) if self.state != State::Registered => {
                write!(f, "\n        {}", Plain(&refusal.message))
            }
            _ => Ok(()),
        }
    }
}

/// What the links that are up are over, to be printed after the relay's URL; nothing if the URL's scheme tells it.
fn carried(relay: &str, links: &[LinkStatus]) -> String {
    let up = links.iter().filter(|it| it.state == State::Registered);
    let mut words: Vec<_> = up.filter_map(|it| it.transport.as_deref()).collect();
    words.sort_unstable();
    words.dedup();
    let scheme = relay.split_once("://").map(|(scheme, _)| scheme);
    match words.as_slice() {
        [] => String::new(),
        [word] if Some(*word) == scheme => String::new(),
        words => format!(" over {}", Plain(words.join(" and "))),
    }
}

/// Whether TLS ends at the relay itself on all links that are up, to be printed behind their transport; nothing without
/// TLS.
fn binding(links: &[LinkStatus]) -> &'static str {
    let up = links.iter().filter(|it| it.state == State::Registered);
    let with_tls = [Transport::Tls, Transport::Wss, Transport::Quic].map(Transport::word);
    let is_over_tls = |it: &&LinkStatus| {
        let word = it.transport.as_deref();
        word.is_some_and(|word| with_tls.contains(&word))
    };
    let over_tls: Vec<_> = up.filter(is_over_tls).collect();
    match over_tls.iter().all(|it| it.channel_bound) {
        _ if over_tls.is_empty() => "",
        true => " (bound)",
        false => " (not bound)",
    }
}

/// What the links over QUIC that are up have measured, the worst of each, to be printed after the round trip.
fn measured(links: &[LinkStatus]) -> String {
    let up = links.iter().filter(|it| it.state == State::Registered);
    let (mut loss, mut mtu) = (None::<f64>, None::<u16>);
    for link in up {
        loss = loss.into_iter().chain(link.loss_percent).reduce(f64::max);
        mtu = mtu.into_iter().chain(link.mtu).min();
    }
    let loss = loss.map(|loss| format!("  {loss:.1} % lost"));
    let mtu = mtu.map(|mtu| format!("  MTU {mtu}"));
    loss.into_iter().chain(mtu).collect()
}

/// How callers reach a registered tunnel: its URL, or raw TCP for a target of raw bytes.
fn way(url: Option<&str>, target: &str) -> String {
    match url {
        None => String::new(),
        Some(_) if is_raw(target) => "  raw TCP".to_owned(),
        Some(url) => format!("  {}", Plain(url)),
    }
}

/// A target's health, to be printed in brackets after its name.
fn aside(health: Option<&Health>) -> String {
    let words = health.map(|it| format!(" ({it} for {})", Span(it.since_s)));
    words.unwrap_or_default()
}

/// What the processes of a program do, in one line.
fn processes(it: &StdioStatus) -> String {
    let mut text = match it.running + it.starting {
        0 => "no process".to_owned(),
        all => counted(all, "process", "processes"),
    };
    if it.starting > 0 {
        text.push_str(&format!(" ({} starting)", it.starting));
    }
    if let Some(era) = &it.era {
        text.push_str(&format!("  {era} MCP"));
    }
    let sessions = counted(it.sessions, "session", "sessions");
    let calls = counted(it.calls, "call", "calls");
    text.push_str(&format!("  {sessions}  {calls}  {} started", it.starts));
    if it.ends > 0 {
        text.push_str(&format!("  {} ended by themselves", it.ends));
    }
    if let Some(last) = &it.last_end {
        text.push_str(&format!("  last: {last}"));
    }
    if it.stray_lines > 0 {
        text.push_str(&format!("  {} lines outside of MCP", it.stray_lines));
    }
    Plain(text).to_string()
}

fn counted(count: usize, one: &str, many: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {many}"),
    }
}

/// Status of one running agent.
///
/// With several targets, the fields about a tunnel describe the first target's tunnel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The best state of the agent's links.
    pub state: State,
    /// Name of the tunnel, once it was registered.
    pub tunnel: Option<String>,
    /// The URL to give to callers.
    pub url: Option<String>,
    /// Every URL of the tunnel.
    pub urls: Vec<String>,
    /// The generation that the relay granted last.
    pub generation: Option<u64>,
    /// Shortest of the links' last measured round trips, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Number of open sessions, including those on links that the agent is leaving.
    pub sessions: usize,
    /// Address of the relay.
    pub relay: String,
    /// The target.
    pub target: String,
    /// The kind of application; may be empty.
    pub dcc: String,
    /// Id of the agent's process.
    pub pid: u32,
    /// Seconds since the agent started.
    pub uptime_s: u64,
    /// Version of the agent.
    pub version: String,
    /// The agent's links.
    pub links: Vec<LinkStatus>,
    /// The agent's targets and their tunnels; empty from an agent of an older version.
    #[serde(default)]
    pub tunnels: Vec<TunnelStatus>,
}

impl fmt::Display for AgentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let several = self.tunnels.len() > 1;
        if several {
            let up = |tunnel: &&TunnelStatus| tunnel.state == State::Registered;
            let up = self.tunnels.iter().filter(up).count();
            write!(f, "{up} of {} tunnels  {}", self.tunnels.len(), self.state)?;
        } else {
            let tunnel = self.tunnel.as_deref().unwrap_or("(no tunnel yet)");
            let way = way(self.url.as_deref(), &self.target);
            write!(f, "{}  {}{way}", Plain(tunnel), self.state)?;
        }
        if let Some(rtt_ms) = self.rtt_ms {
            write!(f, "  round trip {rtt_ms:.2} ms")?;
        }
        f.write_str(&measured(&self.links))?;
        let plural = if self.sessions == 1 { "" } else { "s" };
        write!(f, "  {} session{plural}", self.sessions)?;
        if self.links.len() > 1 {
            let up = |link: &&LinkStatus| link.state == State::Registered;
            let up = self.links.iter().filter(up).count();
            write!(f, "  {up} of {} links up", self.links.len())?;
        }
        write!(f, "\n    {}", Plain(&self.relay))?;
        f.write_str(&carried(&self.relay, &self.links))?;
        f.write_str(binding(&self.links))?;
        if !several {
            let health = self.tunnels.first().and_then(|it| it.health.as_ref());
            write!(f, " -> {}{}", Plain(&self.target), aside(health))?;
        }
        write!(f, "  pid {}  up {}", self.pid, Span(self.uptime_s))?;
        if several {
            for tunnel in &self.tunnels {
                write!(f, "\n    {tunnel}")?;
            }
        } else if let Some(stdio) = self.tunnels.first().and_then(|it| it.stdio.as_ref()) {
            write!(f, "\n    {}", processes(stdio))?;
        }
        Ok(())
    }
}
