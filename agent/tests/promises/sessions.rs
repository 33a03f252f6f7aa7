//! Tests of what happens to a session's bytes.

use std::time::Duration;

use tieline_wire::{Event, SessionEnd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::rig::{Agent, Link, Relay, soon};
use crate::targets::{echo, noise, target};

const MIB: usize = 1024 * 1024;

async fn registered(target: &str) -> (Agent, Relay, Link) {
    let relay = Relay::bind().await;
    let agent = Agent::start(&relay, target);
    let link = relay.accept_registered().await;
    (agent, relay, link)
}

#[tokio::test]
async fn bytes_come_back_from_a_real_target_whole() {
    let (_agent, _relay, mut link) = registered(&echo().await).await;
    let bytes = noise(8 * MIB);
    let id = link.open().await;
    // The relay sends the first bytes before the target is connected.
    let answer = link
        .exchange(id, &bytes, |answer| answer.bytes.len() == 8 * MIB)
        .await;
    assert!(answer.opened);
    assert!(answer.bytes == bytes);
}

#[tokio::test]
async fn half_close_lets_the_answer_finish() {
    let target = target(|mut stream| async move {
        let mut request = Vec::new();
        stream.read_to_end(&mut request).await.unwrap();
        stream.write_all(&noise(MIB)).await.unwrap();
        stream.write_all(&request).await.unwrap();
    })
    .await;
    let (_agent, _relay, mut link) = registered(&target).await;
    let id = link.open().await;
    link.exchange(id, b"the whole request", |_| true).await;
    link.finish(id).await;
    let answer = link.exchange(id, &[], |answer| answer.finished).await;
    assert_eq!(answer.reset, None);
    assert!(answer.bytes[..MIB] == noise(MIB));
    assert_eq!(&answer.bytes[MIB..], b"the whole request");
    assert_eq!(link.mux.session_count(), 0);
}

#[tokio::test]
async fn a_target_that_finishes_first_still_gets_the_rest() {
    let (got, mut collected) = mpsc::channel(16);
    let target = target(move |mut stream| {
        let got = got.clone();
        async move {
            stream.write_all(b"all I have to say").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            got.try_send(rest).unwrap();
        }
    })
    .await;
    let (_agent, _relay, mut link) = registered(&target).await;
    let id = link.open().await;
    let answer = link.exchange(id, &[], |answer| answer.finished).await;
    assert_eq!(answer.bytes, b"all I have to say");
    let bytes = noise(MIB);
    link.exchange(id, &bytes, |_| true).await;
    link.finish(id).await;
    assert!(soon(collected.recv()).await.unwrap() == bytes);
}

#[tokio::test]
async fn a_target_that_refuses_ends_the_session_and_not_the_link() {
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let (_agent, _relay, mut link) = registered(&nobody).await;
    for _ in 0..3 {
        let id = link.open().await;
        let answer = link.exchange(id, b"hello?", |_| false).await;
        assert_eq!(answer.reset, Some(SessionEnd::TargetRefused));
        assert!(!answer.opened);
    }
}

#[tokio::test]
async fn a_target_that_resets_is_told_after_the_bytes_it_sent() {
    let target = target(|mut stream| async move {
        let mut byte = [0];
        stream.write_all(&noise(10_000)).await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    let (_agent, _relay, mut link) = registered(&target).await;
    let id = link.open().await;
    let mut answer = link
        .exchange(id, &[], |answer| answer.bytes.len() == 10_000)
        .await;
    assert!(answer.bytes == noise(10_000));
    answer = link.exchange(id, b"x", |_| false).await;
    assert_eq!(answer.reset, Some(SessionEnd::TargetReset));
    assert!(!answer.finished);
}

#[tokio::test]
async fn a_relays_reset_reaches_the_target_as_a_reset() {
    let (got, mut collected) = mpsc::channel(16);
    let target = target(move |mut stream| {
        let got = got.clone();
        async move {
            let mut bytes = Vec::new();
            let end = stream.read_to_end(&mut bytes).await;
            got.try_send((bytes, end.map_err(|error| error.kind())))
                .unwrap();
        }
    })
    .await;
    let (_agent, _relay, mut link) = registered(&target).await;
    let id = link.open().await;
    link.exchange(id, b"half a requ", |answer| answer.opened)
        .await;
    link.reset(id, SessionEnd::Cancelled).await;
    // The target must see a reset: an orderly end would make half a request look whole.
    let (bytes, end) = soon(collected.recv()).await.unwrap();
    assert_eq!(bytes, b"half a requ");
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
    assert_eq!(link.mux.session_count(), 0);
}

#[tokio::test]
async fn a_target_that_never_reads_stalls_nobody_and_loses_nothing() {
    let (arrived, mut stalled) = mpsc::channel::<TcpStream>(1);
    let first = std::sync::atomic::AtomicBool::new(true);
    let target = target(move |mut stream| {
        let hold = first.swap(false, std::sync::atomic::Ordering::Relaxed);
        let arrived = arrived.clone();
        async move {
            if hold {
                arrived.try_send(stream).unwrap();
            } else {
                let (mut reads, mut writes) = stream.split();
                let _ = tokio::io::copy(&mut reads, &mut writes).await;
            }
        }
    })
    .await;
    let (_agent, _relay, mut link) = registered(&target).await;
    let slow = link.open().await;
    link.exchange(slow, &[], |answer| answer.opened).await;
    // Send until the target's socket, the agent's backlog and the credit are all used up.
    let bytes = noise(64 * MIB);
    let mut sent = 0;
    let quick = link.open().await;
    link.exchange(quick, &[], |answer| answer.opened).await;
    loop {
        let room = link.mux.send_capacity(slow);
        if room > 0 {
            let piece = bytes::Bytes::copy_from_slice(&bytes[sent..sent + room]);
            link.mux.send(slow, piece, false).unwrap();
            link.flush().await;
            sent += room;
            continue;
        }
        // A round trip on the other session also brings any credit for the slow session.
        let before = link.mux.counters().bytes_received;
        let answer = link
            .exchange(quick, &noise(1_000), |a| a.bytes.len() == 1_000)
            .await;
        assert!(answer.bytes == noise(1_000));
        assert!(link.mux.counters().bytes_received > before);
        if link.mux.send_capacity(slow) == 0 {
            break;
        }
    }
    assert!(sent > 16 * 1024, "{sent}");
    for _ in 0..100 {
        link.exchange(quick, &noise(1_000), |answer| answer.bytes.len() == 1_000)
            .await;
    }
    // Now the target reads, and gets every byte.
    let mut stream = soon(stalled.recv()).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        all
    });
    link.finish(slow).await;
    assert!(soon(reading).await.unwrap() == bytes[..sent]);
}

#[tokio::test]
async fn a_thousand_short_sessions_leave_nothing_behind() {
    let (agent, _relay, mut link) = registered(&echo().await).await;
    for round in 0..1_000_u32 {
        let id = link.open().await;
        let bytes = round.to_le_bytes();
        let answer = link
            .exchange(id, &bytes, |answer| answer.bytes.len() == 4)
            .await;
        assert_eq!(answer.bytes, bytes);
        link.finish(id).await;
        link.exchange(id, &[], |answer| answer.finished).await;
    }
    assert_eq!(link.mux.session_count(), 0);
    soon(async {
        loop {
            let agents = tieline_agent::list_agents(agent.state.path())
                .await
                .unwrap();
            if agents[0].sessions == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_cut_link_resets_its_targets_and_the_next_link_serves_again() {
    let (got, mut collected) = mpsc::channel(16);
    let target = target(move |mut stream| {
        let got = got.clone();
        async move {
            let mut bytes = Vec::new();
            let end = stream.read_to_end(&mut bytes).await;
            got.try_send(end.map_err(|error| error.kind())).unwrap();
        }
    })
    .await;
    let (mut agent, relay, mut link) = registered(&target).await;
    agent.saw_registered().await;
    let before = (link.hello().key, link.hello().instance, link.tunnel());
    let id = link.open().await;
    link.exchange(id, b"x", |answer| answer.opened).await;
    drop(link);
    assert_eq!(
        soon(collected.recv()).await.unwrap(),
        Err(std::io::ErrorKind::ConnectionReset)
    );
    assert_eq!(agent.saw_disconnected().await, "link_lost");
    let mut link = relay.accept_registered().await;
    assert_eq!(
        (link.hello().key, link.hello().instance, link.tunnel()),
        before
    );
    let told: Vec<_> = link.lost.iter().map(|lost| lost.received(id)).collect();
    assert_eq!(told, [Some(1)], "the next link reports what arrived");
    let id = link.open().await;
    link.exchange(id, b"x", |answer| answer.opened).await;
}

#[tokio::test]
async fn many_sessions_at_once_keep_their_bytes_apart() {
    many_sessions().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_sessions_on_an_embedders_threads_keep_their_bytes_apart() {
    many_sessions().await;
}

async fn many_sessions() {
    let (_agent, _relay, mut link) = registered(&echo().await).await;
    let sessions: Vec<_> = {
        let mut sessions = Vec::new();
        for _ in 0..200 {
            sessions.push(link.open().await);
        }
        sessions
    };
    let bytes_of = |id: tieline_wire::SessionId| noise(5_000 + id.0 as usize);
    for id in &sessions {
        link.mux.send(*id, bytes_of(*id).into(), true).unwrap();
    }
    link.flush().await;
    let mut answers = std::collections::HashMap::<_, Vec<u8>>::new();
    let total: usize = sessions.iter().map(|id| bytes_of(*id).len()).sum();
    let mut received = 0;
    while received < total {
        if let Event::Data {
            session, payload, ..
        } = link.event().await
        {
            received += payload.len();
            link.mux.consumed(session, payload.len());
            answers
                .entry(session)
                .or_default()
                .extend_from_slice(&payload);
        }
    }
    for id in sessions {
        assert!(answers[&id] == bytes_of(id));
    }
}
