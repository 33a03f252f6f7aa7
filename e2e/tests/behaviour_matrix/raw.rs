//! Raw callers: what they send and receive on each transport.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::SockRef;
use tieline_e2e::behaviour::{Digest, LONG_BYTES, Noise, QuicCaller, noise, read_to_close, soon};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Front;
use super::streams::{Messages, Stream};
use super::targets::{ANSWER, BEFORE, BEFORE_BYTES, Targets};

/// Seed of what callers send.
const REQUEST: u64 = 1;

/// What carries a raw caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RawCaller {
    Tcp,
    Tls,
    Ws,
    Wss,
    Quic,
}

/// A session of a raw caller. Dropping it cancels it.
struct Session {
    stream: Stream,
    /// The connection of a stream over QUIC.
    _connection: Option<QuicCaller>,
}

impl RawCaller {
    pub(crate) const ALL: [Self; 5] = [Self::Tcp, Self::Tls, Self::Ws, Self::Wss, Self::Quic];

    /// Whether the caller can end its direction and still hear the answer.
    const fn half_closes(self) -> bool {
        !matches!(self, Self::Ws | Self::Wss)
    }

    /// Opens a session, and sends its first bytes.
    async fn open(self, front: &Front, tunnel: &str, first: &[u8]) -> Result<Session> {
        let (relay, certificate) = (&front.relay, &front.certificate);
        let it = relay.relay();
        let (tcp, http) = (it.tcp_addresses(), it.http_addresses());
        let mut connection = None;
        let mut stream: Stream = match self {
            Self::Tcp => Box::new(relay.raw(tunnel).await?),
            Self::Tls => Box::new(certificate.raw(tcp[1], tunnel).await?),
            Self::Ws => {
                let plain = Box::new(TcpStream::connect(http[0]).await?);
                Box::new(Messages::open(plain, http[0], tunnel).await?)
            }
            Self::Wss => {
                let tls = Box::new(certificate.connect(http[1], Some("http/1.1")).await?);
                Box::new(Messages::open(tls, http[1], tunnel).await?)
            }
            Self::Quic => {
                let caller = connection.insert(relay.quic_caller(certificate).await?);
                Box::new(caller.raw(tunnel).await?)
            }
        };
        stream.write_all(first).await?;
        stream.flush().await?;
        Ok(Session {
            stream,
            _connection: connection,
        })
    }

    /// Opens a session as [`RawCaller::open`] does; dropping it must not look like an end in order.
    async fn open_to_cancel(self, front: &Front, tunnel: &str, first: &[u8]) -> Result<Session> {
        if self != Self::Tcp {
            return self.open(front, tunnel, first).await;
        }
        let mut stream = front.relay.raw(tunnel).await?;
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        stream.write_all(first).await?;
        Ok(Session {
            stream: Box::new(stream),
            _connection: None,
        })
    }
}

/// Sends `len` bytes of noise.
async fn send(stream: &mut (impl AsyncWrite + Unpin), len: usize) -> Result<()> {
    let mut noise = Noise::new(REQUEST, len);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match noise.fill(&mut buffer) {
            0 => return Ok(stream.flush().await?),
            count => stream.write_all(&buffer[..count]).await?,
        }
    }
}

/// All that raw callers of one kind do over one link.
pub(crate) async fn cell(
    front: &Front,
    caller: RawCaller,
    tunnel: &str,
    targets: &mut Targets,
    len: usize,
) -> Result<()> {
    echo(caller.open(front, tunnel, b"e").await?, len)
        .await
        .context("the echo")?;
    half_close(front, caller, tunnel, targets)
        .await
        .context("the half-close")?;
    reset(caller.open(front, tunnel, b"r").await?)
        .await
        .context("the target's reset")?;
    slow(front, caller, tunnel)
        .await
        .context("the slow reader")?;
    cancel(caller.open_to_cancel(front, tunnel, b"cx").await?, targets)
        .await
        .context("the cancel")
}

async fn echo(session: Session, len: usize) -> Result<()> {
    let (mut reads, mut writes) = tokio::io::split(session.stream);
    let mut echoed = AsyncReadExt::take(&mut reads, len as u64);
    let reading = async {
        let (heard, end) = read_to_close(&mut echoed).await;
        end.with_context(|| format!("after {heard:?}"))?;
        anyhow::Ok(heard)
    };
    let ((), heard) = tokio::try_join!(send(&mut writes, len), reading)?;
    ensure!(heard == Digest::of_noise(REQUEST, len), "{heard:?}");
    Ok(())
}

async fn half_close(
    front: &Front,
    caller: RawCaller,
    tunnel: &str,
    targets: &mut Targets,
) -> Result<()> {
    let mut session = caller.open(front, tunnel, b"h").await?;
    send(&mut session.stream, LONG_BYTES).await?;
    session.stream.shutdown().await?;
    let ended = soon("the caller's end", targets.ended.recv()).await?;
    let ended = ended.context("the target is gone")?;
    ensure!(!ended.was_reset, "the target saw a reset");
    let sent = Digest::of_noise(REQUEST, LONG_BYTES);
    ensure!(ended.heard == sent, "the target got {:?}", ended.heard);
    if caller.half_closes() {
        let (heard, end) = soon("the answer", read_to_close(&mut session.stream)).await?;
        end?;
        ensure!(heard == Digest::of_noise(ANSWER, LONG_BYTES), "{heard:?}");
    }
    Ok(())
}

async fn reset(mut session: Session) -> Result<()> {
    let mut heard = vec![0; BEFORE_BYTES];
    soon("the bytes before", session.stream.read_exact(&mut heard)).await??;
    ensure!(heard == noise(BEFORE, BEFORE_BYTES), "other bytes came");
    session.stream.write_all(b"x").await?;
    session.stream.flush().await?;
    let (rest, end) = soon("the end", read_to_close(&mut session.stream)).await?;
    ensure!(rest.is_empty(), "{rest:?}");
    ensure!(end.is_err(), "the answer looks complete");
    Ok(())
}

async fn slow(front: &Front, caller: RawCaller, tunnel: &str) -> Result<()> {
    let before = front.bytes_to_callers().await?;
    let mut session = caller.open(front, tunnel, b"l").await?;
    front.bytes_wait(before).await?;
    let mut heard = Vec::new();
    let mut piece = vec![0; 50_000];
    for size in [1, 17, 50_000, 3].into_iter().cycle() {
        let count = soon("more", session.stream.read(&mut piece[..size])).await??;
        if count == 0 {
            break;
        }
        heard.extend_from_slice(&piece[..count]);
    }
    let heard = Digest::of(&heard);
    ensure!(heard == Digest::of_noise(ANSWER, LONG_BYTES), "{heard:?}");
    Ok(())
}

async fn cancel(mut session: Session, targets: &mut Targets) -> Result<()> {
    soon("an echo", session.stream.read_exact(&mut [0])).await??;
    drop(session);
    let ended = soon("the target's end", targets.ended.recv()).await?;
    let ended = ended.context("the target is gone")?;
    ensure!(ended.was_reset, "the request looks complete to the target");
    Ok(())
}
