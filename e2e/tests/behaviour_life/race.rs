//! Two runs of one agent that claim one name at the same moment, repeatedly.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tieline_agent::Error;
use tieline_e2e::behaviour::{
    Target, TestAgent, TestRelay, WireAgent, WireKey, echo_round_trip, registration, soon,
};
use tieline_wire::{Event, GoAway, LinkEnd};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

const ROUNDS: u64 = 1_000;

/// Callers that open sessions throughout the test.
const CALLERS: usize = 4;

/// Callers that connect at once when a round is decided: enough to reach every shard.
const ASKED_AT_ONCE: usize = 8;

/// Names that other agents claim throughout the test, so that updates on the contested name have to queue.
const OTHER_NAMES: usize = 64;

const NAME: &str = "contested";

/// Shared record of the generation that was granted to each run.
#[derive(Default)]
struct Ledger {
    generations: Mutex<HashMap<u64, u64>>,
    /// Highest generation that was acknowledged.
    acknowledged: AtomicU64,
}

impl Ledger {
    fn acknowledge(&self, id: u64, generation: u64) {
        let mut generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        generations.insert(id, generation);
        drop(generations);
        self.acknowledged.fetch_max(generation, Ordering::SeqCst);
    }

    fn generation(&self, id: u64) -> Option<u64> {
        let generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        generations.get(&id).copied()
    }

    fn run_of(&self, generation: u64) -> Option<u64> {
        let generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut runs = generations.iter();
        runs.find_map(|(id, own)| (*own == generation).then_some(*id))
    }
}

/// One run of the agent. Run numbers increase with the rounds.
struct Run {
    id: u64,
    granted: watch::Receiver<Option<u64>>,
    task: JoinHandle<Result<Option<GoAway>>>,
}

impl Run {
    async fn dial(relay: &TestRelay, key: &WireKey, id: u64, ledger: &Arc<Ledger>) -> Result<Self> {
        let mut link = WireAgent::dial(relay.agent_address(), key, u128::from(id)).await?;
        let (tell, granted) = watch::channel(None);
        let ledger = Arc::clone(ledger);
        let task = tokio::spawn(async move {
            link.ask(Some(NAME)).await?;
            link.answer_with(&id.to_string(), |event| {
                if let Event::RegisterAck(ack) = event
                    && let Ok(granted) = &ack.outcome
                {
                    ledger.acknowledge(id, granted.generation.0);
                    tell.send_replace(Some(granted.generation.0));
                }
            })
            .await
        });
        Ok(Self { id, granted, task })
    }

    /// Waits for the end of a run that lost the name.
    async fn superseded(self) -> Result<()> {
        let away = soon("the end of the run that lost", self.task).await???;
        let reason = away.context("closed without GOAWAY")?.reason;
        ensure!(reason == LinkEnd::Superseded, "{reason}");
        Ok(())
    }

    /// Waits for the acknowledgement; false if the run lost the name before it.
    async fn acknowledged(&mut self) -> Result<bool> {
        Ok(
            soon("an acknowledgement", self.granted.wait_for(Option::is_some))
                .await?
                .is_ok(),
        )
    }
}

/// Number of the run that answers a caller; `None` if the session was reset.
async fn asked(relay: &TestRelay) -> Result<Option<u64>> {
    let mut caller = relay.raw(NAME).await?;
    let mut answer = String::new();
    match soon("an answer or an end", caller.read_to_string(&mut answer)).await? {
        Ok(_) if answer.is_empty() => Ok(None),
        Ok(_) => Ok(Some(answer.parse()?)),
        Err(_) => Ok(None),
    }
}

/// Claims other names repeatedly, until the future is dropped.
async fn claim_others(relay: &TestRelay, prefix: &str) -> Result<()> {
    let mut link = WireAgent::dial(relay.agent_address(), &WireKey::new()?, 1).await?;
    loop {
        for number in 0..OTHER_NAMES {
            let name = format!("{prefix}-{number}");
            link.mux.register(&registration(Some(&name)));
        }
        link.flush().await?;
        for _ in 0..OTHER_NAMES {
            while !matches!(link.event().await?, Some(Event::RegisterAck(_))) {}
        }
    }
}

/// A session opened when `acknowledged` was the highest acknowledged generation.
struct Answer {
    id: u64,
    acknowledged: u64,
}

/// Checks that no session reached a run older than the highest acknowledged one.
fn check(answers: &[Answer], ledger: &Ledger) -> Result<()> {
    for Answer { id, acknowledged } in answers {
        match ledger.generation(*id) {
            Some(own) => ensure!(
                own >= *acknowledged,
                "run {id} of {own} after {acknowledged}"
            ),
            // The run lost the name before its grant was acknowledged. Its generation is lower than that of the other
            // run of its round, and higher than those of all earlier rounds.
            None => {
                let holder = ledger
                    .run_of(*acknowledged)
                    .context("no run has this generation")?;
                ensure!(
                    holder / 2 < id / 2,
                    "run {id} after run {holder} was acknowledged"
                );
            }
        }
    }
    Ok(())
}

async fn race(shards: usize) -> Result<()> {
    let relay = Arc::new(TestRelay::with().shards(shards).start()?);
    let key = WireKey::new()?;
    let ledger = Arc::new(Ledger::default());
    let over = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));

    let mut holder = Run::dial(&relay, &key, 0, &ledger).await?;
    ensure!(holder.acknowledged().await?);
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (relay, ledger) = (Arc::clone(&relay), Arc::clone(&ledger));
        let (over, answered) = (Arc::clone(&over), Arc::clone(&answered));
        callers.spawn(async move {
            let mut answers = Vec::new();
            while !over.load(Ordering::SeqCst) {
                let acknowledged = ledger.acknowledged.load(Ordering::SeqCst);
                if let Some(id) = asked(&relay).await? {
                    answered.fetch_add(1, Ordering::SeqCst);
                    answers.push(Answer { id, acknowledged });
                }
            }
            anyhow::Ok(answers)
        });
    }

    let mut noise = JoinSet::new();
    for prefix in ["a", "b"] {
        let relay = Arc::clone(&relay);
        noise.spawn(async move { claim_others(&relay, prefix).await });
    }

    for round in 1..=ROUNDS {
        let (first, second) = tokio::join!(
            Run::dial(&relay, &key, round * 2, &ledger),
            Run::dial(&relay, &key, round * 2 + 1, &ledger),
        );
        let (mut first, mut second) = (first?, second?);
        let (one, two) = tokio::join!(first.acknowledged(), second.acknowledged());
        // Both runs may have held the name, one after the other; the higher generation keeps it.
        let generation = |run: &Run, had: bool| had.then(|| ledger.generation(run.id)).flatten();
        let (one, two) = (generation(&first, one?), generation(&second, two?));
        ensure!(
            one != two,
            "round {round}: both runs have the same grant, or none: {one:?}"
        );
        let (winner, loser) = if one > two {
            (first, second)
        } else {
            (second, first)
        };
        // No newer claim is made in this round, so every caller must reach the winner.
        let mut asking = JoinSet::new();
        for _ in 0..ASKED_AT_ONCE {
            let relay = Arc::clone(&relay);
            asking.spawn(async move { asked(&relay).await });
        }
        while let Some(id) = asking.join_next().await {
            let (id, wanted) = (id??, winner.id);
            ensure!(
                id == Some(wanted),
                "round {round}: {id:?} instead of {wanted}"
            );
        }
        loser.superseded().await?;
        std::mem::replace(&mut holder, winner).superseded().await?;
    }
    over.store(true, Ordering::SeqCst);
    ensure!(noise.try_join_next().is_none(), "the other claims failed");
    noise.shutdown().await;

    while let Some(answers) = callers.join_next().await {
        check(&answers??, &ledger)?;
    }
    let answered = answered.load(Ordering::SeqCst) as u64;
    ensure!(
        answered > ROUNDS / 2,
        "only {answered} answers: too few to prove anything"
    );
    let metrics = relay.metrics().await?;
    let superseded = i64::try_from(2 * ROUNDS)?;
    ensure!(
        metrics.labelled("relay_link_evictions_total", "superseded") == superseded,
        "{metrics}"
    );
    drop(holder.task);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runs_race_for_a_name_a_thousand_times_on_two_shards() -> Result<()> {
    race(2).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runs_race_for_a_name_a_thousand_times_on_four_shards() -> Result<()> {
    race(4).await
}

/// The same race with real agents, which must not reconnect after they lost.
#[tokio::test]
async fn agents_that_race_leave_one_that_serves_and_the_others_ended() -> Result<()> {
    let relay = TestRelay::with().shards(2).start()?;
    let home = TempDir::new()?;
    let target = Target::echo().await?;
    let run = || TestAgent::of(&target).state_dir(home.path()).named(NAME);
    let mut running = JoinSet::new();
    running.spawn(run().start(&relay).await?.ended());
    for _ in 0..10 {
        running.spawn(run().spawn(&relay)?.ended());
        running.spawn(run().spawn(&relay)?.ended());
        // Three runs wanted the name, so any two of them end by themselves.
        for _ in 0..2 {
            let outcome = running.join_next().await.context("no run is left")???;
            ensure!(
                matches!(outcome, Err(Error::Superseded { .. })),
                "{outcome:?}"
            );
        }
    }
    let mut caller = relay.raw(NAME).await?;
    echo_round_trip(&mut caller, b"the last one").await?;
    let metrics = relay.metrics().await?;
    ensure!(metrics.get("relay_links_total") == 21, "{metrics}");
    Ok(())
}
