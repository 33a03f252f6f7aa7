//! A machine with too few resources: the relay runs with less and reports it.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tieline_e2e::behaviour::{
    Addresses, RelayProgram, Target, TestAgent, echo_round_trip, soon, within,
};
use tieline_e2e::environment::fixtures;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

fn without_io_uring() -> Result<[String; 2]> {
    let filter = fixtures().join("without_io_uring.py");
    let filter = filter.to_str().context("a path in UTF-8")?;
    Ok(["python3".to_owned(), filter.to_owned()])
}

#[test]
fn without_io_uring_a_relay_that_must_have_it_does_not_start() -> Result<()> {
    let [python, filter] = without_io_uring()?;
    let launcher = [python.as_str(), filter.as_str()];
    let ended = RelayProgram::ends(&launcher, Addresses::any(), &["--driver", "uring"])?;
    ensure!(ended.status.code() == Some(1), "{}", ended.quote);
    ensure!(ended.stderr.lines().count() == 1, "{}", ended.quote);
    let stderr = ended.stderr;
    ensure!(
        stderr.contains("--driver uring") && stderr.contains("seccomp"),
        "{stderr}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_io_uring_the_relay_goes_on_with_epoll_and_says_so() -> Result<()> {
    let [python, filter] = without_io_uring()?;
    let launcher = [python.as_str(), filter.as_str()];
    let relay = RelayProgram::start(&launcher, Addresses::any(), &["--shards", "2"])?;
    ensure!(relay.driver == "epoll", "{}", relay.driver);

    let line = relay.logged("going on with epoll")?;
    ensure!(
        line.contains("io_uring is refused") && line.contains("seccomp"),
        "{line}"
    );
    ensure!(
        relay.log_count("io_uring") == 1,
        "the warning was logged more than once"
    );
    let health: Value = serde_json::from_str(&relay.admin("/healthz?verbose").await?)?;
    ensure!(health["status"] == "ok", "{health}");
    let shards = health["shards"].as_array().context("no shards")?;
    ensure!(shards.len() == 2, "{health}");
    for shard in shards {
        ensure!(shard["driver"] == "epoll", "{health}");
        let reason = shard["driver_reason"].as_str().context("no reason")?;
        ensure!(reason.contains("seccomp"), "{reason}");
    }
    let metrics = relay.metrics().await?;
    ensure!(metrics.labelled("relay_driver", "epoll") == 2, "{metrics}");

    let target = Target::echo().await?;
    let agent = TestAgent::of(&target)
        .links(2)
        .start_at(&relay.agent_url())
        .await?;
    for size in [1, 1_000, 100_000] {
        for _ in 0..10 {
            let mut caller = relay.raw(agent.tunnel()).await?;
            echo_round_trip(&mut caller, &vec![5; size]).await?;
        }
    }
    Ok(())
}

/// Limit of open files, and more callers than it allows.
const DESCRIPTORS: usize = 64;
const CALLERS: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn with_few_descriptors_the_relay_serves_fewer_callers_and_says_so() -> Result<()> {
    few_descriptors("auto").await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_few_descriptors_the_relay_serves_fewer_callers_and_says_so_epoll() -> Result<()> {
    few_descriptors("epoll").await
}

async fn few_descriptors(driver: &str) -> Result<()> {
    let limit = format!("ulimit -n {DESCRIPTORS} && exec \"$0\" \"$@\"");
    let flags = ["--shards", "2", "--driver", driver];
    let relay = RelayProgram::start(&["sh", "-c", &limit], Addresses::any(), &flags)?;
    let line = relay.logged("open files")?;
    ensure!(
        line.contains(&DESCRIPTORS.to_string()) && line.contains("ulimit -n"),
        "{line}"
    );
    let target = Target::echo().await?;
    let agent = TestAgent::of(&target).start_at(&relay.agent_url()).await?;

    // Connections beyond the limit are refused at once, over HTTP with an answer.
    let mut served: Vec<TcpStream> = Vec::new();
    let mut refused = 0;
    for number in 0..CALLERS {
        let echoed = async {
            let mut caller = relay.raw(agent.tunnel()).await?;
            echo_round_trip(&mut caller, &[1]).await?;
            anyhow::Ok(caller)
        };
        match within(Duration::from_secs(3), "an echo or a reset", echoed).await? {
            Ok(caller) if refused == 0 => served.push(caller),
            Ok(_) => anyhow::bail!("caller {number} was served after {refused} were not"),
            Err(error) => {
                let error = error.downcast::<std::io::Error>()?;
                let is_reset = matches!(
                    error.kind(),
                    std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
                );
                ensure!(is_reset, "caller {number}: {error:?}");
                refused += 1;
            }
        }
    }
    ensure!(
        served.len() >= 10,
        "only {} of {CALLERS} served",
        served.len()
    );
    ensure!(
        refused >= CALLERS - DESCRIPTORS,
        "only {refused} callers were refused"
    );
    relay.logged("cannot accept connections")?;
    let mut http = relay.http().await?;
    http.get("/health").await?;
    let (head, body) = soon("an answer", http.answer()).await??;
    let body: Value = serde_json::from_slice(&body.bytes)?;
    ensure!(
        head.status() == 503 && head.header("retry-after") == Some("1"),
        "{head:?}"
    );
    ensure!(body["error"] == "overload", "{body}");
    // Callers leave some descriptors to operators and agents.
    ensure!(relay.admin("/healthz").await? == "ok\n");
    let metrics = relay.metrics().await?;
    let counted = metrics.labelled("relay_frontend_refused_total", "overload");
    ensure!(usize::try_from(counted)? == refused + 1, "{metrics}");
    let url = relay.agent_url();
    let late = TestAgent::of(&target).named("late").start_at(&url);
    let late = soon("an agent", late).await??;
    ensure!(late.tunnel() == "late");

    // Accepted callers stay served, and the relay does not spin.
    let (before, since) = (relay.processor_time()?, Instant::now());
    while since.elapsed() < Duration::from_secs(2) {
        for caller in &mut served {
            echo_round_trip(caller, &[2; 100]).await?;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let used = relay.processor_time()? - before;
    ensure!(
        used < since.elapsed() / 3,
        "{used:?} of {:?}",
        since.elapsed()
    );
    let complaints = relay.log_count("cannot accept");
    ensure!(complaints < 20, "{complaints} log lines");

    // A caller that disconnects makes room for another.
    drop(served);
    let room = async {
        loop {
            let Ok(mut caller) = relay.raw(agent.tunnel()).await else {
                continue;
            };
            if echo_round_trip(&mut caller, b"served at last")
                .await
                .is_ok()
            {
                return;
            }
        }
    };
    soon("a caller to be served", room).await?;
    ensure!(relay.tunnels().await?.len() == 2);
    Ok(())
}

/// Arguments of `few_descriptors.py`: the limit of open files is 128, and descriptors from 100 on are occupied except
/// 112 to 118. These seven are the reserves of the listeners: three on each of two shards, and the admin port's.
const ALL_TAKEN: [&str; 4] = ["128", "100", "112", "118"];

/// Number of links that fill the free descriptors which callers leave to agents.
const LINKS: u16 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn without_any_descriptor_each_side_has_an_answer_at_once() -> Result<()> {
    no_descriptors("auto").await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_descriptor_each_side_has_an_answer_at_once_epoll() -> Result<()> {
    no_descriptors("epoll").await
}

async fn no_descriptors(driver: &str) -> Result<()> {
    let program = fixtures().join("few_descriptors.py");
    let program = program.to_str().context("a path in UTF-8")?;
    let launcher = [&["python3", program][..], &ALL_TAKEN].concat();
    let flags = ["--shards", "2", "--driver", driver];
    let relay = RelayProgram::start(&launcher, Addresses::any(), &flags)?;
    let target = Target::echo().await?;
    let agent = TestAgent::of(&target).start_at(&relay.agent_url()).await?;

    // Callers take the descriptors they may use, and links of an agent the rest.
    let mut farm = None;
    let mut held: Vec<TcpStream> = Vec::new();
    let served = async || -> Result<TcpStream> {
        let mut caller = relay.raw(agent.tunnel()).await?;
        echo_round_trip(&mut caller, &[1]).await?;
        Ok(caller)
    };
    let filled = async {
        while fs::read_dir(format!("/proc/{}/fd", relay.process().id()))?.count() < 127 {
            match served().await {
                Ok(caller) => held.push(caller),
                Err(_) if farm.is_none() => {
                    let links = TestAgent::of(&target).named("farm").links(LINKS);
                    farm = Some(links.start_at(&relay.agent_url()).await?);
                }
                // A link is being set up.
                Err(_) => tokio::task::yield_now().await,
            }
        }
        anyhow::Ok(())
    };
    soon("every descriptor to be in use", filled).await??;
    ensure!(held.len() >= 10, "only {} callers", held.len());

    // The checks also hold while callers keep connecting.
    let tcp = relay.addresses.tcp;
    let flood = tokio::spawn(async move {
        loop {
            drop(TcpStream::connect(tcp).await);
        }
    });
    // Served connections stay open, so that they keep their descriptors.
    let mut held_http = Vec::new();
    for _ in 0..10 {
        let health = soon("/healthz", relay.admin("/healthz")).await?;
        let health = health.context("/healthz")?;
        ensure!(health == "ok\n", "{health}");
        let metrics = soon("/metrics", relay.metrics()).await?;
        metrics.context("/metrics")?;
        // Reset, or served with the reserve descriptor of a listener that is refusing another caller.
        held.extend(soon("a caller's answer", served()).await?);
        let ended = async {
            TcpStream::connect(relay.addresses.agent)
                .await?
                .read_u8()
                .await
        };
        let ended = soon("the end of an agent", ended).await?;
        ensure!(ended.is_err(), "an agent's connection was accepted");
        let answered = async {
            let mut http = relay.http().await?;
            http.get("/health").await?;
            let (head, _) = http.answer().await?;
            anyhow::Ok((head, http))
        };
        // The connection may be reset before the request is sent.
        if let Ok((head, http)) = soon("an answer or a reset", answered).await? {
            ensure!([200, 503].contains(&head.status()), "{head:?}");
            held_http.push(http);
        }
    }
    flood.abort();

    drop((held, held_http));
    let again = async { while served().await.is_err() {} };
    soon("a caller to be served again", again).await?;
    Ok(())
}
