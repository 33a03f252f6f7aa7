//! Two runs of one agent that want one name at the same moment, again and again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tieline_agent::Error;
use tieline_e2e::behaviour::{
    Target, TestAgent, TestRelay, WireAgent, WireKey, echo_round_trip, registration, soon,
};
use tieline_wire::{Event, GoAway, Reason};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

const ROUNDS: u64 = 1_000;

/// Callers that open sessions all the time, whoever holds the name.
const CALLERS: usize = 4;

/// Callers that ask at once when a round is decided: enough to meet every shard.
const ASKED_AT_ONCE: usize = 8;

/// Names that other agents claim all the time, so that news of the contested one have to queue.
const OTHER_NAMES: usize = 64;

const NAME: &str = "contested";

/// What the agents know together: the generation that each was told.
#[derive(Default)]
struct Ledger {
    generations: Mutex<HashMap<u64, u64>>,
    /// The highest generation that was acknowledged.
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

/// One run of the agent. Its number goes up with the rounds.
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
        let reason = away.context("closed without a word")?.reason;
        ensure!(reason == Reason::Superseded, "{reason}");
        Ok(())
    }

    /// Waits for the acknowledgement; true if it came, false if the name was lost before.
    async fn acknowledged(&mut self) -> Result<bool> {
        Ok(
            soon("an acknowledgement", self.granted.wait_for(Option::is_some))
                .await?
                .is_ok(),
        )
    }
}

/// Who answers a caller; `None` if the session was reset before.
async fn asked(relay: &TestRelay) -> Result<Option<u64>> {
    let mut caller = relay.raw(NAME).await?;
    let mut answer = String::new();
    match soon("an answer or an end", caller.read_to_string(&mut answer)).await? {
        Ok(_) if answer.is_empty() => Ok(None),
        Ok(_) => Ok(Some(answer.parse()?)),
        Err(_) => Ok(None),
    }
}

/// Claims other names again and again, for as long as it is polled.
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

/// A session that was opened when `acknowledged` was the highest generation in force.
struct Answer {
    id: u64,
    acknowledged: u64,
}

/// That no session reached a run that is older than what was acknowledged before.
fn check(answers: &[Answer], ledger: &Ledger) -> Result<()> {
    for Answer { id, acknowledged } in answers {
        match ledger.generation(*id) {
            Some(own) => ensure!(
                own >= *acknowledged,
                "run {id} of {own} after {acknowledged}"
            ),
            // It lost the name before it was told that it had it: so its generation is lower than
            // the other's of its round, and higher than any of the rounds before.
            None => {
                let holder = ledger
                    .run_of(*acknowledged)
                    .context("nobody was told that")?;
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
        // Both may have had it, one after the other; one of them has it for good.
        let generation = |run: &Run, had: bool| had.then(|| ledger.generation(run.id)).flatten();
        let (one, two) = (generation(&first, one?), generation(&second, two?));
        ensure!(
            one != two,
            "round {round}: nobody, or both at once: {one:?}"
        );
        let (winner, loser) = if one > two {
            (first, second)
        } else {
            (second, first)
        };
        // From here on no newer claim is made: whoever asks must reach the winner.
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
        "only {answered} answers: the callers prove little"
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

/// The same with the real agent, which must not dial again once it lost.
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
        // Three wanted it: two of them end by themselves, whichever.
        for _ in 0..2 {
            let outcome = running.join_next().await.context("nobody runs")???;
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
