//! `tieline connect`: an HTTP proxy on this machine that adds the user's token to requests for a
//! relay, so that no MCP client's configuration holds a secret.
//!
//! ```no_run
//! use tieline::connect::Connect;
//!
//! # async fn proxy() -> Result<(), tieline::connect::ConnectError> {
//! let connect = Connect::new("https://relay.studio.example")?
//!     .with_token_file("ada.token")
//!     .with_event_hook(|event| println!("{event}"));
//! connect.run(std::future::pending()).await
//! # }
//! ```
//!
//! Both sides speak HTTP/1.1 through hyper. Bodies pass frame by frame, and a disconnect on either
//! side ends the other side. Request paths go to the relay unchanged: the proxy has no tunnel table.
//! A request for a WebSocket goes the same way; behind the relay's `101` both connections leave hyper, and
//! `upgraded` passes their bytes as they are.

mod args;
mod caller;
mod connection;
mod cors;
mod credential;
mod error;
mod event;
mod forward;
mod headers;
mod listen;
mod look;
mod origin;
mod pool;
mod problem;
mod rewrite;
mod token_demand;
mod trouble;
mod upgraded;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use http::HeaderValue;
use tieline_agent::Proxies;
use tokio::task::LocalSet;

pub use self::args::{ConnectArgs, DEFAULT_LISTEN};
use self::credential::Credential;
pub use self::error::ConnectError;
pub use self::event::ConnectEvent;
use self::event::{Hook, list};
use self::forward::Front;
use self::listen::Listen;
use self::origin::{Hosts, Origins};
use self::pool::Pool;
use self::token_demand::TokenDemand;
use self::trouble::TroubleReporter;
use crate::exit::{DONE, Ended};
use crate::outbound::dial::Dial;
use crate::outbound::tunnels::RelayHttp;
use crate::outbound::{OutboundError, RelayOrigin};
use crate::paint::{GOOD, paint, print_json, say, warn};
use crate::signals::until_signal;

/// Largest number of caller connections served at once.
pub const CONNECTIONS_MAX: usize = 256;

/// How long running requests may continue after the proxy was asked to stop.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Buffer limit per connection and direction, in bytes; also the limit on a request or answer head.
const HTTP_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Settings of the proxy.
pub struct Connect {
    relay: RelayOrigin,
    listen: Listen,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    proxies: Proxies,
    origins: Origins,
    hosts: Hosts,
    /// True to check at the start whether the relay answers and accepts the token, and to report the result as an
    /// event.
    look: bool,
    hook: Hook,
}

impl Connect {
    /// A proxy for the relay at the URL `relay`, with default settings otherwise.
    ///
    /// # Errors
    /// [`ConnectError::Relay`] if `relay` is not the URL of a relay's HTTP port.
    pub fn new(relay: &str) -> Result<Self, ConnectError> {
        let relay = RelayOrigin::parse(relay)?;
        Ok(Self {
            relay,
            listen: Listen::Localhost(51822),
            token_file: None,
            ca: None,
            proxies: Proxies::System,
            origins: Origins::default(),
            hosts: Hosts::default(),
            look: false,
            hook: Hook::new(|_| {}),
        })
    }

    /// Listens on `address`. An address other than loopback needs `share_token`, since programs on the
    /// network can then use the token. `localhost:PORT` means 127.0.0.1 and ::1, or the one of
    /// the two that this machine has.
    ///
    /// # Errors
    /// [`ConnectError::Listen`] if `address` cannot be parsed; [`ConnectError::Exposed`] if `address` is
    /// not loopback and `share_token` is false.
    pub fn with_listen(mut self, address: &str, share_token: bool) -> Result<Self, ConnectError> {
        let wrong = || ConnectError::Listen {
            text: address.to_owned(),
        };
        // Without a sign, which `u16` allows.
        if let Some(port) = address.strip_prefix("localhost:")
            && !port.starts_with('+')
        {
            self.listen = Listen::Localhost(port.parse().map_err(|_| wrong())?);
            return Ok(self);
        }
        let listen: SocketAddr = address.parse().map_err(|_| wrong())?;
        if !listen.ip().to_canonical().is_loopback() && !share_token {
            return Err(ConnectError::Exposed { address: listen });
        }
        self.listen = Listen::At(listen);
        Ok(self)
    }

    /// Sends the token in this file with every request, in place of the caller's own credentials, while
    /// the relay asks callers for a token.
    #[must_use]
    pub fn with_token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token_file = Some(path.into());
        self
    }

    /// Trusts the certificates in this file for an `https` relay, besides the system's.
    #[must_use]
    pub fn with_ca(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(path.into());
        self
    }

    /// Sets the proxy that leads to the relay; by default that of the environment, else the system's.
    #[must_use]
    pub fn with_proxies(mut self, proxies: Proxies) -> Self {
        self.proxies = proxies;
        self
    }

    /// Allows web pages of `origin` to use the proxy, besides pages served from this machine.
    ///
    /// # Errors
    /// [`ConnectError::AllowOrigin`] if `origin` is not a web origin.
    pub fn with_allowed_origin(mut self, origin: &str) -> Result<Self, ConnectError> {
        self.origins.allow(origin)?;
        Ok(self)
    }

    /// Accepts requests for the host `name`, besides `localhost` and the address that the client reached.
    ///
    /// # Errors
    /// [`ConnectError::AllowHost`] if `name` is not a host name.
    pub fn with_allowed_host(mut self, name: &str) -> Result<Self, ConnectError> {
        self.hosts.allow(name)?;
        Ok(self)
    }

    /// Passes every event to `hook`, which must not block.
    #[must_use]
    pub fn with_event_hook(mut self, hook: impl Fn(&ConnectEvent) + Send + Sync + 'static) -> Self {
        self.hook = Hook::new(hook);
        self
    }

    /// Serves until `shutdown` resolves; running requests then get at most [`DRAIN_TIMEOUT`].
    ///
    /// Dropping the future closes every connection at once.
    ///
    /// # Errors
    /// [`ConnectError`] if the proxy cannot start.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ConnectError> {
        let Self { relay, hook, .. } = self;
        let dial = Dial::of(&relay, self.ca.as_deref(), &self.proxies)?;
        let credential = self.token_file.as_deref().map(Credential::read);
        let credential = credential.transpose()?;
        let authority = relay.authority();
        let host = HeaderValue::try_from(&authority).map_err(|_| OutboundError::Relay {
            text: authority,
            problem: "it has a character that a header field cannot carry".to_owned(),
        })?;
        let (listeners, addresses) = listen::bind(self.listen).await?;
        let address = addresses[0];
        hook.tell(&ConnectEvent::Listening {
            address,
            url: base_url(self.listen, address),
            addresses,
            relay: relay.to_string(),
            token: credential.is_some(),
        });
        if credential.is_some() {
            warn_of_token(&relay, address, &hook);
        }
        let to_look_at = self.look.then(|| RelayHttp {
            origin: relay.clone(),
            dial: dial.clone(),
            authorization: None,
            is_connect: false,
        });
        let front = Rc::new(Front {
            pool: Rc::new(Pool::new(relay, dial)),
            host,
            credential,
            token_demand: TokenDemand::default(),
            origins: self.origins,
            trouble: TroubleReporter::default(),
            hosts: self.hosts,
            hook: hook.clone(),
        });
        let looking = async {
            if let Some(relay) = to_look_at {
                look::look(&front, relay).await;
            }
            std::future::pending::<()>().await;
        };
        // One thread has all callers and connections, so what they share needs no lock.
        let serving = LocalSet::new();
        let serving = serving.run_until(listen::serve(listeners, Rc::clone(&front), shutdown));
        tokio::select! {
            () = serving => {}
            () = looking => {}
        }
        hook.tell(&ConnectEvent::Stopped);
        Ok(())
    }
}

/// Warns if the network can read the token, or can use it through the proxy.
fn warn_of_token(relay: &RelayOrigin, address: SocketAddr, hook: &Hook) {
    if relay.exposes_tokens() {
        let relay = relay.to_string();
        hook.tell(&ConnectEvent::TokenInClear { relay });
    }
    if !address.ip().to_canonical().is_loopback() {
        hook.tell(&ConnectEvent::TokenShared { address });
    }
}

/// The proxy's URL for clients on this machine. `localhost` appears only if the proxy listens in both
/// address families: some clients try only the first address of a name.
fn base_url(listen: Listen, address: SocketAddr) -> String {
    let port = address.port();
    match (listen, address.ip()) {
        (Listen::Localhost(_), _) => format!("http://localhost:{port}"),
        (Listen::At(_), IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => format!("http://127.0.0.1:{port}"),
        (Listen::At(_), IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => format!("http://[::1]:{port}"),
        (Listen::At(_), _) => format!("http://{address}"),
    }
}

/// Runs `tieline connect`; returns the exit code.
pub(crate) async fn run(args: ConnectArgs) -> Result<u8, Ended> {
    let json = args.json;
    let failed = |error: ConnectError| Ended::new(error.exit_code(), error);
    let connect = args.settings().map_err(failed)?;
    let connect = connect.with_event_hook(move |event| print(event, json));
    let ended = until_signal(|shutdown| connect.run(shutdown)).await;
    ended.unwrap_or(Ok(())).map(|()| DONE).map_err(failed)
}

/// Prints one event for people, or as JSON for programs.
fn print(event: &ConnectEvent, json: bool) {
    match event {
        // Warnings go to standard error, with --json as well: standard output carries results only.
        ConnectEvent::TokenKept { .. }
        | ConnectEvent::TokenInClear { .. }
        | ConnectEvent::TokenShared { .. } => warn(event),
        event if json => print_json(event),
        ConnectEvent::RelayAway { .. }
        | ConnectEvent::TokenRefused { .. }
        | ConnectEvent::Relay { is_good: false, .. } => warn(event),
        ConnectEvent::Listening {
            addresses,
            url,
            relay,
            token,
            ..
        } => {
            let adds = if *token {
                "adds your token where the relay asks for one"
            } else {
                "adds no token"
            };
            let listening = paint(GOOD, "listening");
            let address = list(addresses);
            say(&format!("{listening}  {address}, for {relay}; {adds}"));
            say(&format!(
                "url        {}",
                paint(GOOD, format_args!("{url}/w/<tunnel>/mcp"))
            ));
        }
        event => say(event),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_wrong_password_is_sent_to_a_proxy_once_for_the_probe_and_all_requests() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = format!("http://ada:wrong@{}", listener.local_addr().unwrap());
        let logins = Cell::new(0);
        let refusing = async {
            while let Ok((mut socket, _)) = listener.accept().await {
                logins.set(logins.get() + 1);
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(socket.read_u8().await.unwrap());
                }
                let answer = b"HTTP/1.1 407 Login\r\nProxy-Authenticate: Basic realm=\"p\"\r\n\r\n";
                socket.write_all(answer).await.unwrap();
            }
        };
        let (tell, mut told) = mpsc::channel(16);
        let mut connect = Connect::new("http://relay.test:9080")
            .unwrap()
            .with_proxies(Proxies::parse(&proxy).unwrap())
            .with_listen("127.0.0.1:0", false)
            .unwrap()
            .with_event_hook(move |event| drop(tell.try_send(event.clone())));
        connect.look = true;
        let asking = async {
            let Some(ConnectEvent::Listening { address, .. }) = told.recv().await else {
                panic!("the first event is the address");
            };
            let words = "does not accept the user name and password in its URL";
            let Some(ConnectEvent::Relay { message, .. }) = told.recv().await else {
                panic!("the second event is the probe's");
            };
            assert!(message.contains(words), "{message}");
            for _ in 0..3 {
                let mut caller = TcpStream::connect(address).await.unwrap();
                let request = format!(
                    "GET /w/maya/mcp HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
                );
                caller.write_all(request.as_bytes()).await.unwrap();
                let mut answer = String::new();
                caller.read_to_string(&mut answer).await.unwrap();
                assert!(answer.contains("\"proxy_login\""), "{answer}");
                assert!(answer.contains(words), "{answer}");
            }
        };
        tokio::select! {
            () = asking => {}
            () = refusing => panic!("the proxy stopped"),
            ended = connect.run(std::future::pending()) => panic!("{ended:?}"),
        }
        assert_eq!(logins.get(), 1);
    }

    #[test]
    fn an_address_that_others_reach_needs_a_second_word() {
        let listen = |address, twice| {
            let connect = Connect::new("http://relay:9080").unwrap();
            connect
                .with_listen(address, twice)
                .map(|connect| connect.listen)
        };
        for address in ["127.0.0.1:0", "127.3.2.1:80", "[::1]:0", "localhost:51822"] {
            assert!(listen(address, false).is_ok(), "{address}");
        }
        for address in ["0.0.0.0:51822", "[::]:1", "10.0.0.1:1"] {
            let error = listen(address, false).unwrap_err();
            assert!(
                error.to_string().contains("--share-token-with-network"),
                "{error}"
            );
            assert_eq!(error.exit_code(), 2);
            assert!(listen(address, true).is_ok());
        }
        assert_eq!(listen("localhost:7", false).unwrap(), Listen::Localhost(7));
        for wrong in [
            "51822",
            "localhost",
            "localhost:x",
            "localhost:+80",
            "relay.example:80",
            "",
        ] {
            let error = listen(wrong, true).unwrap_err();
            assert!(matches!(error, ConnectError::Listen { .. }), "{error}");
        }
    }
}
