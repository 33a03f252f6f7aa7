//! A link over QUIC: sessions, a change of address in the middle of them, and the ways in which the link ends.

use tieline_transport::quic::{STRANGER_WINDOW_BYTES, close_code};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

use super::*;
use crate::error::Error;
use crate::transport::Gauge;
use crate::transport::tests::Server;
use crate::transport::tests::quic_relay::QuicRelay;

/// Bytes of an exchange: many times what is on its way at once.
const MANY: usize = 4_000_000;

/// Largest payload that the relay gives its mux at once.
const PIECE_BYTES: usize = 16 * 1024;

/// A link over QUIC that runs in a task of its own, and what it needs.
struct Running {
    link: Arc<Link>,
    task: JoinHandle<Result<(), Error>>,
    relay: QuicRelay,
    targets: TcpListener,
    _state: tempfile::TempDir,
    _news: mpsc::Receiver<News>,
}

impl Running {
    /// A link that has registered its tunnel.
    async fn start() -> Self {
        Self::start_at(|_| {}).await
    }

    /// A link that has registered its tunnel at a relay that `change` has changed before.
    async fn start_at(change: impl FnOnce(&mut QuicRelay)) -> Self {
        let server = Server::relay().await;
        let mut relay = QuicRelay::of(&server).await;
        change(&mut relay);
        let dialler = relay.dialler(&server);
        let shaking = relay.until("the handshake", |relay| relay.is_connected());
        let (agent, ()) = tokio::join!(dialler.dial(), shaking);
        let agent = agent.unwrap();
        assert_eq!(agent.lane_address().unwrap(), None);
        assert_eq!(agent.fixed_address(), None);
        let targets = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = tempfile::tempdir().unwrap();
        let (start, news) = start(&state, &targets);
        let link = Arc::new(Link::over(&agent));
        let task = tokio::spawn(run(Arc::clone(&link), agent, start));
        let registers = |event: &Event| matches!(event, Event::Register(_));
        let registered = |relay: &mut QuicRelay| relay.take_events().iter().any(registers);
        relay.until("the registration", registered).await;
        Self {
            link,
            task,
            relay,
            targets,
            _state: state,
            _news: news,
        }
    }

    /// Opens a session; returns its id, and the target's end of its connection.
    async fn open(&mut self) -> (SessionId, TcpStream) {
        let open = Open {
            tunnel: tunnel(),
            mode: Mode::Bytes,
        };
        let id = self.relay.mux().open(&open).unwrap();
        let opened = Event::Opened { session: id };
        let is_open = |relay: &mut QuicRelay| relay.take_events().contains(&opened);
        self.relay.until("the session", is_open).await;
        (id, self.targets.accept().await.unwrap().0)
    }

    /// Sends `sent` and its end over a session, and returns what comes back until the target ends its direction. Calls
    /// `each` after each turn with the number of bytes so far.
    async fn exchange(
        &mut self,
        id: SessionId,
        sent: &[u8],
        mut each: impl FnMut(usize),
    ) -> Vec<u8> {
        let (mut rest, mut has_finished) = (sent, false);
        let (mut heard, mut is_over) = (Vec::new(), false);
        let turn = |relay: &mut QuicRelay| {
            for event in relay.take_events() {
                match event {
                    Event::Data { payload, .. } => {
                        heard.extend_from_slice(&payload);
                        relay.mux().consumed(id, payload.len());
                    }
                    Event::Finished { .. } => is_over = true,
                    Event::Reset { reason, .. } => panic!("the session was reset: {reason}"),
                    _ => {}
                }
            }
            let mux = relay.mux();
            loop {
                let room = mux.send_capacity(id).min(rest.len()).min(PIECE_BYTES);
                if room == 0 {
                    break;
                }
                let (piece, later) = rest.split_at(room);
                mux.send(id, Bytes::copy_from_slice(piece), false).unwrap();
                rest = later;
            }
            if rest.is_empty() && !std::mem::replace(&mut has_finished, true) {
                mux.finish(id);
            }
            each(heard.len());
            is_over
        };
        self.relay.until("the exchange", turn).await;
        heard
    }
}

/// Returns what it reads, until its end.
async fn echo(target: TcpStream) {
    let (mut reads, mut writes) = target.into_split();
    tokio::io::copy(&mut reads, &mut writes).await.unwrap();
    writes.shutdown().await.unwrap();
}

fn noise(len: usize) -> Vec<u8> {
    let byte = |at: usize| (at * 7 + at / 251).to_le_bytes()[0];
    (0..len).map(byte).collect()
}

#[tokio::test]
async fn a_session_carries_bytes_both_ways_and_the_link_is_bound_to_its_connection() {
    let mut running = Running::start().await;
    assert!(running.link.is_bound());
    let (id, target) = running.open().await;
    let echoing = tokio::spawn(echo(target));
    let sent = noise(MANY);
    let heard = running.exchange(id, &sent, |_| {}).await;
    assert!(heard == sent, "other bytes came back");
    echoing.await.unwrap();
    let path = running.link.path().unwrap();
    assert!(path.sent > 0 && path.mtu >= 1200, "{path:?}");
    assert_eq!(running.link.rtt(), Some(path.rtt));
}

/// A link that does not yield would stop this test's own thread.
#[test]
fn a_link_reads_on_while_its_control_frames_wait_for_room() {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().unwrap();
        runtime.block_on(control_frames_wait_for_room());
        tell.send(())
    });
    let is_done = told.recv_timeout(Duration::from_secs(60));
    is_done.expect("the link reads on");
}

async fn control_frames_wait_for_room() {
    let mut running = Running::start_at(|relay| relay.is_trusting = false).await;
    let mut targets = Vec::new();
    // Together they may send more than the connection's window takes.
    for _ in 0..12 {
        targets.push(running.open().await.1);
    }
    running.relay.is_deaf = true;
    for mut target in targets {
        tokio::spawn(async move { while target.write_all(&[7; 65_536]).await.is_ok() {} });
    }
    let link = Arc::clone(&running.link);
    let is_full = |_: &mut QuicRelay| {
        let given = link.gauge.get().and_then(Gauge::read).unwrap();
        given.acked + given.waiting > u64::from(STRANGER_WINDOW_BYTES)
    };
    running.relay.until("the full window", is_full).await;
    let open = Open {
        tunnel: tunnel(),
        mode: Mode::Bytes,
    };
    let ids = [(); 2].map(|()| running.relay.mux().open(&open).unwrap());
    let targets = &running.targets;
    let both = async { (targets.accept().await, targets.accept().await) };
    let _targets = tokio::select! {
        accepted = both => accepted,
        () = running.relay.serve() => unreachable!("the relay serves for ever"),
    };
    let link = &running.link;
    let is_held_up = |_: &mut QuicRelay| link.core().mux.wants_transmit();
    running.relay.until("the wait", is_held_up).await;
    running.relay.is_deaf = false;
    let mut left = ids.to_vec();
    let are_open = |relay: &mut QuicRelay| {
        for event in relay.take_events() {
            left.retain(|session| event != Event::Opened { session: *session });
        }
        left.is_empty()
    };
    running.relay.until("the sessions", are_open).await;
}

#[tokio::test]
async fn half_close_lets_the_answer_finish() {
    let mut running = Running::start().await;
    let (id, mut target) = running.open().await;
    let answering = tokio::spawn(async move {
        let mut asked = Vec::new();
        target.read_to_end(&mut asked).await.unwrap();
        target.write_all(&noise(100_000)).await.unwrap();
        asked
    });
    let heard = running.exchange(id, b"a question", |_| {}).await;
    assert!(heard == noise(100_000), "another answer came");
    assert_eq!(answering.await.unwrap(), b"a question");
}

#[tokio::test]
async fn a_reset_of_either_side_reaches_the_other_behind_the_bytes_before_it() {
    let mut running = Running::start().await;
    let (id, mut target) = running.open().await;
    let bytes = Bytes::from(noise(5_000));
    running.relay.mux().send(id, bytes, false).unwrap();
    running.relay.mux().reset(id, SessionEnd::Cancelled);
    let reading = async {
        let mut heard = Vec::new();
        let end = target.read_to_end(&mut heard).await;
        (heard, end.unwrap_err().kind())
    };
    let (heard, end) = tokio::select! {
        read = reading => read,
        () = running.relay.serve() => unreachable!("the relay serves for ever"),
    };
    assert_eq!(heard, noise(5_000));
    assert_eq!(end, std::io::ErrorKind::ConnectionReset);

    let (id, target) = running.open().await;
    target.set_zero_linger().unwrap();
    drop(target);
    let reset = Event::Reset {
        session: id,
        reason: SessionEnd::TargetReset,
    };
    let is_reset = |relay: &mut QuicRelay| relay.take_events().contains(&reset);
    running.relay.until("the reset", is_reset).await;
}

#[tokio::test]
async fn a_session_goes_on_from_a_new_address_without_a_loss() {
    let mut running = Running::start().await;
    let before = running.relay.peer();
    let (id, target) = running.open().await;
    let echoing = tokio::spawn(echo(target));
    let (sent, link, mut moves) = (noise(MANY), Arc::clone(&running.link), 0);
    let moving = |heard: usize| {
        // In the middle of the transfer, and once more.
        if moves < 2 && heard > (moves + 1) * MANY / 4 {
            moves += 1;
            link.network_changed();
        }
    };
    let heard = running.exchange(id, &sent, moving).await;
    assert!(heard == sent, "other bytes came back");
    echoing.await.unwrap();
    assert_eq!(moves, 2);
    let after = running.relay.peer();
    assert_ne!(before.port(), after.port());
    assert!(!running.task.is_finished());
}

#[tokio::test]
async fn a_link_that_is_closed_says_so_before_its_connection_ends() {
    let mut running = Running::start().await;
    let reason = LinkEnd::ShuttingDown;
    running.link.close(Instant::now(), Some(reason));
    let is_lost = |relay: &mut QuicRelay| relay.lost.is_some();
    running.relay.until("the close", is_lost).await;
    let events = running.relay.take_events();
    let says = |event: &Event| matches!(event, Event::GoAway(away) if away.reason == reason);
    assert!(events.iter().any(says), "{events:?}");
    let lost = running.relay.lost.take().unwrap();
    let quinn_proto::ConnectionError::ApplicationClosed(close) = lost else {
        panic!("{lost}");
    };
    assert_eq!(close.error_code, close_code(reason));
    running.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn answers_arrive_in_full_over_a_long_path_although_the_agent_stops() {
    // Time between two turns of the relay: about one round trip.
    const ROUND: Duration = Duration::from_millis(400);
    // Together 288 KB: five round trips of a connection that begins with 12 KB, so two seconds.
    const ANSWERS: usize = 24;
    const ANSWER_BYTES: usize = 12_000;
    let mut running = Running::start().await;
    let mut targets = Vec::new();
    for _ in 0..ANSWERS {
        let (id, target) = running.open().await;
        running.relay.mux().finish(id);
        targets.push(target);
    }
    let asked = async {
        for target in &mut targets {
            target.read_to_end(&mut Vec::new()).await.unwrap();
        }
    };
    tokio::select! {
        () = asked => {}
        () = running.relay.serve() => unreachable!("the relay serves for ever"),
    }
    for mut target in targets {
        target.write_all(&noise(ANSWER_BYTES)).await.unwrap();
    }
    let patience = Duration::from_secs(30);
    let ended = async {
        while running.link.session_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(patience, ended).await.unwrap();
    let reason = LinkEnd::ShuttingDown;
    running.link.close(Instant::now() + patience, Some(reason));
    let (mut heard, mut ends) = (0, 0);
    while running.relay.lost.is_none() {
        tokio::time::sleep(ROUND).await;
        running.relay.turn();
        for event in running.relay.take_events() {
            match event {
                Event::Data { payload, .. } => heard += payload.len(),
                Event::Finished { .. } => ends += 1,
                Event::Reset { reason, .. } => panic!("a session was reset: {reason}"),
                _ => {}
            }
        }
    }
    assert_eq!((heard, ends), (ANSWERS * ANSWER_BYTES, ANSWERS));
    running.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_reason_of_a_relay_that_closes_the_connection_is_the_links() {
    for (reason, is_final) in [(LinkEnd::ShuttingDown, false), (LinkEnd::Superseded, true)] {
        let mut running = Running::start().await;
        running.relay.close(reason);
        let error = running.task.await.unwrap().unwrap_err();
        assert_eq!(error.word(), reason.word());
        assert_eq!(error.is_final(), is_final, "{error}");
    }
}

#[tokio::test]
async fn a_link_whose_task_is_dropped_closes_its_connection() {
    let mut running = Running::start().await;
    running.task.abort();
    let is_lost = |relay: &mut QuicRelay| relay.lost.is_some();
    running.relay.until("the close", is_lost).await;
}

#[tokio::test]
async fn a_relay_that_falls_silent_is_stale() {
    let running = Running::start().await;
    // From here on time passes at once while all tasks wait; nothing reads the relay's socket.
    tokio::time::pause();
    let error = running.task.await.unwrap().unwrap_err();
    assert_eq!(error.word(), LinkEnd::Stale.word(), "{error}");
}
