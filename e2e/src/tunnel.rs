//! Relay and agent in this process, as another program would embed them, for tests that wait
//! without a runtime of their own.

use anyhow::{Context, Result, ensure};
use tieline_relay::Relay;
use tokio::runtime::{Builder, Runtime};

use crate::behaviour::{TestAgent, TestRelay};

/// A relay and one agent. Both stop when it is dropped, the agent first and in order.
pub struct Tunnel {
    agent: Option<TestAgent>,
    relay: TestRelay,
    runtime: Runtime,
    url: String,
}

impl Tunnel {
    /// Starts a relay on ports of the kernel's choice and an agent that publishes `target`, and
    /// waits until the tunnel is up.
    ///
    /// # Errors
    /// Either does not start, or the agent is not registered in time.
    pub fn start(target: &str) -> Result<Self> {
        let relay = TestRelay::start()?;
        let front = relay.relay().http_addresses().first();
        let expected = format!("http://{}/w/", front.context("no HTTP listener")?);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let agent = runtime.block_on(TestAgent::to(target).start(&relay))?;
        let url = agent.url().to_owned();
        ensure!(url.starts_with(&expected), "{url} is not under {expected}");
        Ok(Self {
            agent: Some(agent),
            relay,
            runtime,
            url,
        })
    }

    /// The public URL of the target.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The relay.
    #[must_use]
    pub const fn relay(&self) -> &Relay {
        self.relay.relay()
    }
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
