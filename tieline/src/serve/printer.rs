//! Prints the agent's events for `tieline serve`: lines for people, or JSON for programs.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::paint::{WARN, paint, print_json, say};
use tieline_agent::config::Config;
use tieline_agent::event::{AgentEvent, is_raw};
use tieline_agent::{RelayUrl, Transport};

/// Time during which the same problem is not printed again while the agent keeps trying.
const SAME_PROBLEM_PAUSE: Duration = Duration::from_secs(30);

/// Event hook that prints an agent's events to standard output.
pub(crate) fn printer(json: bool, config: &Config) -> impl Fn(&AgentEvent) + Send + Sync + 'static {
    let links = Mutex::new(Links {
        several: config.targets.len() > 1,
        raw_address: raw_address(&config.relay),
        websocket: websocket(&config.relay),
        ..Links::default()
    });
    move |event| {
        if json {
            print_json(event);
            return;
        }
        let mut links = links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = links.line(event) {
            say(&line);
        }
    }
}

/// Where raw callers reach the relay at `url`. An address with TLS takes them too, over QUIC as over TCP; other ports are
/// a guess.
fn raw_address(url: &RelayUrl) -> String {
    let address = url.address();
    match url.transport() {
        Transport::Tls => format!("{address} over TLS (ALPN `tieline`)"),
        Transport::Wss => {
            format!("{address} over TLS (ALPN `tieline`), if TLS ends at the relay itself")
        }
        Transport::Quic => format!("{address} over QUIC (ALPN `tieline`)"),
        Transport::Tcp | Transport::Ws => {
            let host = address.host();
            format!("{host}, its raw port (9002 unless its operator says otherwise)")
        }
    }
}

/// The WebSocket URLs at which raw callers reach their tunnels, for a relay that agents reach over HTTP or QUIC.
fn websocket(url: &RelayUrl) -> Option<WebSocketUrls> {
    let (scheme, proviso) = match url.transport() {
        Transport::Wss => ("wss", ""),
        Transport::Ws => ("ws", ""),
        Transport::Quic => ("wss", ", if that is the relay's HTTPS port too"),
        Transport::Tls | Transport::Tcp => return None,
    };
    Some(WebSocketUrls {
        base: format!("{scheme}://{}/tunnel/", url.address()),
        proviso,
    })
}

/// WebSocket URLs for raw callers.
struct WebSocketUrls {
    /// What the tunnel's name is appended to.
    base: String,
    /// On what the URLs depend, as the end of a sentence; empty for URLs that are certain.
    proviso: &'static str,
}

/// Which links of an agent are up. Each link carries all tunnels: a tunnel's URL works while any link is up.
#[derive(Default)]
struct Links {
    /// True for an agent with several targets: a tunnel's line then names its target.
    several: bool,
    /// Where raw callers reach the relay.
    raw_address: String,
    /// Raw callers' WebSocket URLs.
    websocket: Option<WebSocketUrls>,
    up: BTreeSet<u16>,
    /// Links that were lost while other links stayed up.
    missing: BTreeSet<u16>,
    /// Tunnels printed since the agent was last without any link.
    told: HashSet<String>,
    /// Tunnels whose coming end was printed.
    ending: HashSet<String>,
    /// Last printed reason why the agent was without any link, and the time of printing.
    problem: Option<(String, Instant)>,
}

impl Links {
    /// False for the end of the last link if the same reason was printed a moment ago.
    fn is_news(&mut self, event: &AgentEvent) -> bool {
        let AgentEvent::Disconnected { message, .. } = event else {
            return true;
        };
        let is_told = self
            .problem
            .as_ref()
            .is_some_and(|(told, at)| told == message && at.elapsed() < SAME_PROBLEM_PAUSE);
        if !is_told {
            self.problem = Some((message.clone(), Instant::now()));
        }
        !is_told
    }

    /// Line for a tunnel that came up; for a raw target, the line says how callers reach it.
    fn registered(&self, event: &AgentEvent, target: &str) -> String {
        let mut line = event.to_string();
        if is_raw(target) {
            line.push_str(&format!(
                ": {}; a caller sends the tunnel's name first, see \"Raw TCP\" in docs/OPERATIONS.md",
                self.raw_address
            ));
            if let (Some(urls), AgentEvent::Registered { tunnel, .. }) = (&self.websocket, event) {
                let WebSocketUrls { base, proviso } = urls;
                line.push_str(&format!(
                    "; or a WebSocket to {base}{tunnel}, without the name{proviso}"
                ));
            }
        }
        if self.several {
            line.push_str(&format!("  -> {target}"));
        }
        line
    }

    /// Line for a person; `None` if the event is not printed.
    fn line(&mut self, event: &AgentEvent) -> Option<String> {
        match event {
            AgentEvent::Registered {
                link,
                tunnel,
                target,
                ..
            } => {
                self.up.insert(*link);
                self.problem = None;
                let back = self.missing.remove(link);
                let first = self.told.insert(tunnel.clone());
                self.ending.remove(tunnel);
                match (first, back) {
                    (true, _) => Some(self.registered(event, target)),
                    (false, true) => Some(format!("link {link} is back")),
                    (false, false) => None,
                }
            }
            AgentEvent::Disconnected { link, .. } | AgentEvent::GoingAway { link, .. } => {
                let was_up = self.up.remove(link);
                if self.up.is_empty() {
                    self.missing.clear();
                    self.told.clear();
                    return self.is_news(event).then(|| event.to_string());
                }
                // The first failed attempt of a link is printed; the next ones are not.
                let news = self.missing.insert(*link) || was_up;
                news.then(|| format!("link {link}: {event}; {} still up", self.up.len()))
            }
            AgentEvent::TunnelRefused { tunnel, .. } => {
                self.told.remove(tunnel);
                Some(event.to_string())
            }
            // Printed once per tunnel; a renewal is printed only if the coming end was printed.
            AgentEvent::Ending { tunnel, .. } => {
                let news = self.ending.insert(tunnel.clone());
                news.then(|| event.to_string())
            }
            AgentEvent::Renewed { tunnel, .. } => {
                let was_told = self.ending.remove(tunnel);
                was_told.then(|| event.to_string())
            }
            AgentEvent::StandingBy => {
                *self = Self {
                    several: self.several,
                    raw_address: std::mem::take(&mut self.raw_address),
                    websocket: self.websocket.take(),
                    ..Self::default()
                };
                Some(event.to_string())
            }
            AgentEvent::Target { is_good: false, .. } | AgentEvent::TargetAway { .. } => {
                Some(warning(event, "target"))
            }
            AgentEvent::ChildFailed { .. } | AgentEvent::StrayLine { .. } => {
                Some(warning(event, "program"))
            }
            // Not printed: standard error's last line says why the agent ended.
            AgentEvent::Refused { .. }
            | AgentEvent::Superseded { .. }
            | AgentEvent::Failed { .. }
            | AgentEvent::Connecting { .. } => None,
            event => Some(event.to_string()),
        }
    }
}

/// The event's line with its first `word` in the warning colour.
fn warning(event: &AgentEvent, word: &str) -> String {
    let line = event.to_string();
    line.replacen(word, &paint(WARN, word), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(link: u16, tunnel: &str) -> AgentEvent {
        AgentEvent::Registered {
            link,
            tunnel: tunnel.to_owned(),
            url: format!("http://r/w/{tunnel}"),
            urls: Vec::new(),
            generation: 1,
            target: "http://127.0.0.1:1".to_owned(),
            transport: "tcp",
        }
    }

    #[test]
    fn how_callers_reach_a_raw_target_is_said_in_place_of_a_url() {
        let mut links = Links {
            raw_address: raw_address(&RelayUrl::parse("tcp://relay.studio:9001").unwrap()),
            ..Links::default()
        };
        let AgentEvent::Registered { tunnel, url, .. } = registered(0, "maya") else {
            panic!("registered() returns Registered")
        };
        let event = AgentEvent::Registered {
            link: 0,
            tunnel,
            urls: vec![url.clone()],
            url,
            generation: 1,
            target: "127.0.0.1:7001".to_owned(),
            transport: "tcp",
        };
        let line = links.line(&event).unwrap();
        assert!(
            line.starts_with("registered  maya  raw TCP: relay.studio, its raw port (9002"),
            "{line}"
        );
        assert!(!line.contains("http://"), "{line}");
        assert!(!line.contains("WebSocket"), "{line}");
        links.websocket = websocket(&RelayUrl::parse("https://relay.studio").unwrap());
        let line = links.registered(&event, "127.0.0.1:7001");
        assert!(
            line.ends_with(
                "; or a WebSocket to wss://relay.studio:443/tunnel/maya, without the name"
            ),
            "{line}"
        );
        let over_tls = raw_address(&RelayUrl::parse("tls://relay.studio").unwrap());
        assert_eq!(over_tls, "relay.studio:443 over TLS (ALPN `tieline`)");
        let quic = RelayUrl::parse("quic://relay.studio").unwrap();
        links.raw_address = raw_address(&quic);
        links.websocket = websocket(&quic);
        let line = links.registered(&event, "127.0.0.1:7001");
        assert!(
            line.contains("raw TCP: relay.studio:443 over QUIC (ALPN `tieline`)"),
            "{line}"
        );
        assert!(
            line.contains("wss://relay.studio:443/tunnel/maya, without the name, if"),
            "{line}"
        );
    }

    #[test]
    fn what_happens_to_a_program_is_told_and_a_failure_in_colour() {
        let mut links = Links::default();
        let target = "stdio:server".to_owned();
        let started = AgentEvent::ChildStarted {
            target: target.clone(),
            child: 1,
            pid: Some(77),
        };
        assert_eq!(links.line(&started), Some(started.to_string()));
        let failed = AgentEvent::ChildFailed {
            target,
            message: "ended with exit code 1".to_owned(),
            for_s: 60,
        };
        let line = links.line(&failed).unwrap();
        assert!(line.starts_with(&paint(WARN, "program")), "{line}");
    }

    fn lost(link: u16) -> AgentEvent {
        AgentEvent::Disconnected {
            link,
            reason: "link_lost",
            message: "cut".to_owned(),
            retry_ms: 500,
        }
    }

    #[test]
    fn another_transport_is_one_line() {
        let event = AgentEvent::TransportChanged {
            link: 0,
            transport: "quic",
        };
        let line = Links::default().line(&event);
        assert_eq!(line.as_deref(), Some("link 0 goes over quic now"));
    }

    #[test]
    fn a_link_that_is_lost_is_no_lost_tunnel_while_others_are_up() {
        let mut links = Links::default();
        let mut line = |event| links.line(&event).unwrap_or_default();
        assert!(line(registered(0, "maya-1")).contains("http://r/w/maya-1"));
        assert_eq!(line(registered(1, "maya-1")), "");
        assert!(line(lost(1)).starts_with("link 1: disconnected: cut"));
        assert_eq!(line(lost(1)), "");
        assert_eq!(line(registered(1, "maya-1")), "link 1 is back");
        assert!(line(lost(0)).ends_with("; 1 still up"));
        assert!(line(lost(1)).starts_with("disconnected: cut"));
        assert!(line(registered(1, "maya-1")).contains("http://r/w/maya-1"));
    }

    #[test]
    fn every_tunnel_is_told_once_and_again_when_all_links_were_lost() {
        let mut links = Links {
            several: true,
            ..Links::default()
        };
        let mut line = |event| links.line(&event).unwrap_or_default();
        assert!(line(registered(2, "nuke")).ends_with("/w/nuke  -> http://127.0.0.1:1"));
        line(lost(2));
        for tunnel in ["maya", "comfy"] {
            assert!(line(registered(0, tunnel)).contains(tunnel));
            assert_eq!(line(registered(1, tunnel)), "");
        }
        line(lost(1));
        assert_eq!(line(registered(1, "maya")), "link 1 is back");
        assert_eq!(line(registered(1, "comfy")), "");
        line(lost(1));
        line(lost(0));
        for tunnel in ["maya", "comfy"] {
            assert!(line(registered(0, tunnel)).contains(tunnel));
        }
    }

    #[test]
    fn the_same_problem_is_told_once_and_another_one_at_once() {
        let mut links = Links::default();
        let mut line = |event| links.line(&event).unwrap_or_default();
        assert!(line(lost(0)).starts_with("disconnected: cut"));
        assert_eq!(line(lost(0)), "");
        let other = AgentEvent::Disconnected {
            link: 0,
            reason: "link_lost",
            message: "torn".to_owned(),
            retry_ms: 1,
        };
        assert!(line(other).starts_with("disconnected: torn"));
        assert!(line(registered(0, "maya-1")).contains("maya-1"));
        assert!(line(lost(0)).starts_with("disconnected: cut"));
    }

    #[test]
    fn an_end_that_comes_near_is_told_once_and_a_renewal_only_after_that() {
        let (tunnel, target) = ("maya".to_owned(), "127.0.0.1:1".to_owned());
        let renewed = AgentEvent::Renewed {
            link: 0,
            tunnel: tunnel.clone(),
            target: target.clone(),
            expires_in_s: 3_600,
        };
        let ending = AgentEvent::Ending {
            link: 0,
            tunnel,
            target,
            expires_in_s: 90,
            reason: "token_expired",
            message: "old".to_owned(),
        };
        let mut links = Links::default();
        let mut line = |event: &AgentEvent| links.line(event).unwrap_or_default();
        assert_eq!(line(&renewed), "");
        assert_eq!(
            line(&ending),
            "the permission for maya ends in 1 min 30 s: old"
        );
        assert_eq!(line(&ending), "");
        assert_eq!(line(&renewed), "maya may stay up for another 1 h 0 min");
        assert_eq!(line(&renewed), "");
    }
}
