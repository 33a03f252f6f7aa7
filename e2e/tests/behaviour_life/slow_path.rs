//! A path between agent and relay that works, and is so slow that answers to pings wait behind data for many seconds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::SockRef;
use tieline_e2e::behaviour::{Digest, Target, TestAgent, TestRelay, noise, read_to_close, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

/// Bytes a second that the slow path passes in each direction.
const RATE: u64 = 24 * 1024;

/// Time on the slow path: three times what a link has to answer a ping.
const SLOW: Duration = Duration::from_secs(12);

/// Bytes of a transfer: far more than the buffers beside the link hold.
const TOTAL: usize = 32 * 1024 * 1024;

const SEED: u64 = 5;

/// Time for the transfer as a whole.
const TRANSFER_MAX: Duration = Duration::from_secs(90);

/// A TCP forwarder with small receive buffers, so that bytes which it has not passed on wait with their sender.
struct SlowPath {
    address: String,
    made: Arc<AtomicUsize>,
    /// Bytes a second in each direction; 0 means without a limit.
    rate: Arc<AtomicU64>,
    server: JoinHandle<()>,
}

impl SlowPath {
    async fn start(relay: &TestRelay) -> Result<Self> {
        let relay: SocketAddr = relay.agent_url().trim_start_matches("tcp://").parse()?;
        let socket = small()?;
        socket.bind("127.0.0.1:0".parse()?)?;
        let listener = socket.listen(16)?;
        let address = format!("tcp://{}", listener.local_addr()?);
        let (made, rate) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
        let (count, pace) = (Arc::clone(&made), Arc::clone(&rate));
        let server = tokio::spawn(async move {
            while let Ok((agent, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let Ok(socket) = small() else { return };
                let Ok(relay) = socket.connect(relay).await else {
                    continue;
                };
                let (from_agent, to_agent) = agent.into_split();
                let (from_relay, to_relay) = relay.into_split();
                tokio::spawn(carry(from_relay, to_agent, Arc::clone(&pace)));
                tokio::spawn(carry(from_agent, to_relay, Arc::clone(&pace)));
            }
        });
        Ok(Self {
            address,
            made,
            rate,
            server,
        })
    }
}

impl Drop for SlowPath {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A socket that takes little at a time, in segments of a real network: those of the loopback are larger than the buffer.
fn small() -> Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(32 * 1024)?;
    SockRef::from(&socket).set_tcp_mss(1400)?;
    Ok(socket)
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, rate: Arc<AtomicU64>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let rate = rate.load(Ordering::SeqCst);
        let most = if rate > 0 { 1024 } else { buffer.len() };
        let count = from.read(&mut buffer[..most]).await.unwrap_or(0);
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        if let Some(micros) = (count as u64 * 1_000_000).checked_div(rate) {
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
    }
}

/// Sends all bytes and the end; tells when half of them are on their way.
async fn send(stream: &mut TcpStream, half: &Notify) -> Result<()> {
    let bytes = noise(SEED, TOTAL);
    let (first, rest) = bytes.split_at(TOTAL / 2);
    stream.write_all(first).await?;
    half.notify_one();
    stream.write_all(rest).await?;
    Ok(stream.shutdown().await?)
}

/// Makes the path slow from half of the transfer on, and fast again after a while; the link must be the first one still.
async fn slow_down(path: &SlowPath, half: &Notify) -> Result<()> {
    within(TRANSFER_MAX, "half of the transfer", half.notified()).await?;
    path.rate.store(RATE, Ordering::SeqCst);
    tokio::time::sleep(SLOW).await;
    path.rate.store(0, Ordering::SeqCst);
    ensure!(path.made.load(Ordering::SeqCst) == 1, "a link was given up");
    Ok(())
}

/// A relay without lanes, so that the transfer and the pings share the link.
fn relay() -> Result<TestRelay> {
    TestRelay::with()
        .shards(2)
        .config(|config| config.bulk_run_bytes = 0)
        .start()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_over_a_slow_path_keeps_its_link() -> Result<()> {
    let relay = relay()?;
    let path = SlowPath::start(&relay).await?;
    let half = Arc::new(Notify::new());
    let tell = Arc::clone(&half);
    let target = Target::tcp(move |mut stream| {
        let tell = Arc::clone(&tell);
        async move { send(&mut stream, &tell).await }
    })
    .await?;
    let agent = TestAgent::of(&target).start_at(&path.address).await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    let reading = tokio::spawn(async move { read_to_close(&mut caller).await });
    slow_down(&path, &half).await?;
    let (digest, end) = within(TRANSFER_MAX, "the rest", reading).await??;
    ensure!(
        end.is_ok() && digest == Digest::of_noise(SEED, TOTAL),
        "{end:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_over_a_slow_path_keeps_its_link() -> Result<()> {
    let relay = relay()?;
    let path = SlowPath::start(&relay).await?;
    let half = Arc::new(Notify::new());
    let (tell, mut digests) = mpsc::channel(1);
    let target = Target::tcp(move |mut stream| {
        let tell = tell.clone();
        async move {
            tell.send(read_to_close(&mut stream).await).await?;
            Ok(())
        }
    })
    .await?;
    let agent = TestAgent::of(&target).start_at(&path.address).await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    let tell = Arc::clone(&half);
    let sending = tokio::spawn(async move {
        let sent = send(&mut caller, &tell).await;
        (sent, caller)
    });
    slow_down(&path, &half).await?;
    let received = within(TRANSFER_MAX, "the rest", digests.recv()).await?;
    let (digest, end) = received.context("no target")?;
    ensure!(
        end.is_ok() && digest == Digest::of_noise(SEED, TOTAL),
        "{end:?}"
    );
    sending.await?.0
}
