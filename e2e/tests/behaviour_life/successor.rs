//! A relay that takes over from a running relay.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, recv, recvmsg, send, socket_with, sockopt,
};
use tempfile::TempDir;
use tieline_e2e::behaviour::{
    Addresses, RelayProgram, SOON, Target, TestAgent, echo_round_trip, read_to_close, soon,
};

pub(super) struct Home {
    pub(super) folder: TempDir,
    path: String,
}

impl Home {
    pub(super) fn new() -> Result<Self> {
        let folder = TempDir::new()?;
        let path = folder.path().join("state");
        let path = path.to_str().context("a path in UTF-8")?.to_owned();
        Ok(Self { folder, path })
    }

    pub(super) fn start(&self, addresses: Addresses, more: &[&str]) -> Result<RelayProgram> {
        RelayProgram::start(&[], addresses, &self.flags(more))
    }

    pub(super) fn flags<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let flags = ["--drain-timeout", "60s", "--state-dir", &self.path];
        [&flags, more].concat()
    }

    /// Path of a file in the state folder.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("state").join(name)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.file("take-over.sock")
    }
}

/// Connects to the take-over socket of a running relay, to send it valid or invalid messages.
pub(super) fn stranger(path: &Path) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    connect(&fd, &SocketAddrUnix::new(path)?)?;
    Ok(fd)
}

pub(super) fn say(fd: &OwnedFd, text: &str) -> Result<()> {
    send(fd, text.as_bytes(), SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Next message; sockets passed with it are closed.
pub(super) fn hear(fd: &OwnedFd) -> Result<String> {
    let mut message = vec![0; 4096];
    let (count, _) = recv(fd, &mut message[..], RecvFlags::empty())?;
    message.truncate(count);
    Ok(String::from_utf8(message)?)
}

pub(super) fn hear_until(fd: &OwnedFd, wanted: &str) -> Result<()> {
    loop {
        let heard = hear(fd)?;
        ensure!(!heard.is_empty(), "the connection ended before {wanted}");
        if heard.contains(wanted) {
            return Ok(());
        }
    }
}

/// Receives the sockets that are passed before the message `sent`.
pub(super) fn receive_sockets(fd: &OwnedFd) -> Result<Vec<OwnedFd>> {
    let mut sockets = Vec::new();
    loop {
        let mut message = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut message)];
        let count = recvmsg(fd, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = part {
                sockets.extend(passed);
            }
        }
        let word = String::from_utf8_lossy(&message[..count]);
        ensure!(
            count > 0,
            "the connection ended before all sockets were sent"
        );
        if word.contains("\"sent\"") {
            return Ok(sockets);
        }
    }
}

/// The number of shards grows in one take-over and shrinks in the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_takes_the_place_of_another_and_sessions_end_where_they_began() -> Result<()> {
    let home = Home::new()?;
    let target = Target::echo().await?;
    let mut old = home.start(Addresses::any(), &["--shards", "2"])?;
    let mut agent = TestAgent::of(&target).start_at(&old.agent_url()).await?;
    for shards in ["3", "1"] {
        let mut caller = old.raw(agent.tunnel()).await?;
        echo_round_trip(&mut caller, b"before").await?;
        let new = home.start(old.addresses, &["--shards", shards, "--take-over"])?;
        old.process()
            .wait_for(SOON, |line| line.contains("handing_over").then_some(()))?;
        agent.registered().await?;
        for _ in 0..6 {
            let mut late = new.raw(agent.tunnel()).await?;
            echo_round_trip(&mut late, b"by the new relay").await?;
        }
        ensure!(!new.tunnels().await?.is_empty());
        echo_round_trip(&mut caller, b"by the old one").await?;
        drop(caller);
        let ended = old.ended()?;
        ensure!(ended.status.code() == Some(0), "{}", ended.quote);
        old = new;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_take_over_and_no_running_relay_is_a_start() -> Result<()> {
    let home = Home::new()?;
    let relay = home.start(Addresses::any(), &["--take-over"])?;
    relay.metrics().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_relay_without_take_over_is_refused_and_the_first_goes_on() -> Result<()> {
    let home = Home::new()?;
    let relay = home.start(Addresses::any(), &[])?;
    let ended = RelayProgram::ends(&[], relay.addresses, &home.flags(&[]))?;
    ensure!(ended.status.code() == Some(1), "{}", ended.quote);
    ensure!(
        ended.stderr.contains("another tieline-relay"),
        "{}",
        ended.quote
    );
    relay.metrics().await?;
    Ok(())
}

/// A relay that disconnects or sends a wrong message at each step of a take-over.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_goes_on_when_the_other_one_fails_before_it_is_ready() -> Result<()> {
    let home = Home::new()?;
    let relay = home.start(Addresses::any(), &["--shards", "2"])?;
    let target = Target::echo().await?;
    let agent = TestAgent::of(&target).start_at(&relay.agent_url()).await?;
    let ask = r#"{"say":"ask","version":2}"#;
    let tries = [
        &[][..],
        &["", "x"],
        &["\0\u{1}garbage"],
        &[r#"{"say":"ask","version":3}"#],
        &[r#"{"say":"serving"}"#],
        &[ask],
        &[ask, "garbage"],
        &[ask, r#"{"say":"serving"}"#],
        &[ask, r#"{"say":"bound"}"#],
        &[ask, r#"{"say":"bound"}"#, "garbage"],
    ];
    for (count, words) in tries.into_iter().enumerate() {
        let other = stranger(&home.socket())?;
        for word in words {
            // The message may fail because the relay has refused the connection already.
            let _ = say(&other, word);
        }
        if *words == [ask, r#"{"say":"bound"}"#] {
            hear_until(&other, "released")?;
        }
        drop(other);
        let mut caller = relay.raw(agent.tunnel()).await?;
        echo_round_trip(&mut caller, b"it goes on").await?;
        soon("the relay gives it up", async {
            while relay.log_count("not taken over") <= count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await?;
    }
    // The relay has its state folder again and can still be taken over.
    let new = home.start(relay.addresses, &["--shards", "2", "--take-over"])?;
    let ended = relay.ended()?;
    ensure!(ended.status.code() == Some(0), "{}", ended.quote);
    new.metrics().await?;
    Ok(())
}

/// The other relay has the sockets and the state folder and then goes silent: the relay waits for it, then exits.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_stopped_while_it_hands_over_shuts_no_socket_of_the_other() -> Result<()> {
    let home = Home::new()?;
    let relay = home.start(Addresses::any(), &["--shards", "2"])?;
    let http = relay.addresses.http;
    let other = stranger(&home.socket())?;
    say(&other, r#"{"say":"ask","version":2}"#)?;
    let sockets = receive_sockets(&other)?;
    // Three ports on two shards, plus the admin port.
    ensure!(sockets.len() == 7, "{} sockets", sockets.len());
    say(&other, r#"{"say":"bound"}"#)?;
    hear_until(&other, "released")?;
    relay.ask_to_stop()?;
    let ended = relay.ended()?;
    ensure!(ended.status.code() == Some(0), "{}", ended.quote);
    for socket in &sockets {
        ensure!(
            sockopt::socket_acceptconn(socket)?,
            "a socket was shut down"
        );
    }
    tokio::net::TcpStream::connect(http).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_relays_that_want_to_take_over_one_is_refused() -> Result<()> {
    let home = Home::new()?;
    let relay = home.start(Addresses::any(), &[])?;
    let first = stranger(&home.socket())?;
    say(&first, r#"{"say":"ask","version":2}"#)?;
    hear_until(&first, "sent")?;
    let ended = RelayProgram::ends(&[], relay.addresses, &home.flags(&["--take-over"]))?;
    ensure!(ended.status.code() == Some(1), "{}", ended.quote);
    ensure!(
        ended.stderr.contains("another relay is about to take over"),
        "{}",
        ended.quote
    );
    relay.metrics().await?;
    Ok(())
}

/// The first relay that asks is killed in the middle; the second one has asked by then, or asks soon after.
#[tokio::test(flavor = "multi_thread")]
async fn a_take_over_that_breaks_off_lets_the_next_relay_take_over() -> Result<()> {
    let home = Home::new()?;
    let relay = home.start(Addresses::any(), &[])?;
    let first = stranger(&home.socket())?;
    say(&first, r#"{"say":"ask","version":2}"#)?;
    hear_until(&first, "sent")?;
    let next = RelayProgram::spawn(&[], relay.addresses, &home.flags(&["--take-over"]))?;
    // Time for the second relay to ask; without it, the test passes as well.
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(first);
    let next = RelayProgram::ready(next)?;
    let ended = relay.ended()?;
    ensure!(ended.status.code() == Some(0), "{}", ended.quote);
    next.metrics().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_keeps_no_relay_from_taking_over() -> Result<()> {
    let home = Home::new()?;
    let relay = home.start(Addresses::any(), &[])?;
    let silent = stranger(&home.socket())?;
    let next = home.start(relay.addresses, &["--take-over"])?;
    let ended = relay.ended()?;
    ensure!(ended.status.code() == Some(0), "{}", ended.quote);
    next.metrics().await?;
    drop(silent);
    Ok(())
}

/// A killed relay leaves its take-over socket behind, which must not prevent the next start.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_was_killed_leaves_a_socket_that_stops_no_start() -> Result<()> {
    let home = Home::new()?;
    let relay = home.start(Addresses::any(), &[])?;
    let addresses = relay.addresses;
    drop(relay);
    ensure!(home.socket().exists());
    let next = home.start(addresses, &["--take-over"])?;
    next.metrics().await?;
    Ok(())
}

/// As with `systemctl reload`: on SIGUSR2, the running relay starts its successor.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_gets_sigusr2_starts_the_one_that_takes_over() -> Result<()> {
    let home = Home::new()?;
    let relay = home.start(Addresses::any(), &["--shards", "2"])?;
    let target = Target::echo().await?;
    let mut agent = TestAgent::of(&target).start_at(&relay.agent_url()).await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    echo_round_trip(&mut caller, b"before").await?;
    relay.process().signal(rustix::process::Signal::USR2)?;
    relay
        .process()
        .wait_for(SOON, |line| line.contains("handing_over").then_some(()))?;
    agent.registered().await?;
    echo_round_trip(&mut caller, b"by the old one").await?;
    let mut late = relay.raw(agent.tunnel()).await?;
    echo_round_trip(&mut late, b"by the new one").await?;
    drop(caller);
    // This kills the old relay's process group, to which the new relay belongs.
    drop(relay);
    let _end = soon("the end", read_to_close(&mut late)).await?;
    Ok(())
}
