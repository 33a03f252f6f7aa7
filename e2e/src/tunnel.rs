//! Relay and agent embedded in the test process, for tests that have no async runtime of their own.

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tieline_relay::CallerAuth;
use tokio::runtime::{Builder, Runtime};

use crate::behaviour::studio::{SECRET, order, studio, token, write_token};
use crate::behaviour::{HttpStream, TestAgent, TestProxy, TestRelay, soon};
use crate::trust::Trust;

/// Application kind (`--dcc`) of every tunnel that this file opens.
const DCC: &str = "maya";

/// Domain of the relay on [`UrlForm::Domain`]. No name server knows `.test` names (RFC 6761, section 6.2);
/// the fixtures resolve each of them to 127.0.0.1.
const DOMAIN: &str = "relay.test";

/// Which URL form callers use to reach a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlForm {
    /// `/w/<tunnel>/…` at the relay.
    Name,
    /// `/dcc/<dcc>/<tunnel>/…` at the relay.
    Kind,
    /// `/dcc/<dcc>/…` at the relay: any tunnel of the kind. The relay adds its mark to session ids, which
    /// leads later requests to the same agent.
    AnyOfKind,
    /// `<tunnel>.<domain>/…` at the relay.
    Domain,
    /// `/w/<tunnel>/…` at a `tieline connect`, which adds the token that the relay requires.
    Proxy,
    /// `/w/<tunnel>/…` at the relay, with `https://` in front. The agent's link is a WebSocket to the same port.
    Https,
}

/// A relay, one agent and, on [`UrlForm::Proxy`], a proxy. Dropping the tunnel stops the agent gracefully first,
/// then the rest.
pub struct Tunnel {
    _proxy: Option<TestProxy>,
    agent: Option<TestAgent>,
    _relay: TestRelay,
    runtime: Runtime,
    url: String,
    guarded: Option<Guarded>,
    _home: TempDir,
}

/// URL of a tunnel at a relay that requires a token, and a token for it.
pub struct Guarded {
    /// URL of the target at the relay, without the proxy.
    pub url: String,
    /// Token of a caller that may use the tunnel.
    pub token: String,
}

impl Tunnel {
    /// Starts a relay on ports of the kernel's choice and an agent that publishes `target`, and
    /// waits until callers can reach the target through `way`. A relay with TLS has its certificate from `trust`.
    ///
    /// # Errors
    /// The relay, the agent or the proxy does not start, or the agent is not registered in time.
    pub fn start(way: UrlForm, target: &str, trust: &Trust) -> Result<Self> {
        let home = TempDir::new()?;
        let token_file = home.path().join("token");
        let token = token(order(), &SECRET, 0)?;
        write_token(&token_file, &token)?;
        let relay = start_relay(way, trust)?;
        let agent_token = (way == UrlForm::Proxy).then(|| token_file.clone());
        let agent = TestAgent::to(target).config(move |config| {
            let config = config.with_dcc(DCC);
            match agent_token {
                Some(file) => config.with_token_file(file),
                None => config,
            }
        });
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let agent = match way {
            UrlForm::Https => runtime.block_on(trust.start_agent(agent, &relay))?,
            _ => runtime.block_on(agent.start(&relay))?,
        };

        let front = relay.http_address();
        let tunnel = agent.tunnel();
        let told = agent.url();
        let named = match way {
            UrlForm::Domain => format!("http://{tunnel}.{DOMAIN}:{}", front.port()),
            UrlForm::Https => format!("https://{front}/w/{tunnel}"),
            _ => format!("http://{front}/w/{tunnel}"),
        };
        let path = told
            .strip_prefix(&named)
            .with_context(|| format!("the agent's URL {told} does not start with {named}"))?;
        let (mut proxy, mut guarded) = (None, None);
        let url = match way {
            UrlForm::Name | UrlForm::Domain | UrlForm::Https => told.to_owned(),
            UrlForm::Kind => format!("http://{front}/dcc/{DCC}/{tunnel}{path}"),
            UrlForm::AnyOfKind => format!("http://{front}/dcc/{DCC}{path}"),
            UrlForm::Proxy => {
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

    /// The relay's own URL and a token for it, on [`UrlForm::Proxy`] only.
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

/// Starts the relay that callers reach through `way`.
fn start_relay(way: UrlForm, trust: &Trust) -> Result<TestRelay> {
    let relay = match way {
        UrlForm::Name | UrlForm::Kind | UrlForm::AnyOfKind => TestRelay::with(),
        UrlForm::Domain => {
            TestRelay::with().config(|config| config.domain = Some(DOMAIN.to_owned()))
        }
        UrlForm::Proxy => {
            let studio = studio()?;
            TestRelay::with().config(move |config| {
                config.auth = studio;
                config.caller_auth = CallerAuth::Token;
            })
        }
        UrlForm::Https => trust.relay(),
    };
    relay.start()
}

/// Checks that the relay refuses a request without a token, so requests through the proxy succeed by its token.
async fn ensure_closed(relay: &TestRelay, path: &str) -> Result<()> {
    let mut caller = HttpStream::connect(relay.http_address()).await?;
    caller.get(path).await?;
    let (head, _) = soon("the refusal of a request without a token", caller.answer()).await??;
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
            eprintln!("the agent did not stop gracefully: {error:#}");
        }
    }
}
