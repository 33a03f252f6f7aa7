//! Relay and agent in this process, as another program would embed them, for tests that wait
//! without a runtime of their own.

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tieline_relay::CallerAuth;
use tokio::runtime::{Builder, Runtime};

use crate::behaviour::studio::{SECRET, order, studio, token, write_token};
use crate::behaviour::{HttpStream, TestAgent, TestProxy, TestRelay, soon};

/// Kind of the application that every tunnel here is for.
const DCC: &str = "maya";

/// The relay's own name on [`Way::Domain`]. No name server knows it (RFC 6761, section 6.2): the
/// fixtures take every name that ends so for this machine.
const DOMAIN: &str = "relay.test";

/// How callers come to a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `/w/<tunnel>/…` at the relay.
    Name,
    /// `/dcc/<dcc>/<tunnel>/…` at the relay.
    Kind,
    /// `/dcc/<dcc>/…` at the relay: any tunnel of the kind, so that what belongs to one agent bears a
    /// mark of the relay's.
    AnyOfKind,
    /// `<tunnel>.<domain>/…`.
    Domain,
    /// `/w/<tunnel>/…` at a `tieline connect`, and the relay wants a token.
    Proxy,
}

/// A relay and one agent. All stop when it is dropped, the agent first and in order.
pub struct Tunnel {
    _proxy: Option<TestProxy>,
    agent: Option<TestAgent>,
    _relay: TestRelay,
    runtime: Runtime,
    url: String,
    guarded: Option<Guarded>,
    _home: TempDir,
}

/// A relay's own URL for a tunnel, where the relay wants a token.
pub struct Guarded {
    /// The URL.
    pub url: String,
    /// The token of a caller who may use it.
    pub token: String,
}

impl Tunnel {
    /// Starts a relay on ports of the kernel's choice and an agent that publishes `target`, and
    /// waits until callers can come on `way`.
    ///
    /// # Errors
    /// Something does not start, or the agent is not registered in time.
    pub fn start(way: Way, target: &str) -> Result<Self> {
        let home = TempDir::new()?;
        let token_file = home.path().join("token");
        let token = token(order(), &SECRET, 0)?;
        write_token(&token_file, &token)?;
        let studio = studio()?;
        let relay = TestRelay::with().config(|config| match way {
            Way::Name | Way::Kind | Way::AnyOfKind => {}
            Way::Domain => config.domain = Some(DOMAIN.to_owned()),
            Way::Proxy => {
                config.auth = studio;
                config.caller_auth = CallerAuth::Token;
            }
        });
        let relay = relay.start()?;
        let agent_token = (way == Way::Proxy).then(|| token_file.clone());
        let agent = TestAgent::to(target).config(move |config| {
            let config = config.with_dcc(DCC);
            match agent_token {
                Some(file) => config.with_token_file(file),
                None => config,
            }
        });
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let agent = runtime.block_on(agent.start(&relay))?;

        let front = relay.http_address();
        let tunnel = agent.tunnel();
        let told = agent.url();
        let named = match way {
            Way::Domain => format!("http://{tunnel}.{DOMAIN}:{}", front.port()),
            _ => format!("http://{front}/w/{tunnel}"),
        };
        let path = told
            .strip_prefix(&named)
            .with_context(|| format!("{told} is not under {named}"))?;
        let (mut proxy, mut guarded) = (None, None);
        let url = match way {
            Way::Name | Way::Domain => told.to_owned(),
            Way::Kind => format!("http://{front}/dcc/{DCC}/{tunnel}{path}"),
            Way::AnyOfKind => format!("http://{front}/dcc/{DCC}{path}"),
            Way::Proxy => {
                let path = agent.path(path);
                runtime.block_on(ensure_closed(&relay, &path))?;
                let relay = format!("http://{front}");
                let started = runtime.block_on(TestProxy::start(&relay, &token_file))?;
                let url = format!("{}{path}", started.url());
                proxy = Some(started);
                guarded = Some(Guarded {
                    url: told.to_owned(),
                    token,
                });
                url
            }
        };
        Ok(Self {
            _proxy: proxy,
            agent: Some(agent),
            _relay: relay,
            runtime,
            url,
            guarded,
            _home: home,
        })
    }

    /// The relay's own URL, if it wants a token there.
    #[must_use]
    pub const fn guarded(&self) -> Option<&Guarded> {
        self.guarded.as_ref()
    }

    /// The public URL of the target.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Whoever comes without the proxy's token is turned away, so what works works by the token.
async fn ensure_closed(relay: &TestRelay, path: &str) -> Result<()> {
    let mut caller = HttpStream::connect(relay.http_address()).await?;
    caller.get(path).await?;
    let (head, _) = soon("a refusal", caller.answer()).await??;
    ensure!(head.status() == 401, "{head:?}");
    Ok(())
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let Some(agent) = self.agent.take() else {
            return;
        };
        let stopped = self.runtime.block_on(agent.stop());
        if let Err(error) = stopped.and_then(|outcome| Ok(outcome?)) {
            eprintln!("the agent did not stop in order: {error:#}");
        }
    }
}
