//! Failures while one relay takes over from another: afterwards exactly one of them serves and holds the state folder.
//! Long because each failure has its own test, and all tests share the same two relays.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, socket_with,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tieline_e2e::behaviour::{
    Addresses, Metrics, RelayProgram, SOON, Target, TestAgent, echo_round_trip, soon,
};

use super::successor::{Home, hear, hear_until, receive_sockets, say, stranger};

const ASK: &str = r#"{"say":"ask","version":2}"#;
const BOUND: &str = r#"{"say":"bound"}"#;
const SERVING: &str = r#"{"say":"serving"}"#;

/// Binds a name to an agent, which is then killed.
async fn bind_name(relay: &RelayProgram, name: &str) -> Result<()> {
    let target = Target::echo().await?;
    let agent = TestAgent::of(&target).named(name);
    agent.start_at(&relay.agent_url()).await?.kill()
}

/// The admin port's JSON for a tunnel name.
async fn shown(relay: &RelayProgram, name: &str) -> Result<Value> {
    let text = relay.admin(&format!("/tunnels/{name}")).await?;
    Ok(serde_json::from_str(&text)?)
}

/// Number of warnings and errors in the relay's log.
fn warnings(relay: &RelayProgram) -> usize {
    relay.log_count(" WARN ") + relay.log_count(" ERROR ")
}

/// Process id of the state folder's lock holder, from the lock file; an error if the folder is not locked.
fn holder(home: &Home) -> Result<u32> {
    let path = home.file("lock");
    let is_free = flock(
        fs::File::open(&path)?,
        FlockOperation::NonBlockingLockExclusive,
    )
    .is_ok();
    ensure!(!is_free, "the state folder is not locked");
    Ok(fs::read_to_string(path)?.trim().parse()?)
}

fn mode(path: &Path, mode: u32) -> Result<()> {
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

/// The state folder accepts no new file (`epoch.new` is a directory, which stops root too), or its journal is rejected.
#[tokio::test(flavor = "multi_thread")]
async fn a_take_over_that_fails_at_the_folder_costs_the_old_relay_nothing() -> Result<()> {
    let home = Home::new()?;
    let mut relay = home.start(Addresses::any(), &[])?;
    bind_name(&relay, "before").await?;
    let (folder, blocked) = (home.file(""), home.file("epoch.new"));
    for (name, file) in [("one", "epoch"), ("two", "names.journal")] {
        match file {
            "epoch" => {
                fs::create_dir(&blocked)?;
                mode(&folder, 0o500)?;
            }
            _ => mode(&home.file(file), 0o644)?,
        }
        for _ in 0..2 {
            let take_over = home.flags(&["--take-over"]);
            let ended = RelayProgram::ends(&[], relay.addresses, &take_over)?;
            ensure!(ended.status.code() == Some(1), "{}", ended.quote);
            ensure!(ended.stderr.contains(file), "{}", ended.quote);
            let ended = RelayProgram::ends(&[], relay.addresses, &home.flags(&[]))?;
            ensure!(ended.status.code() == Some(1), "{}", ended.quote);
        }
        ensure!(holder(&home)? == relay.process().id());
        bind_name(&relay, name).await?;
        mode(&folder, 0o700)?;
        mode(&home.file("names.journal"), 0o600)?;
        let _it_was_there = fs::remove_dir(&blocked);
        relay.ask_to_stop()?;
        let addresses = relay.addresses;
        ensure!(relay.ended()?.status.code() == Some(0));
        relay = home.start(addresses, &[])?;
        for name in ["before", name] {
            ensure!(shown(&relay, name).await?["bound"].is_object());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_over_logs_nothing_that_someone_should_look_at() -> Result<()> {
    let home = Home::new()?;
    let old = home.start(Addresses::any(), &["--shards", "2"])?;
    let target = Target::echo().await?;
    let mut agent = TestAgent::of(&target).start_at(&old.agent_url()).await?;
    // Warnings that occur on this machine anyway, such as a missing io_uring.
    let usual = warnings(&old);
    let new = home.start(old.addresses, &["--shards", "2", "--take-over"])?;
    agent.registered().await?;
    ensure!(holder(&home)? == new.process().id());
    let old_end = old.ended()?;
    let of_old = old_end.stderr.lines();
    let of_old = of_old.filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    ensure!(of_old.count() == usual, "{}", old_end.quote);
    ensure!(warnings(&new) == usual);
    // A relay that is started by SIGUSR2 writes to the same log.
    new.process().signal(Signal::USR2)?;
    let handed_over = |line: &str| line.contains("handing_over").then_some(());
    new.process().wait_for(SOON, handed_over)?;
    agent.registered().await?;
    ensure!(new.process().exit_code(SOON)? == 0);
    ensure!(warnings(&new) == 2 * usual);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_halted_relay_is_named_after_a_while_and_goes_on_when_it_is_continued() -> Result<()> {
    let home = Home::new()?;
    let relay = home.start(Addresses::any(), &[])?;
    relay.process().signal(Signal::STOP)?;
    let take_over = home.flags(&["--take-over"]);
    let ended = RelayProgram::ends(&[], relay.addresses, &take_over)?;
    ensure!(ended.status.code() == Some(1), "{}", ended.quote);
    let remedy = format!("kill -CONT {}", relay.process().id());
    ensure!(ended.stderr.contains(&remedy), "{}", ended.quote);
    relay.process().signal(Signal::CONT)?;
    relay.logged("not taken over")?;
    bind_name(&relay, "after").await?;
    let new = home.start(relay.addresses, &["--take-over"])?;
    ensure!(relay.ended()?.status.code() == Some(0));
    ensure!(shown(&new, "after").await?["bound"].is_object());
    Ok(())
}

/// The deciding message arrives, or the other relay gives up, while this relay is halted by SIGSTOP.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_was_halted_at_the_last_step_does_what_the_other_one_decided() -> Result<()> {
    let home = Home::new()?;
    let relay = home.start(Addresses::any(), &[])?;
    for serves in [false, true] {
        let other = stranger(&home.socket())?;
        say(&other, ASK)?;
        let _sockets = receive_sockets(&other)?;
        say(&other, BOUND)?;
        hear_until(&other, "released")?;
        relay.process().signal(Signal::STOP)?;
        if serves {
            say(&other, SERVING)?;
        }
        drop(other);
        relay.process().signal(Signal::CONT)?;
        if !serves {
            relay.logged("not taken over")?;
            bind_name(&relay, "kept").await?;
            ensure!(holder(&home)? == relay.process().id());
        }
    }
    let ended = relay.ended()?;
    ensure!(ended.status.code() == Some(0), "{}", ended.quote);
    ensure!(ended.stdout.contains("handing_over"), "{}", ended.quote);
    ensure!(holder(&home).is_err());
    Ok(())
}

/// The second relay serves only briefly, while the caller's agent is still reconnecting.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_for_its_agent_outlasts_the_next_take_over() -> Result<()> {
    let home = Home::new()?;
    let target = Target::http_requests(|mut http, _| async {
        http.respond("200 OK", "", b"here").await?;
        Ok(http)
    })
    .await?;
    let flags = ["--shards", "2", "--take-over"];
    let mut relay = home.start(Addresses::any(), &flags)?;
    let agent = TestAgent::of(&target).named("maya");
    let _agent = agent.start_at(&relay.agent_url()).await?;
    for _ in 0..3 {
        let second = home.start(relay.addresses, &flags)?;
        let mut caller = second.http().await?;
        caller.get("/w/maya/").await?;
        let third = home.start(relay.addresses, &flags)?;
        let (head, body) = caller.answer().await?;
        let body = String::from_utf8_lossy(&body.bytes);
        ensure!(head.status() == 200, "{head:?} {body}");
        drop(caller);
        for old in [relay, second] {
            ensure!(old.ended()?.status.code() == Some(0));
        }
        relay = third;
    }
    Ok(())
}

/// SIGUSR2 and SIGTERM may follow each other at any distance.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_to_start_another_and_to_stop_leaves_its_place_to_that_one() -> Result<()> {
    for pause in [0, 30, 100] {
        let home = Home::new()?;
        let relay = home.start(Addresses::any(), &[])?;
        let target = Target::echo().await?;
        let agent = TestAgent::of(&target).named("maya");
        let mut agent = agent.start_at(&relay.agent_url()).await?;
        relay.process().signal(Signal::USR2)?;
        relay.process().signal(Signal::USR2)?;
        relay.logged("starts another relay")?;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        relay.ask_to_stop()?;
        ensure!(relay.process().exit_code(SOON)? == 0);
        ensure!(relay.log_count("starts another relay") == 1);
        // The new relay writes to the same output, so only its other effects are checked.
        agent.registered().await?;
        ensure!(holder(&home)? != relay.process().id());
        let mut caller = relay.raw("maya").await?;
        echo_round_trip(&mut caller, b"by the new one").await?;
    }
    Ok(())
}

/// Both signals are pending when the relay continues, and may be delivered in any order.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_hears_of_start_another_and_stop_at_once_starts_the_other() -> Result<()> {
    for _ in 0..4 {
        let home = Home::new()?;
        let relay = home.start(Addresses::any(), &[])?;
        for signal in [Signal::STOP, Signal::TERM, Signal::USR2, Signal::CONT] {
            relay.process().signal(signal)?;
        }
        ensure!(relay.process().exit_code(SOON)? == 0);
        ensure!(relay.log_count("starts another relay") == 1);
        // The old relay may end a moment before the new one notes that the folder is its own, and then accepts.
        relay.metrics().await?;
        ensure!(holder(&home)? != relay.process().id());
    }
    Ok(())
}

/// Socket of a simulated running relay, to which the relay that takes over connects.
fn entrance(home: &Home) -> Result<std::os::fd::OwnedFd> {
    fs::create_dir_all(home.file(""))?;
    mode(&home.file(""), 0o700)?;
    let _no_earlier_one = fs::remove_file(home.socket());
    let flags = SocketFlags::CLOEXEC;
    let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    bind(&fd, &SocketAddrUnix::new(home.socket())?)?;
    listen(&fd, 4)?;
    Ok(fd)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_goes_on_alone_when_the_one_that_it_takes_over_from_dies_at_any_step() -> Result<()>
{
    for steps in 0..4 {
        let home = Home::new()?;
        let entrance = entrance(&home)?;
        let flags = home.flags(&["--take-over"]);
        let new = RelayProgram::spawn(&[], Addresses::any(), &flags)?;
        let old = accept(&entrance)?;
        if steps > 0 {
            hear_until(&old, "ask")?;
        }
        if steps > 1 {
            say(&old, r#"{"say":"sent","sockets":0}"#)?;
        }
        if steps > 2 {
            hear_until(&old, "bound")?;
        }
        drop((old, entrance));
        let new = RelayProgram::ready(new)?;
        ensure!(holder(&home)? == new.process().id());
        new.metrics().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_stopped_while_it_starts_leaves_the_other_one_its_place() -> Result<()> {
    let home = Home::new()?;
    let entrance = entrance(&home)?;
    let new = RelayProgram::spawn(&[], Addresses::any(), &home.flags(&["--take-over"]))?;
    let old = accept(&entrance)?;
    hear_until(&old, "ask")?;
    say(&old, r#"{"say":"sent","sockets":0}"#)?;
    hear_until(&old, "bound")?;
    new.signal(Signal::TERM)?;
    let ended = new.ended(SOON)?;
    ensure!(ended.status.code() == Some(0), "{}", ended.quote);
    ensure!(ended.stdout.contains("\"stopped\""), "{}", ended.quote);
    ensure!(
        hear(&old)?.is_empty(),
        "the new relay sent a message after its stop"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_decided_holds_after_a_take_over_and_after_a_restart() -> Result<()> {
    let home = Home::new()?;
    let mut relay = home.start(Addresses::any(), &["--offline-grace", "0s"])?;
    let target = Target::echo().await?;
    let agent = |name: &str| TestAgent::of(&target).named(name);
    let _open = agent("maya").start_at(&relay.agent_url()).await?;
    let keys = tempfile::TempDir::new()?;
    let eve = || agent("eve").state_dir(keys.path());
    let first = eve().start_at(&relay.agent_url()).await?;
    let (status, _) = relay.order("/tunnels/maya/pause", &json!({})).await?;
    ensure!(status == 200);
    let key = shown(&relay, "eve").await?["bound"]["agent"].clone();
    let (status, revoked) = relay.order("/revoke", &json!({ "key": key })).await?;
    ensure!(status == 200 && revoked["links_ended"] == 1, "{revoked}");
    first.kill()?;
    for takes_over in [true, false] {
        let addresses = relay.addresses;
        if takes_over {
            let new = home.start(addresses, &["--offline-grace", "0s", "--take-over"])?;
            relay.ended()?;
            relay = new;
        } else {
            relay.ask_to_stop()?;
            relay.ended()?;
            relay = home.start(addresses, &["--offline-grace", "0s"])?;
        }
        ensure!(shown(&relay, "maya").await?["paused"] == true);
        let mut caller = relay.http().await?;
        caller.get("/w/maya/").await?;
        let (head, body) = caller.answer().await?;
        let body: Value = serde_json::from_slice(&body.bytes)?;
        ensure!(
            head.status() == 503 && body["error"] == "tunnel_paused",
            "{body}"
        );
        let again = eve().spawn_at(&relay.agent_url())?;
        let refused = |metrics: &Metrics| {
            let of = |family| metrics.labelled(family, "revoked");
            of("relay_registration_refused_total") + of("relay_link_refused_total") > 0
        };
        relay.until("eve is refused", refused).await?;
        drop(again);
    }
    let (status, _) = relay.order("/tunnels/maya/resume", &json!({})).await?;
    ensure!(status == 200);
    let new = home.start(relay.addresses, &["--take-over"])?;
    ensure!(shown(&new, "maya").await?["paused"] == false);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_taken_that_the_relay_which_takes_over_would_not_hear_of() -> Result<()> {
    let home = Home::new()?;
    let relay = home.start(Addresses::any(), &[])?;
    let other = stranger(&home.socket())?;
    say(&other, ASK)?;
    let _sockets = receive_sockets(&other)?;
    say(&other, BOUND)?;
    hear_until(&other, "released")?;
    for path in ["/tunnels/maya/pause", "/tunnels/maya/forget", "/revoke"] {
        let (status, answer) = relay.order(path, &json!({ "sub": "eve" })).await?;
        ensure!(status == 503 && answer["error"] == "draining", "{answer}");
    }
    drop(other);
    soon("the relay takes orders again", async {
        while relay.order("/tunnels/maya/pause", &json!({})).await?.0 != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::Ok(())
    })
    .await?
}

/// Relay after the new relay was killed: the old relay or, if that had handed over already, a newly started one.
async fn survivor(home: &Home, old: RelayProgram) -> Result<RelayProgram> {
    let has_handed_over = || old.process().has_printed("handing_over");
    // The old relay has accepted a take-over request and has not yet noticed its failure.
    let is_asked = || old.log_count("asks to take over") > old.log_count("not taken over");
    let serves = soon("the old relay serves, or has handed over", async {
        loop {
            if has_handed_over() {
                return false;
            }
            if shown(&old, "kept").await.is_ok() && !is_asked() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    if serves.await? {
        return Ok(old);
    }
    let addresses = old.addresses;
    ensure!(old.ended()?.status.code() == Some(0));
    home.start(addresses, &[])
}

/// Set `SEED=` to replay a run.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_a_take_over_leaves_one_relay_or_none_and_every_name() -> Result<()>
{
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let home = Home::new()?;
    let mut relay = home.start(Addresses::any(), &[])?;
    bind_name(&relay, "kept").await?;
    let take_over = home.flags(&["--take-over"]);
    let began = Instant::now();
    let new = home.start(relay.addresses, &["--take-over"])?;
    let usual = u64::try_from(began.elapsed().as_micros())?;
    ensure!(relay.ended()?.status.code() == Some(0));
    relay = new;
    let deadline = Instant::now() + Duration::from_secs(15);
    let mut rounds = 0;
    while rounds < 40 && Instant::now() < deadline {
        let new = RelayProgram::spawn(&[], relay.addresses, &take_over)?;
        tokio::time::sleep(Duration::from_micros(random.u64(0..usual * 5 / 4))).await;
        if random.bool() {
            drop(relay);
            // The other relay has received what it needs, or finds that no relay is running.
            relay = RelayProgram::ready(new)
                .with_context(|| format!("round {rounds}: the old relay was killed"))?;
        } else {
            drop(new);
            relay = survivor(&home, relay)
                .await
                .with_context(|| format!("round {rounds}: the new relay was killed"))?;
        }
        ensure!(shown(&relay, "kept").await?["bound"].is_object());
        ensure!(holder(&home)? == relay.process().id());
        rounds += 1;
    }
    if rounds == 0 {
        bail!("no round in {:?}", began.elapsed());
    }
    Ok(())
}
