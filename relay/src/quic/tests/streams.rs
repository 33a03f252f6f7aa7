//! Streams of callers, read and written like sockets.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bytes::BytesMut;
use quinn_proto::{ReadError, StreamId};
use tieline_transport::Received;
use tieline_wire::SessionEnd;

use super::raw::{DATA, varint};
use super::*;
use crate::io::turn;

/// Budget of a shard with room for the windows of many streams.
const SHARD_BUDGET_BYTES: u64 = 1024 * 1024 * 1024;

/// Waits until a read may return something.
async fn readable(stream: &QuicStream) {
    poll_fn(|cx| stream.poll_readable(cx)).await;
}

/// Waits until a write may take something.
async fn writable(stream: &QuicStream) {
    poll_fn(|cx| stream.poll_writable(cx)).await;
}

/// Accepts a client's streams; the task that does also tells them of events.
pub(super) fn serve(
    host: &Rc<TestHost>,
    connection: Rc<Connection>,
    act: impl Fn(QuicStream) + 'static,
) {
    serve_with(host, connection, SHARD_BUDGET_BYTES, act);
}

/// Like [`serve`], on a shard with this budget.
fn serve_with(
    host: &Rc<TestHost>,
    connection: Rc<Connection>,
    shard_budget_bytes: u64,
    act: impl Fn(QuicStream) + 'static,
) {
    let windows = Windows::new(shard_budget_bytes);
    host.spawn(Box::pin(async move {
        let streams = Streams::new(connection, 4, windows);
        while let Some(stream) = streams.next().await {
            act(stream);
        }
    }));
}

/// Sends back what comes, and ends the direction with the client's end.
pub(super) async fn echo_back(stream: QuicStream) {
    let mut waiting = BytesMut::new();
    loop {
        readable(&stream).await;
        match stream.recv(&mut waiting, 10_000).unwrap() {
            Received::End => break,
            Received::Bytes(_) | Received::Nothing => {}
        }
        while !waiting.is_empty() {
            writable(&stream).await;
            let taken = stream.send(&waiting).unwrap();
            drop(waiting.split_to(taken));
        }
    }
    stream.finish();
}

#[test]
fn a_stream_brings_all_bytes_and_ends_in_each_direction() {
    for driver in drivers() {
        let rig = Rig::new();
        run(driver, async {
            let (host, bound) = rig.host();
            // More than the window that a client has before its first session.
            let payload: Vec<u8> = (0..700_000_u32).map(|it| it.to_le_bytes()[1]).collect();
            let sent = payload.clone();
            let client = rig.client(bound, "tieline", move |mut client| {
                client.shake().unwrap();
                (client.exchange(&sent), client.exchange(b"short"))
            });
            let tasks = Rc::clone(&host);
            serve(&host, host.next().await, move |stream| {
                stream.widen();
                tasks.spawn(Box::pin(echo_back(stream)));
            });
            let (long, short) = joined(client).await;
            assert!(long == payload);
            assert_eq!(short, b"short");
            host.kill().await;
        })
        .unwrap();
    }
}

#[test]
fn without_room_a_stream_brings_all_bytes_with_a_small_window() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let payload: Vec<u8> = (0..700_000_u32).map(|it| it.to_le_bytes()[1]).collect();
        let sent = payload.clone();
        let client = rig.client(bound, "tieline", move |mut client| {
            client.shake().unwrap();
            client.exchange(&sent)
        });
        let tasks = Rc::clone(&host);
        serve_with(&host, host.next().await, 0, move |stream| {
            stream.widen();
            tasks.spawn(Box::pin(echo_back(stream)));
        });
        assert!(joined(client).await == payload);
        assert_eq!(rig.count("relay_quic_windows_short_total "), 1);
        host.kill().await;
    })
    .unwrap();
}

/// How the client's stream ends, on which it sends `payload`.
fn reset_code(client: &mut Client, payload: &[u8]) -> (Vec<u8>, VarInt) {
    let (mut stream, mut heard, mut code) = (None::<StreamId>, Vec::new(), None);
    client
        .until(|connection| {
            let id = *stream.get_or_insert_with(|| {
                let id = connection.streams().open(Dir::Bi).unwrap();
                connection.send_stream(id).write(payload).unwrap();
                id
            });
            let mut it = connection.recv_stream(id);
            let mut chunks = it.read(true).unwrap();
            loop {
                match chunks.next(usize::MAX) {
                    Ok(Some(chunk)) => heard.extend_from_slice(&chunk.bytes),
                    Ok(None) => panic!("the stream ended in order"),
                    Err(ReadError::Blocked) => return false,
                    Err(ReadError::Reset(it)) => {
                        code = Some(it);
                        return true;
                    }
                }
            }
        })
        .unwrap();
    (heard, code.unwrap())
}

#[test]
fn a_stream_that_is_dropped_is_reset_with_its_reason() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let client = rig.client(bound, "tieline", |mut client| {
            client.shake().unwrap();
            [b"a", b"b"].map(|it| reset_code(&mut client, it).1)
        });
        serve(&host, host.next().await, |stream| {
            // The first one has a reason, the second one is only dropped.
            let mut first = BytesMut::new();
            let received = stream.recv(&mut first, 10).unwrap();
            assert_eq!(received, Received::Bytes(1));
            if &first[..] == b"a" {
                stream.set_code(72);
            }
        });
        let default = VarInt::from(SessionEnd::ShuttingDown.code());
        assert_eq!(joined(client).await, [VarInt::from_u32(72), default]);
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn a_reset_by_the_client_is_noticed_read_or_not() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let (noticed, is_noticed) = sync_channel(1);
        let client = rig.client(bound, "tieline", move |mut client| {
            client.shake().unwrap();
            let (mut opened, mut is_acted) = (Vec::new(), false);
            let until = client.until(|connection| {
                // The relay allows a second stream only once it has accepted the connection.
                while opened.len() < 2
                    && let Some(id) = connection.streams().open(Dir::Bi)
                {
                    opened.push(id);
                }
                if let [one, two] = opened[..]
                    && !std::mem::replace(&mut is_acted, true)
                {
                    // A reset, and the wish for no more bytes alone.
                    let code = VarInt::from_u32(70);
                    connection.send_stream(one).reset(code).unwrap();
                    connection.send_stream(two).write(b"x").unwrap();
                    connection.recv_stream(two).stop(code).unwrap();
                }
                is_noticed.try_recv().is_ok()
            });
            until.unwrap();
        });
        let streams = Streams::new(host.next().await, 4, Windows::new(SHARD_BUDGET_BYTES));
        let (one, two) = (streams.next().await.unwrap(), streams.next().await.unwrap());
        host.spawn(Box::pin(
            async move { while streams.next().await.is_some() {} },
        ));
        let looking = async {
            while !one.is_broken() || !two.is_broken() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(20), looking).await.unwrap();
        assert!(one.recv(&mut BytesMut::new(), 10).is_err());
        assert!(two.send(b"y").is_err());
        noticed.send(()).unwrap();
        joined(client).await;
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn a_client_that_grants_no_room_is_waited_for_and_its_end_wakes_the_stream() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let (full, is_full) = sync_channel(1);
        let client = rig.client(bound, "tieline", move |mut client| {
            client.shake().unwrap();
            let mut is_open = false;
            // Never reads, and then goes away with all its streams.
            let until = client.until(|connection| {
                if !std::mem::replace(&mut is_open, true) {
                    let id = connection.streams().open(Dir::Bi).unwrap();
                    connection.send_stream(id).write(b"x").unwrap();
                }
                if is_full.try_recv().is_ok() {
                    connection.close(
                        std::time::Instant::now(),
                        VarInt::from_u32(0),
                        [][..].into(),
                    );
                    return true;
                }
                false
            });
            until.unwrap();
        });
        let streams = Streams::new(host.next().await, 4, Windows::new(SHARD_BUDGET_BYTES));
        let stream = streams.next().await.unwrap();
        host.spawn(Box::pin(
            async move { while streams.next().await.is_some() {} },
        ));
        let (block, mut total) = (vec![7; 100_000], 0);
        // A moment without room, after acknowledgements had time to come.
        let mut room = true;
        while room {
            match stream.send(&block) {
                Ok(count) => total += count,
                Err(error) => panic!("{error}"),
            }
            let pause = Duration::from_millis(300);
            room = timeout(pause, writable(&stream)).await.is_ok();
        }
        assert!((1_000_000..100_000_000).contains(&total), "{total}");
        full.send(()).unwrap();
        timeout(Duration::from_secs(20), writable(&stream))
            .await
            .unwrap();
        assert!(stream.send(&block).is_err());
        joined(client).await;
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn a_client_has_no_more_streams_than_it_may() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let client = rig.client(bound, "tieline", |mut client| {
            client.shake().unwrap();
            let mut count = 0;
            client
                .until(|connection| {
                    while connection.streams().open(Dir::Bi).is_some() {
                        count += 1;
                    }
                    count >= 4
                })
                .unwrap();
            count
        });
        serve(&host, host.next().await, |_| {});
        // None of the streams exists for the relay yet, so none has ended.
        assert_eq!(joined(client).await, 4);
        host.kill().await;
    })
    .unwrap();
}

/// A relay's stream, on which a client that acknowledges nothing has sent a byte.
struct Unheard {
    host: Rc<TestHost>,
    connection: Rc<Connection>,
    stream: QuicStream,
    /// Makes the client acknowledge from then on, until its stream ends.
    acknowledge: SyncSender<()>,
    client: JoinHandle<()>,
}

impl Unheard {
    async fn of(rig: &Rig) -> Self {
        let (host, bound) = rig.host();
        let (acknowledge, may_acknowledge) = sync_channel(1);
        let client = rig.shaken_raw(bound, move |raw| {
            raw.acknowledges = false;
            // The first stream, with one byte and its end.
            raw.say(DATA, &[&[0x0b][..], &varint(0), &[1], b"x"].concat());
            may_acknowledge.recv().unwrap();
            raw.acknowledges = true;
            raw.until("the test's end", |_| may_acknowledge.try_recv().is_ok());
            raw.leave();
        });
        let connection = host.next().await;
        let streams = Streams::new(Rc::clone(&connection), 4, Windows::new(SHARD_BUDGET_BYTES));
        let stream = streams.next().await.unwrap();
        host.spawn(Box::pin(
            async move { while streams.next().await.is_some() {} },
        ));
        Self {
            host,
            connection,
            stream,
            acknowledge,
            client,
        }
    }

    /// Lets the client go.
    async fn end(self) {
        for _ in 0..2 {
            // The client has gone after the first one if it acknowledges already.
            let _ = self.acknowledge.send(());
        }
        joined(self.client).await;
        self.host.kill().await;
    }
}

#[test]
fn a_small_answer_with_its_end_is_one_frame() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let it = Unheard::of(&rig).await;
        assert_eq!(it.stream.send(b"answer").unwrap(), 6);
        it.stream.finish();
        let frames = || it.connection.with(|it, _| it.stats().frame_tx.stream);
        let sent = async {
            while frames() == 0 {
                turn().await;
            }
        };
        timeout(Duration::from_secs(20), sent).await.unwrap();
        assert_eq!(frames(), 1);
        it.end().await;
    })
    .unwrap();
}

#[test]
fn no_more_of_a_piece_is_kept_than_the_client_allows() {
    // The window of the client.
    const WINDOW: usize = 1 << 20;
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let it = Unheard::of(&rig).await;
        // Then only the client limits what is taken.
        it.stream.widen();
        // So that the last piece does not fit.
        let first = it.stream.send(&[7; 10]).unwrap();
        let rest = it.stream.send(&vec![7; 2 * WINDOW]).unwrap();
        assert_eq!(first + rest, WINDOW);
        assert!(it.stream.kept_bytes() <= WINDOW);
        it.end().await;
    })
    .unwrap();
}

/// Whether a future is ready when it is polled once.
async fn is_ready(future: impl Future) -> bool {
    let mut future = pin!(future);
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await
}

#[test]
fn an_answer_is_delivered_once_all_of_it_is_acknowledged() {
    const PATIENCE: Duration = Duration::from_secs(20);
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let it = Unheard::of(&rig).await;
        assert_eq!(it.stream.send(&[7; 5_000]).unwrap(), 5_000);
        // Nothing is awaited that is not finished.
        assert!(is_ready(it.stream.delivered(PATIENCE)).await);
        it.stream.finish();
        assert!(!is_ready(it.stream.delivered(PATIENCE)).await);
        it.acknowledge.send(()).unwrap();
        let delivered = it.stream.delivered(2 * PATIENCE);
        timeout(PATIENCE, delivered).await.unwrap();
        assert!(!it.stream.has_unsent());
        it.end().await;
    })
    .unwrap();
}

#[test]
fn a_client_that_acknowledges_nothing_is_not_waited_for_without_end() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let it = Unheard::of(&rig).await;
        assert_eq!(it.stream.send(&[7; 5_000]).unwrap(), 5_000);
        it.stream.finish();
        let delivered = it.stream.delivered(Duration::from_millis(1));
        timeout(Duration::from_secs(20), delivered).await.unwrap();
        assert!(it.stream.has_unsent());
        it.end().await;
    })
    .unwrap();
}
