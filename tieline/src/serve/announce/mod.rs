//! Once a tunnel of `tieline serve` is up, finds out what its operator needs to tell callers: whether the target
//! answers, whether the relay asks callers for a token, and what to type next.
//!
//! Runs beside the agent and delays nothing: in one run, each target gets one look and the relay one question,
//! which never reaches a target.

mod example;
mod look;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{StatusCode, Uri};
use serde_json::Value;
use tokio::sync::Semaphore;

use self::example::{Begun, Seen};
use self::look::Sight;
use crate::outbound::tunnels::RelayHttp;
use tieline_agent::Proxies;
use tieline_agent::config::{Config, TargetConfig};
use tieline_agent::event::{AgentEvent, CallerToken};

/// Limit on simultaneous looks, for an agent with many targets.
const LOOKS_MAX: usize = 8;

/// Event hook that passes every event to `hook`, and adds what it found out after a registration.
pub(crate) fn announcing(
    config: &Config,
    hook: impl Fn(&AgentEvent) + Send + Sync + 'static,
) -> impl Fn(&AgentEvent) + Send + Sync + 'static {
    let shared = Arc::new(Shared {
        targets: config.targets.clone(),
        ca: config.ca.clone(),
        proxies: config.proxies.clone(),
        turns: Semaphore::new(LOOKS_MAX),
        hook: Box::new(hook),
        begun: Mutex::new(Begun::new(config)),
    });
    move |event| {
        (shared.hook)(event);
        match event {
            AgentEvent::Registered {
                tunnel,
                urls,
                target,
                ..
            } => shared.registered(tunnel, urls, target),
            AgentEvent::TunnelRefused { target, .. } => shared.refused(target),
            _ => {}
        }
    }
}

struct Shared {
    targets: Vec<TargetConfig>,
    /// File with certificates to trust, besides the system's.
    ca: Option<PathBuf>,
    proxies: Proxies,
    turns: Semaphore,
    hook: Box<dyn Fn(&AgentEvent) + Send + Sync>,
    begun: Mutex<Begun>,
}

impl Shared {
    fn begun(&self) -> MutexGuard<'_, Begun> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_of(&self, target: &str) -> Option<usize> {
        let mut targets = self.targets.iter();
        targets.position(|it| it.target.to_string() == target)
    }

    fn registered(self: &Arc<Self>, tunnel: &str, urls: &[String], target: &str) {
        let found = self.index_of(target);
        let Some(index) = found.filter(|_| self.begun().is_new(tunnel)) else {
            return;
        };
        let asks = self.targets[index].target.is_http() && !urls.is_empty();
        let (shared, tunnel, urls) = (Arc::clone(self), tunnel.to_owned(), urls.to_vec());
        tokio::spawn(async move {
            let Some(sight) = shared.look(index, &tunnel).await else {
                return;
            };
            if !asks {
                return;
            }
            let seen = Seen {
                index,
                tunnel,
                urls,
                is_older: sight.is_older(),
            };
            let example = shared.begun().seen(seen, sight.is_mcp());
            if let Some(example) = example {
                shared.tell_callers(example).await;
            }
        });
    }

    /// Excludes a target without a tunnel from the example for callers.
    fn refused(self: &Arc<Self>, target: &str) {
        let Some(index) = self.index_of(target) else {
            return;
        };
        let example = self.begun().refused(index);
        if let Some(example) = example {
            let shared = Arc::clone(self);
            tokio::spawn(async move { shared.tell_callers(example).await });
        }
    }

    /// Looks at a target and reports the result.
    async fn look(&self, index: usize, tunnel: &str) -> Option<Sight> {
        let _turn = self.turns.acquire().await.ok()?;
        let published = &self.targets[index];
        let target = &published.target;
        let sight = match published.program() {
            Some(found) => look::of_program(published, found),
            None => look::look(target).await,
        };
        let told = sight.clone();
        (self.hook)(&AgentEvent::Target {
            tunnel: tunnel.to_owned(),
            target: target.to_string(),
            state: sight.state,
            is_good: sight.is_good(),
            message: sight.message,
            server: sight.server,
            version: sight.version,
        });
        Some(told)
    }

    async fn tell_callers(&self, example: Seen) {
        let Seen {
            index,
            tunnel,
            urls,
            is_older,
        } = example;
        let published = &self.targets[index];
        let outbound = (self.ca.as_deref(), &self.proxies);
        let token = asks_token(&tunnel, &urls, published, outbound).await;
        let relay = by_path(&tunnel, &urls).map(|(origin, _)| origin);
        let relay = relay.unwrap_or_default();
        let url = urls.first().cloned().unwrap_or_default();
        let base = self.targets[index].target.base_path();
        let mut init_flags = init_flags(token, base, is_older);
        if token != CallerToken::Needed {
            init_flags.insert_str(0, &self.ca_flag(&url));
        }
        (self.hook)(&AgentEvent::Callers {
            connect_flags: self.ca_flag(&relay) + &proxy_flag(&self.proxies),
            tunnel,
            url,
            relay,
            token,
            init_flags,
        });
    }

    /// The flag with which a caller trusts the certificate at `url`; empty if `url` has no TLS or this agent has no
    /// `--ca`.
    fn ca_flag(&self, url: &str) -> String {
        match &self.ca {
            Some(path) if url.starts_with("https:") => format!(" --ca {}", path.display()),
            _ => String::new(),
        }
    }
}

/// The flag for this agent's proxy, without the proxy's user name and password; empty for the system's proxy.
fn proxy_flag(proxies: &Proxies) -> String {
    match proxies {
        Proxies::System => String::new(),
        Proxies::Never => " --proxy none".to_owned(),
        Proxies::Always(proxy) => format!(" --proxy {proxy}"),
    }
}

/// Flags that `tieline init` needs besides the URL or the tunnel's name. From the name alone, `init` assumes the
/// path `/mcp` where it cannot ask the relay.
fn init_flags(token: CallerToken, base: &str, is_older: bool) -> String {
    let mut flags = String::new();
    if token == CallerToken::Needed && base != "/mcp" {
        let path = if base.is_empty() { "/" } else { base };
        flags.push_str(&format!(" --path {path}"));
    }
    // A path that ends in `/sse` implies the transport.
    if is_older && !base.trim_end_matches('/').ends_with("/sse") {
        flags.push_str(" --transport sse");
    }
    flags
}

/// The relay's origin and the rest of the path, from the first URL that has the tunnel's name in its path.
fn by_path(tunnel: &str, urls: &[String]) -> Option<(String, String)> {
    urls.iter().find_map(|url| {
        let uri: Uri = url.parse().ok()?;
        let rest = uri.path().strip_prefix("/w/")?.strip_prefix(tunnel)?;
        let origin = format!("{}://{}", uri.scheme_str()?, uri.authority()?);
        (rest.is_empty() || rest.starts_with('/')).then(|| (origin, rest.to_owned()))
    })
}

/// Asks the relay, like a caller without a token, for a path that reaches no target: a path beside the tunnel's own,
/// or a path of a tunnel that does not exist if every path leads to the target.
async fn asks_token(
    tunnel: &str,
    urls: &[String],
    published: &TargetConfig,
    (ca, proxies): (Option<&Path>, &Proxies),
) -> CallerToken {
    let Some((origin, base)) = by_path(tunnel, urls) else {
        return CallerToken::Unknown;
    };
    let mark = format!("tieline-look-{:08x}", fastrand::u32(..));
    let path = match base.is_empty() || published.expose_all {
        true => format!("/w/{mark}/"),
        false => format!("/w/{tunnel}/{mark}"),
    };
    let Ok(relay) = RelayHttp::at_own_url(&origin, ca, proxies) else {
        return CallerToken::Unknown;
    };
    let Ok((head, body)) = relay.get(&path, true).await else {
        return CallerToken::Unknown;
    };
    // Another server in front of the relay may answer with the same status.
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let is_relays = body["error"].is_string() && body["message"].is_string();
    match head.status {
        StatusCode::UNAUTHORIZED if is_relays => CallerToken::Needed,
        StatusCode::NOT_FOUND if is_relays => CallerToken::NotNeeded,
        _ => CallerToken::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    /// A relay's HTTP port with one fixed answer; the task returns the request's first line.
    async fn relay(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let len = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            let request = String::from_utf8_lossy(&request[..len]).into_owned();
            request.lines().next().unwrap_or_default().to_owned()
        });
        (origin, asked)
    }

    const DENIED: &str =
        "HTTP/1.1 401 U\r\nconnection: close\r\n\r\n{\"error\":\"unauthorized\",\"message\":\"x\"}";
    const UNKNOWN: &str =
        "HTTP/1.1 404 N\r\nconnection: close\r\n\r\n{\"error\":\"unknown\",\"message\":\"x\"}";
    const OTHER: &str = "HTTP/1.1 404 N\r\nconnection: close\r\n\r\n<html>";

    #[tokio::test]
    async fn a_relay_is_asked_where_no_target_hears_of_it() {
        for (base, all, answer, token, path) in [
            (
                "/mcp",
                false,
                DENIED,
                CallerToken::Needed,
                "GET /w/maya/tieline-look-",
            ),
            (
                "/mcp",
                false,
                UNKNOWN,
                CallerToken::NotNeeded,
                "GET /w/maya/tieline-look-",
            ),
            (
                "",
                false,
                DENIED,
                CallerToken::Needed,
                "GET /w/tieline-look-",
            ),
            (
                "/mcp",
                true,
                UNKNOWN,
                CallerToken::NotNeeded,
                "GET /w/tieline-look-",
            ),
            ("/mcp", false, OTHER, CallerToken::Unknown, "GET /w/maya/"),
        ] {
            let (origin, asked) = relay(answer).await;
            let mut published = TargetConfig::new(&format!("http://127.0.0.1:1{base}")).unwrap();
            published.expose_all = all;
            let urls = [
                format!("http://maya.r.example{base}"),
                format!("{origin}/w/maya{base}"),
            ];
            let ca = Some(Path::new("/unused/ca.pem"));
            assert_eq!(
                asks_token("maya", &urls, &published, (ca, &Proxies::Never)).await,
                token
            );
            let line = asked.await.unwrap();
            assert!(line.starts_with(path), "{line}");
        }
        let published = TargetConfig::new("http://127.0.0.1:1").unwrap();
        let urls = ["http://maya.r.example".to_owned()];
        assert_eq!(
            asks_token("maya", &urls, &published, (None, &Proxies::Never)).await,
            CallerToken::Unknown
        );
    }

    #[tokio::test]
    async fn a_program_is_looked_for_and_serves_as_the_example() {
        let target = "stdio:/nonexistent/server";
        let config = Config::new("tcp://127.0.0.1:9", target).unwrap();
        let (send, mut told) = mpsc::channel(8);
        let hook = announcing(&config, move |event| send.try_send(event.clone()).unwrap());
        hook(&AgentEvent::Registered {
            link: 0,
            tunnel: "maya".to_owned(),
            url: "http://r.example/w/maya/mcp".to_owned(),
            urls: vec!["http://maya.r.example/mcp".to_owned()],
            generation: 1,
            target: target.to_owned(),
            transport: "tcp",
        });
        assert!(matches!(
            told.recv().await,
            Some(AgentEvent::Registered { .. })
        ));
        let Some(AgentEvent::Target { state, is_good, .. }) = told.recv().await else {
            panic!("no look at the target")
        };
        assert_eq!((state, is_good), ("no_program", false));
        let Some(AgentEvent::Callers { tunnel, .. }) = told.recv().await else {
            panic!("callers are not told")
        };
        assert_eq!(tunnel, "maya");
    }

    #[test]
    fn a_proxy_is_named_without_its_password() {
        for (text, flag) in [
            ("none", " --proxy none"),
            ("http://ada:secret@proxy:3128", " --proxy http://proxy:3128"),
        ] {
            assert_eq!(proxy_flag(&Proxies::parse(text).unwrap()), flag);
        }
        assert_eq!(proxy_flag(&Proxies::System), "");
    }

    #[test]
    fn init_is_told_what_the_tunnels_name_does_not_say() {
        for (token, base, is_older, flags) in [
            (CallerToken::Needed, "/mcp", false, ""),
            (CallerToken::Needed, "/sse", true, " --path /sse"),
            (CallerToken::Needed, "", false, " --path /"),
            (CallerToken::Needed, "/mcp/", false, " --path /mcp/"),
            (
                CallerToken::Needed,
                "/events",
                true,
                " --path /events --transport sse",
            ),
            (CallerToken::NotNeeded, "/sse", true, ""),
            (CallerToken::NotNeeded, "/events", true, " --transport sse"),
        ] {
            assert_eq!(init_flags(token, base, is_older), flags, "{base}");
        }
    }

    #[tokio::test]
    async fn each_target_is_looked_at_once_in_a_run() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let config = Config::new("tcp://127.0.0.1:9", &address).unwrap();
        let (send, mut told) = mpsc::channel(8);
        let hook = announcing(&config, move |event| send.try_send(event.clone()).unwrap());
        let registered = AgentEvent::Registered {
            link: 0,
            tunnel: "maya".to_owned(),
            url: String::new(),
            urls: Vec::new(),
            generation: 1,
            target: address.clone(),
            transport: "tcp",
        };
        hook(&registered);
        hook(&registered);
        assert_eq!(told.recv().await, Some(registered.clone()));
        assert_eq!(told.recv().await, Some(registered));
        let Some(AgentEvent::Target { state, target, .. }) = told.recv().await else {
            panic!("no look at the target")
        };
        assert_eq!((state, target), ("open", address));
        drop(hook);
        assert_eq!(told.recv().await, None);
    }
}
