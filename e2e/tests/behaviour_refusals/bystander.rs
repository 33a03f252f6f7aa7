//! A healthy tunnel that must not be affected by the failures next to it.

use anyhow::{Context, Result, ensure};
use tieline_e2e::behaviour::{Target, TestAgent, TestRelay, echo_round_trip, soon};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// An agent and a caller whose session echoes continuously.
pub(crate) struct Bystander {
    agent: TestAgent,
    _target: Target,
    rounds: watch::Receiver<u64>,
    stop: watch::Sender<bool>,
    echo: JoinHandle<Result<()>>,
}

impl Bystander {
    pub(crate) async fn beside(relay: &TestRelay) -> Result<Self> {
        let target = Target::echo().await?;
        let agent = TestAgent::of(&target)
            .named("bystander")
            .start(relay)
            .await?;
        let mut caller = relay.raw("bystander").await?;
        let (tell, rounds) = watch::channel(0);
        let (stop, stopped) = watch::channel(false);
        let echo = tokio::spawn(async move {
            while !*stopped.borrow() {
                echo_round_trip(&mut caller, &[3; 1000]).await?;
                tell.send_modify(|rounds| *rounds += 1);
            }
            Ok(())
        });
        Ok(Self {
            agent,
            _target: target,
            rounds,
            stop,
            echo,
        })
    }

    /// Checks that the bystander's session goes on, and that its agent never had to register again.
    pub(crate) async fn stays_well(mut self, relay: &TestRelay) -> Result<()> {
        let before = *self.rounds.borrow();
        soon(
            "more echoes",
            self.rounds.wait_for(|rounds| *rounds > before + 3),
        )
        .await?
        .context("the bystander's session ended")?;
        self.stop.send_replace(true);
        soon("the last echo", self.echo).await???;
        let rows = relay.tunnels().await?;
        let row = rows.iter().find(|row| row.tunnel_id == "bystander");
        let row = row.context("the bystander is not listed")?;
        ensure!(
            row.generation == self.agent.generation().to_string(),
            "{row:?}"
        );
        Ok(())
    }
}
