//! What a running agent shows of itself: to a person in one line, to a program as JSON.

mod socket;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tieline_wire::Granted;

pub(crate) use self::socket::Server;
pub use self::socket::list;
use crate::config::Config;
use crate::link::Link;

/// How far one link, or the whole agent, has got.
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
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::Registered => "registered",
            Self::BackingOff => "backing off",
            Self::Stopping => "stopping",
        })
    }
}

/// One link of an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Which one, from 0.
    pub link: u16,
    /// How far it has got.
    pub state: State,
    /// Last measured round trip to the relay, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Sessions that run over it.
    pub sessions: usize,
}

/// One running agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The best state of its links.
    pub state: State,
    /// The tunnel's name, once it was registered.
    pub tunnel: Option<String>,
    /// The URL to give to callers.
    pub url: Option<String>,
    /// Every URL of the tunnel.
    pub urls: Vec<String>,
    /// The generation that the relay granted last.
    pub generation: Option<u64>,
    /// Shortest of the links' last measured round trips, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Sessions that run now, those on links that are being left included.
    pub sessions: usize,
    /// The relay.
    pub relay: String,
    /// The target.
    pub target: String,
    /// The kind of application, or empty.
    pub dcc: String,
    /// The agent's process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Its version.
    pub version: String,
    /// Its links.
    pub links: Vec<LinkStatus>,
}

impl fmt::Display for AgentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tunnel = self.tunnel.as_deref().unwrap_or("(no tunnel yet)");
        write!(f, "{tunnel}  {}", self.state)?;
        if let Some(url) = &self.url {
            write!(f, "  {url}")?;
        }
        if let Some(rtt_ms) = self.rtt_ms {
            write!(f, "  round trip {rtt_ms:.2} ms")?;
        }
        let plural = if self.sessions == 1 { "" } else { "s" };
        write!(f, "  {} session{plural}", self.sessions)?;
        if self.links.len() > 1 {
            let up = |link: &&LinkStatus| link.state == State::Registered;
            let up = self.links.iter().filter(up).count();
            write!(f, "  {up} of {} links up", self.links.len())?;
        }
        write!(f, "\n    {} -> {}", self.relay, self.target)?;
        write!(f, "  pid {}  up {}", self.pid, Uptime(self.uptime_s))
    }
}

struct Uptime(u64);

impl fmt::Display for Uptime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (minutes, seconds) = (self.0 / 60, self.0 % 60);
        match (minutes / 60, minutes % 60) {
            (0, 0) => write!(f, "{seconds} s"),
            (0, minutes) => write!(f, "{minutes} min {seconds} s"),
            (hours, minutes) => write!(f, "{hours} h {minutes} min"),
        }
    }
}

/// Where the agent's tasks write down how far they are.
#[derive(Debug)]
pub(crate) struct Board {
    relay: String,
    target: String,
    dcc: String,
    started_at: Instant,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    granted: Option<Granted>,
    slots: Vec<(State, Weak<Link>)>,
    /// Links that are being left.
    draining: Vec<Weak<Link>>,
    stopping: bool,
}

impl Board {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            relay: config.relay.to_string(),
            target: config.target.to_string(),
            dcc: config.dcc.clone(),
            started_at: Instant::now(),
            now: Mutex::new(Now {
                granted: None,
                slots: vec![(State::Connecting, Weak::new()); usize::from(config.links)],
                draining: Vec::new(),
                stopping: false,
            }),
        }
    }

    pub(crate) fn connecting(&self, link: u16) {
        let mut now = self.now();
        now.draining.retain(|link| link.strong_count() > 0);
        let slot = &mut now.slots[usize::from(link)];
        slot.0 = State::Connecting;
        let before = std::mem::take(&mut slot.1);
        now.draining.push(before);
    }

    pub(crate) fn linked(&self, link: u16, handle: &Arc<Link>) {
        self.now().slots[usize::from(link)].1 = Arc::downgrade(handle);
    }

    pub(crate) fn registered(&self, link: u16, granted: &Granted) {
        let mut now = self.now();
        now.slots[usize::from(link)].0 = State::Registered;
        now.granted = Some(granted.clone());
    }

    pub(crate) fn backing_off(&self, link: u16) {
        self.now().slots[usize::from(link)].0 = State::BackingOff;
    }

    pub(crate) fn stopping(&self) {
        self.now().stopping = true;
    }

    /// What there is to say now.
    pub(crate) fn status(&self) -> AgentStatus {
        let now = self.now();
        let links: Vec<_> = (0..)
            .zip(&now.slots)
            .map(|(index, slot)| of_slot(index, slot))
            .collect();
        let draining = now.draining.iter().filter_map(Weak::upgrade);
        let sessions_left: usize = draining.map(|link| link.session_count()).sum();
        AgentStatus {
            state: if now.stopping {
                State::Stopping
            } else {
                best(&links)
            },
            tunnel: now
                .granted
                .as_ref()
                .map(|granted| granted.tunnel.to_string()),
            url: now
                .granted
                .as_ref()
                .and_then(|granted| granted.urls.first().cloned()),
            urls: now
                .granted
                .as_ref()
                .map(|granted| granted.urls.clone())
                .unwrap_or_default(),
            generation: now.granted.as_ref().map(|granted| granted.generation.0),
            rtt_ms: links.iter().filter_map(|link| link.rtt_ms).reduce(f64::min),
            sessions: sessions_left + links.iter().map(|link| link.sessions).sum::<usize>(),
            relay: self.relay.clone(),
            target: self.target.clone(),
            dcc: self.dcc.clone(),
            pid: std::process::id(),
            uptime_s: self.started_at.elapsed().as_secs(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            links,
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn of_slot(link: u16, (state, handle): &(State, Weak<Link>)) -> LinkStatus {
    let handle = handle.upgrade();
    let rtt = handle.as_ref().and_then(|link| link.rtt());
    LinkStatus {
        link,
        state: *state,
        // Microseconds are as exact as the clock that measured them.
        rtt_ms: rtt.map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3),
        sessions: handle.map_or(0, |link| link.session_count()),
    }
}

fn best(links: &[LinkStatus]) -> State {
    let any = |state| links.iter().any(|link| link.state == state);
    match (any(State::Registered), any(State::Connecting)) {
        (true, _) => State::Registered,
        (false, true) => State::Connecting,
        (false, false) => State::BackingOff,
    }
}

#[cfg(test)]
mod tests {
    use tieline_wire::{Generation, TunnelId};

    use super::*;

    fn board() -> Board {
        let config = Config::new("tcp://127.0.0.1:1", "127.0.0.1:2")
            .unwrap()
            .with_links(2);
        Board::new(&config)
    }

    fn granted() -> Granted {
        Granted {
            tunnel: TunnelId::parse("maya-1").unwrap(),
            urls: vec!["http://relay/w/maya-1".to_owned()],
            generation: Generation(9),
            heartbeat_ms: 15_000,
            expires_in_s: 0,
        }
    }

    #[test]
    fn the_best_link_decides_the_state_and_the_url_outlives_the_link() {
        let board = board();
        assert_eq!(board.status().state, State::Connecting);
        board.backing_off(0);
        board.registered(1, &granted());
        assert_eq!(board.status().state, State::Registered);
        board.backing_off(1);
        let status = board.status();
        assert_eq!(status.state, State::BackingOff);
        assert_eq!(status.url.as_deref(), Some("http://relay/w/maya-1"));
        board.stopping();
        assert_eq!(board.status().state, State::Stopping);
    }

    #[test]
    fn a_status_survives_json_and_reads_well() {
        let board = board();
        board.registered(0, &granted());
        let status = board.status();
        let text = serde_json::to_string(&status).unwrap();
        assert!(
            text.contains(r#""state":"registered","tunnel":"maya-1""#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<AgentStatus>(&text).unwrap(), status);
        let line = status.to_string();
        assert!(
            line.starts_with("maya-1  registered  http://relay/w/maya-1"),
            "{line}"
        );
        assert!(line.contains("0 sessions  1 of 2 links up\n"), "{line}");
        assert_eq!(Uptime(59).to_string(), "59 s");
        assert_eq!(Uptime(61).to_string(), "1 min 1 s");
        assert_eq!(Uptime(7_260).to_string(), "2 h 1 min");
    }
}
