//! Current state of an agent: its tasks write it, `tieline status` reads it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use tieline_wire::{Granted, TunnelId};
use tokio::task::JoinSet;

use super::{AgentStatus, LinkStatus, RefusalStatus, State, TunnelStatus};
use crate::config::Config;
use crate::identity::Identity;
use crate::link::Link;
use crate::targets::WatchedTarget;
use crate::transport::{RelayUrl, Transport};

/// Most bytes of the programs' lines in a status: those of one program, or a part of those of each of several.
const LOG_BYTES_MAX: usize = 64 * 1024;

/// Current state of an agent.
#[derive(Debug)]
pub(crate) struct Board {
    relay: RelayUrl,
    targets: Vec<Published>,
    started_at: Instant,
    now: Mutex<Now>,
}

/// A target of the settings.
#[derive(Debug)]
struct Published {
    target: WatchedTarget,
    dcc: String,
    /// The tunnel that the agent asks for.
    tunnel: TunnelId,
}

#[derive(Debug)]
struct Now {
    tunnels: Vec<Tunnel>,
    slots: Vec<Slot>,
    /// Links that the agent is leaving.
    draining: Vec<Weak<Link>>,
    stopping: bool,
}

/// The relay's last answer about a target.
#[derive(Clone, Debug, Default)]
struct Tunnel {
    granted: Option<Granted>,
    refusal: Option<RefusalStatus>,
}

#[derive(Clone, Debug)]
struct Slot {
    state: State,
    link: Weak<Link>,
    /// For each target, whether its tunnel is up on this link.
    up: Vec<bool>,
}

impl Board {
    pub(crate) fn new(config: &Config, identity: &Identity, targets: &[WatchedTarget]) -> Self {
        let published = config.targets.iter().zip(targets);
        let published = published.map(|(it, target)| Published {
            target: target.clone(),
            dcc: it.dcc.clone(),
            tunnel: it.tunnel(identity),
        });
        let slot = Slot {
            state: State::Connecting,
            link: Weak::new(),
            up: vec![false; targets.len()],
        };
        Self {
            relay: config.relay.clone(),
            targets: published.collect(),
            started_at: Instant::now(),
            now: Mutex::new(Now {
                tunnels: vec![Tunnel::default(); targets.len()],
                slots: vec![slot; usize::from(config.links)],
                draining: Vec::new(),
                stopping: false,
            }),
        }
    }

    pub(crate) fn connecting(&self, link: u16) {
        let mut now = self.now();
        now.draining.retain(|link| link.strong_count() > 0);
        let slot = &mut now.slots[usize::from(link)];
        slot.state = State::Connecting;
        slot.up.fill(false);
        let before = std::mem::take(&mut slot.link);
        now.draining.push(before);
    }

    /// Records a slot's link; the one before, if it still runs, is one that the agent leaves.
    pub(crate) fn linked(&self, link: u16, handle: &Arc<Link>) {
        let mut now = self.now();
        let slot = &mut now.slots[usize::from(link)];
        let before = std::mem::replace(&mut slot.link, Arc::downgrade(handle));
        now.draining.retain(|link| link.strong_count() > 0);
        now.draining.push(before);
    }

    pub(crate) fn registered(&self, link: u16, target: usize, granted: &Granted) {
        let mut now = self.now();
        let slot = &mut now.slots[usize::from(link)];
        slot.state = State::Registered;
        slot.up[target] = true;
        now.tunnels[target] = Tunnel {
            granted: Some(granted.clone()),
            refusal: None,
        };
    }

    /// Records that the relay refuses a target's tunnel; true unless the last refusal was the same.
    pub(crate) fn refused(&self, link: u16, target: usize, refusal: RefusalStatus) -> bool {
        let mut now = self.now();
        now.slots[usize::from(link)].up[target] = false;
        let before = now.tunnels[target].refusal.replace(refusal);
        before != now.tunnels[target].refusal
    }

    pub(crate) fn backing_off(&self, link: u16) {
        let slot = &mut self.now().slots[usize::from(link)];
        slot.state = State::BackingOff;
        slot.up.fill(false);
    }

    /// Records that the agent is stopping; returns its number of open sessions.
    pub(crate) fn stopping(&self) -> usize {
        let mut now = self.now();
        now.stopping = true;
        let links = now.slots.iter().map(|slot| &slot.link);
        let links = links.chain(&now.draining).filter_map(Weak::upgrade);
        links.map(|link| link.session_count()).sum()
    }

    /// Name of a target's tunnel: the granted name, or the name that is asked for.
    pub(crate) fn tunnel(&self, target: usize) -> String {
        let now = self.now();
        let granted = now.tunnels[target].granted.as_ref();
        let tunnel = granted.map_or(&self.targets[target].tunnel, |it| &it.tunnel);
        tunnel.to_string()
    }

    /// Probes whether the targets take connections, so that the next status shows their health.
    pub(crate) async fn probe(&self) {
        let mut probes = JoinSet::new();
        for it in &self.targets {
            let target = it.target.clone();
            probes.spawn(async move { target.probe().await });
        }
        while probes.join_next().await.is_some() {}
    }

    /// The current status.
    pub(crate) fn status(&self) -> AgentStatus {
        let now = self.now();
        let slots = (0..).zip(&now.slots);
        let transport = self.relay.transport();
        let links = slots.map(|(index, slot)| of_slot(index, slot, transport));
        let links: Vec<_> = links.collect();
        let draining = now.draining.iter().filter_map(Weak::upgrade);
        let sessions_left: usize = draining.map(|link| link.session_count()).sum();
        let best = best(&links);
        let programs = self.targets.iter().map(|it| it.target.stdio());
        let log_bytes_max = LOG_BYTES_MAX / programs.flatten().count().max(1);
        let tunnels: Vec<_> = (0..self.targets.len())
            .map(|target| TunnelStatus {
                logs: latest(self.targets[target].target.logs(), log_bytes_max),
                ..self.of_target(&now, target, best)
            })
            .collect();
        // The settings hold at least one target.
        let first = tunnels[0].clone();
        AgentStatus {
            state: if now.stopping { State::Stopping } else { best },
            tunnel: first.generation.map(|_| first.name),
            url: first.url,
            urls: first.urls,
            generation: first.generation,
            rtt_ms: links.iter().filter_map(|link| link.rtt_ms).reduce(f64::min),
            sessions: sessions_left + links.iter().map(|link| link.sessions).sum::<usize>(),
            relay: self.relay.to_string(),
            target: first.target,
            dcc: first.dcc,
            pid: std::process::id(),
            uptime_s: self.started_at.elapsed().as_secs(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            links,
            tunnels,
        }
    }

    fn of_target(&self, now: &Now, target: usize, best: State) -> TunnelStatus {
        let (it, tunnel) = (&self.targets[target], &now.tunnels[target]);
        let granted = tunnel.granted.as_ref();
        let is_up = now.slots.iter().any(|slot| slot.up[target]);
        let state = match best {
            _ if is_up => State::Registered,
            _ if tunnel.refusal.is_some() => State::Refused,
            // The link is up, and this target waits for the relay's answer.
            State::Registered => State::Connecting,
            other => other,
        };
        let name = granted.map_or(&it.tunnel, |granted| &granted.tunnel);
        let urls = granted.map_or_else(Vec::new, |granted| granted.urls.clone());
        TunnelStatus {
            name: name.to_string(),
            state,
            url: urls.first().cloned(),
            urls,
            generation: granted.map(|granted| granted.generation.0),
            target: it.target.to_string(),
            dcc: it.dcc.clone(),
            health: it.target.health(),
            refusal: tunnel.refusal.clone(),
            stdio: it.target.stdio(),
            logs: Vec::new(),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last of `lines`, which have at most `bytes_max` bytes together.
fn latest(mut lines: Vec<String>, bytes_max: usize) -> Vec<String> {
    let mut bytes = 0;
    let fitting = lines.iter().rev().take_while(|line| {
        bytes += line.len();
        bytes <= bytes_max
    });
    let first = lines.len() - fitting.count();
    lines.split_off(first)
}

fn of_slot(link: u16, slot: &Slot, transport: Transport) -> LinkStatus {
    let handle = slot.link.upgrade();
    let rtt = handle.as_ref().and_then(|link| link.rtt());
    let path = handle.as_ref().and_then(|link| link.path());
    // A URL that leaves the transport open names the other one.
    let transport = handle.as_ref().map(|link| match link.is_over_quic() {
        true => Transport::Quic,
        false => transport,
    });
    LinkStatus {
        link,
        state: slot.state,
        transport: transport.map(|it| it.word().to_owned()),
        channel_bound: handle.as_ref().is_some_and(|link| link.is_bound()),
        // Rounded to microseconds, the resolution of the measurement.
        rtt_ms: rtt.map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3),
        loss_percent: path.map(|path| (path.loss_percent() * 1e3).round() / 1e3),
        mtu: path.map(|path| path.mtu),
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
pub(super) mod tests {
    use tieline_wire::Generation;

    use super::*;
    use crate::config::TargetConfig;

    /// Board of an agent with these targets and two links.
    pub(in crate::status) fn board(targets: &[&str]) -> Board {
        let targets = targets.iter().map(|text| TargetConfig::new(text).unwrap());
        let config = Config::of("tcp://127.0.0.1:1", targets.collect()).unwrap();
        let state = tempfile::tempdir().unwrap();
        let identity = Identity::load(state.path(), Some("test")).unwrap();
        let watched = config.targets.iter();
        let watched = watched.map(|it| WatchedTarget::new(it.target.clone()));
        let watched: Vec<_> = watched.collect();
        Board::new(&config.with_links(2), &identity, &watched)
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
        let board = board(&["127.0.0.1:2"]);
        assert_eq!(board.status().state, State::Connecting);
        assert_eq!(board.status().tunnel, None);
        board.backing_off(0);
        board.registered(1, 0, &granted());
        assert_eq!(board.status().state, State::Registered);
        board.backing_off(1);
        let status = board.status();
        assert_eq!(status.state, State::BackingOff);
        assert_eq!(status.tunnels[0].state, State::BackingOff);
        assert_eq!(status.url.as_deref(), Some("http://relay/w/maya-1"));
        board.stopping();
        assert_eq!(board.status().state, State::Stopping);
    }

    #[test]
    fn a_status_survives_json_and_reads_well() {
        let board = board(&["http://127.0.0.1:2"]);
        board.registered(0, 0, &granted());
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
        // There is no link.
        assert!(!text.contains("transport"), "{text}");
        // A status from an older agent.
        let fields = r#""channel_bound":false,"#;
        let before = text.replace(fields, "");
        assert!(before.len() < text.len(), "{text}");
        let before: AgentStatus = serde_json::from_str(&before).unwrap();
        assert_eq!(before, status);
        let before = text.split(r#","tunnels""#).next().unwrap();
        let before: AgentStatus = serde_json::from_str(&format!("{before}}}")).unwrap();
        assert!(
            before
                .to_string()
                .contains("tcp://127.0.0.1:1 -> http://127.0.0.1:2  pid")
        );
    }

    #[test]
    fn a_link_over_tls_is_told_to_be_bound_or_not() {
        let board = board(&["http://127.0.0.1:2"]);
        board.registered(0, 0, &granted());
        let mut status = board.status();
        for transport in ["tcp", "ws"] {
            status.links[0].transport = Some(transport.to_owned());
            assert!(!status.to_string().contains("bound"), "{status}");
        }
        for transport in ["tls", "wss", "quic"] {
            status.links[0].transport = Some(transport.to_owned());
            for (channel_bound, word) in [(false, "not bound"), (true, "bound")] {
                status.links[0].channel_bound = channel_bound;
                let text = status.to_string();
                let words = format!("1 over {transport} ({word}) -> ");
                assert!(text.contains(&words), "{text}");
            }
        }
    }

    #[test]
    fn what_links_are_over_is_shown_where_the_url_does_not_tell_it() {
        let board = board(&["http://127.0.0.1:2"]);
        let mut status = board.status();
        status.relay = "https://relay:443".to_owned();
        assert!(status.to_string().contains("443 -> "), "{status}");
        for link in &mut status.links {
            link.state = State::Registered;
            link.transport = Some("wss".to_owned());
        }
        assert!(status.to_string().contains("443 over wss ("), "{status}");
        status.links[0].transport = Some("quic".to_owned());
        let words = "443 over quic and wss (";
        assert!(status.to_string().contains(words), "{status}");
        status.links[1].state = State::BackingOff;
        assert!(status.to_string().contains("443 over quic ("), "{status}");
        status.relay = "quic://relay:443".to_owned();
        assert!(status.to_string().contains("443 ("), "{status}");
    }

    #[test]
    fn what_a_link_over_quic_has_measured_is_shown() {
        let board = board(&["http://127.0.0.1:2"]);
        board.registered(0, 0, &granted());
        let mut status = board.status();
        assert!(!status.to_string().contains("MTU"), "{status}");
        assert!(!serde_json::to_string(&status).unwrap().contains("mtu"));
        status.rtt_ms = Some(12.0);
        for (link, loss, mtu) in [(0, 0.3, 1452), (1, 7.0, 1200)] {
            let link = &mut status.links[link];
            (link.loss_percent, link.mtu) = (Some(loss), Some(mtu));
        }
        // The second link is not up.
        let line = status.to_string();
        let words = "round trip 12.00 ms  0.3 % lost  MTU 1452  0 sessions";
        assert!(line.contains(words), "{line}");
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<AgentStatus>(&text).unwrap(), status);
    }

    #[test]
    fn a_raw_target_has_its_url_in_json_and_not_in_print() {
        let board = board(&["127.0.0.1:2"]);
        board.registered(0, 0, &granted());
        let status = board.status();
        assert_eq!(status.url.as_deref(), Some("http://relay/w/maya-1"));
        let line = status.to_string();
        assert!(line.starts_with("maya-1  registered  raw TCP  "), "{line}");
        let line = status.tunnels[0].to_string();
        assert_eq!(line, "maya-1  registered  raw TCP  -> 127.0.0.1:2");
    }

    #[test]
    fn a_program_shows_its_processes_and_has_a_url() {
        let board = board(&["stdio:server --key", "127.0.0.1:3"]);
        board.registered(0, 0, &granted());
        let status = board.status();
        let program = status.tunnels[0].stdio.as_ref().unwrap();
        assert_eq!((program.running, program.starts), (0, 0));
        assert_eq!(status.tunnels[1].stdio, None);
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(text.matches(r#""stdio":{"#).count(), 1, "{text}");
        assert!(!text.contains(r#""logs""#), "{text}");
        assert_eq!(serde_json::from_str::<AgentStatus>(&text).unwrap(), status);
        let text = status.to_string();
        let words = "registered  http://relay/w/maya-1  -> stdio:server --key\n        no process";
        assert!(text.contains(words), "{text}");
        let alone = board_of_one().status().to_string();
        assert!(alone.contains("-> stdio:server  pid"), "{alone}");
        assert!(alone.contains("\n    no process"), "{alone}");
    }

    fn board_of_one() -> Board {
        board(&["stdio:server"])
    }

    #[test]
    fn the_last_lines_of_a_program_are_kept() {
        let lines = || ["a", "bb", "ccc"].map(str::to_owned).to_vec();
        assert_eq!(latest(lines(), 5), ["bb", "ccc"]);
        assert_eq!(latest(lines(), 6), lines());
        assert!(latest(lines(), 2).is_empty());
        assert!(latest(Vec::new(), 2).is_empty());
    }

    #[test]
    fn each_target_has_its_own_state_and_a_refusal_is_news_once() {
        let board = board(&["http://127.0.0.1:2", "127.0.0.1:3"]);
        let refusal = RefusalStatus {
            reason: "name_taken".to_owned(),
            message: "another agent has it".to_owned(),
            is_final: true,
        };
        board.registered(0, 0, &granted());
        assert_eq!(board.status().tunnels[1].state, State::Connecting);
        assert!(board.refused(0, 1, refusal.clone()));
        assert!(!board.refused(1, 1, refusal.clone()));
        let status = board.status();
        assert_eq!(status.state, State::Registered);
        assert_eq!(status.tunnels[0].state, State::Registered);
        assert_eq!(status.tunnels[1].state, State::Refused);
        assert_eq!(status.tunnels[1].refusal.as_ref(), Some(&refusal));
        let text = status.to_string();
        assert!(text.starts_with("1 of 2 tunnels  registered"), "{text}");
        assert!(
            text.contains("\n    maya-1  registered  http://relay/w/maya-1  -> http://127.0.0.1:2")
        );
        assert!(text.contains("  refused  -> 127.0.0.1:3\n        another agent has it"));
        board.registered(1, 1, &granted());
        assert_eq!(board.status().tunnels[1].state, State::Registered);
        assert_eq!(board.status().tunnels[1].refusal, None);
        assert!(board.refused(1, 1, refusal.clone()));
    }

    #[tokio::test]
    async fn a_dead_target_is_told_apart_from_a_dead_relay() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let up = listener.local_addr().unwrap().to_string();
        let board = board(&[&up, "127.0.0.1:1"]);
        assert_eq!(board.status().tunnels[0].health, None);
        board.backing_off(0);
        board.backing_off(1);
        board.probe().await;
        let text = board.status().to_string();
        assert!(text.starts_with("0 of 2 tunnels  backing off"), "{text}");
        assert!(
            text.contains(&format!("{up} (target up for 0 s)")),
            "{text}"
        );
        assert!(
            text.contains("127.0.0.1:1 (target refuses connections for 0 s)"),
            "{text}"
        );
    }
}
