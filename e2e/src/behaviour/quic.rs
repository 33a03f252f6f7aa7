//! A raw caller over QUIC: a connection and its streams, on the state machine of quinn-proto.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, DatagramEvent, Dir, Endpoint,
    EndpointConfig, Event, ReadError, StreamId, TransportConfig, VarInt, WriteError,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UdpSocket;
use tokio::sync::Notify;

use super::{TestCertificate, TestRelay, soon};

/// Bytes that the relay may have on their way on one stream of a caller: few, so that a caller that does not read is felt.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// A caller's connection. Dropping it closes the connection.
#[derive(Debug)]
pub struct QuicCaller(Arc<Shared>);

/// A stream that the caller opened; reads and writes fail with [`ResetBy`] once the relay has reset it.
#[derive(Debug)]
pub struct QuicCallerStream {
    shared: Arc<Shared>,
    id: StreamId,
}

/// Cause of an error of a stream that the relay has reset: the code of a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetBy(pub u64);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Wakes the task that sends.
    work: Notify,
}

#[derive(Debug)]
struct State {
    endpoint: Endpoint,
    handle: ConnectionHandle,
    connection: Connection,
    /// Tasks that wait for anything to happen.
    wakers: Vec<Waker>,
    lost: Option<ConnectionError>,
}

impl std::fmt::Display for ResetBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "reset with code {}", self.0)
    }
}

impl std::error::Error for ResetBy {}

impl ResetBy {
    /// The code in the error with which a stream ended.
    #[must_use]
    pub fn of(end: &io::Result<()>) -> Option<u64> {
        let cause = end.as_ref().err()?.get_ref()?;
        cause.downcast_ref::<Self>().map(|it| it.0)
    }
}

impl QuicCaller {
    /// Connects to `relay`, and names `protocol` in the handshake.
    ///
    /// # Errors
    /// The handshake fails, with a [`ConnectionError`] as its cause.
    pub async fn connect(
        relay: SocketAddr,
        certificate: &TestCertificate,
        protocol: &str,
    ) -> Result<Self> {
        let tls = QuicClientConfig::try_from(certificate.client(Some(protocol))?)?;
        let mut transport = TransportConfig::default();
        transport.stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES));
        let mut config = ClientConfig::new(Arc::new(tls));
        config.transport_config(Arc::new(transport));
        let endpoint_config = Arc::new(EndpointConfig::default());
        let mut endpoint = Endpoint::new(endpoint_config, None, false, None);
        let connected = endpoint.connect(Instant::now(), config, relay, "localhost");
        let (handle, connection) = connected?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                endpoint,
                handle,
                connection,
                wakers: Vec::new(),
                lost: None,
            }),
            work: Notify::new(),
        });
        let own = match relay {
            SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let socket = UdpSocket::bind((own, 0)).await?;
        tokio::spawn(Arc::clone(&shared).drive(socket));
        let caller = Self(shared);
        let shaken = caller.0.until(|state| match state.lost.clone() {
            Some(reason) => Some(Err(reason)),
            None => (!state.connection.is_handshaking()).then_some(Ok(())),
        });
        soon("the handshake", shaken)
            .await?
            .context("no handshake")?;
        Ok(caller)
    }

    /// Waits until the relay allows one more stream, and opens it. The relay hears of it with its first bytes.
    ///
    /// # Errors
    /// The relay allows none in time.
    pub async fn open(&self) -> Result<QuicCallerStream> {
        let opened = self
            .0
            .until(|state| state.connection.streams().open(Dir::Bi));
        Ok(self.stream(soon("room for a stream", opened).await?))
    }

    /// Opens a stream if the relay allows one more now.
    #[must_use]
    pub fn try_open(&self) -> Option<QuicCallerStream> {
        let id = self.0.lock().connection.streams().open(Dir::Bi)?;
        Some(self.stream(id))
    }

    fn stream(&self, id: StreamId) -> QuicCallerStream {
        QuicCallerStream {
            shared: Arc::clone(&self.0),
            id,
        }
    }

    /// Opens a stream, and sends the preamble for `tunnel`.
    ///
    /// # Errors
    /// The relay allows no stream, or the connection is lost.
    pub async fn raw(&self, tunnel: &str) -> Result<QuicCallerStream> {
        let mut stream = self.open().await?;
        let mut preamble = u16::try_from(tunnel.len())?.to_be_bytes().to_vec();
        preamble.extend_from_slice(tunnel.as_bytes());
        stream.write_all(&preamble).await?;
        Ok(stream)
    }

    /// Waits for the end of the connection.
    ///
    /// # Errors
    /// The connection does not end.
    pub async fn lost(&self) -> Result<ConnectionError> {
        let lost = self.0.until(|state| state.lost.clone());
        soon("the end of the connection", lost).await
    }
}

impl TestRelay {
    /// Connects to the relay over QUIC, as a raw caller.
    ///
    /// # Errors
    /// The handshake fails.
    pub async fn quic_caller(&self, certificate: &TestCertificate) -> Result<QuicCaller> {
        QuicCaller::connect(self.quic_address(), certificate, "tieline").await
    }
}

impl Drop for QuicCaller {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        let now = Instant::now();
        state
            .connection
            .close(now, VarInt::from_u32(0), Bytes::new());
        self.0.work.notify_one();
    }
}

impl QuicCallerStream {
    /// Resets this caller's direction.
    pub fn reset(&self) {
        let code = VarInt::from_u32(0);
        // Fails only if the direction is over.
        let _ = self
            .shared
            .lock()
            .connection
            .send_stream(self.id)
            .reset(code);
        self.shared.work.notify_one();
    }

    /// Tells the relay that this caller wants no more bytes.
    pub fn stop(&self) {
        let code = VarInt::from_u32(0);
        let _ = self
            .shared
            .lock()
            .connection
            .recv_stream(self.id)
            .stop(code);
        self.shared.work.notify_one();
    }

    /// Waits for `outcome`, which is asked again whenever something happened.
    fn poll<T>(
        &self,
        cx: &Context<'_>,
        outcome: impl FnOnce(&mut Connection, StreamId) -> Poll<T>,
    ) -> Poll<io::Result<T>> {
        let mut state = self.shared.lock();
        // First, because bytes and an end may have arrived before the connection was lost.
        let outcome = outcome(&mut state.connection, self.id);
        self.shared.work.notify_one();
        if outcome.is_ready() {
            return outcome.map(Ok);
        }
        if let Some(lost) = &state.lost {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                lost.clone(),
            )));
        }
        state.wakers.push(cx.waker().clone());
        Poll::Pending
    }
}

/// The error of a stream that the relay has reset.
fn reset_by(code: VarInt) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, ResetBy(code.into_inner()))
}

impl AsyncRead for QuicCallerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.poll(cx, |connection, id| {
            let mut stream = connection.recv_stream(id);
            // Read to its end before.
            let Ok(mut chunks) = stream.read(true) else {
                return Poll::Ready(Ok(()));
            };
            let outcome = match chunks.next(buffer.remaining()) {
                Ok(Some(chunk)) => {
                    buffer.put_slice(&chunk.bytes);
                    Poll::Ready(Ok(()))
                }
                Ok(None) => Poll::Ready(Ok(())),
                Err(ReadError::Blocked) => Poll::Pending,
                Err(ReadError::Reset(code)) => Poll::Ready(Err(reset_by(code))),
            };
            let _ = chunks.finalize();
            outcome
        });
        read.map(Result::flatten)
    }
}

impl AsyncWrite for QuicCallerStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.poll(cx, |connection, id| {
            match connection.send_stream(id).write(bytes) {
                Ok(count) => Poll::Ready(Ok(count)),
                Err(WriteError::Blocked) => Poll::Pending,
                Err(WriteError::Stopped(code)) => Poll::Ready(Err(reset_by(code))),
                Err(WriteError::ClosedStream) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        });
        written.map(Result::flatten)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(cx, |connection, id| {
            // Fails only if the direction is over.
            let _ = connection.send_stream(id).finish();
            Poll::Ready(())
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `look` finds something.
    async fn until<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        std::future::poll_fn(|cx| {
            let mut state = self.lock();
            match look(&mut state) {
                Some(found) => Poll::Ready(found),
                None => {
                    state.wakers.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Sends and receives until the connection is over.
    async fn drive(self: Arc<Self>, socket: UdpSocket) {
        let mut buffer = vec![0; 65_536];
        loop {
            let (datagrams, timeout, is_over) = self.step(Instant::now());
            for (to, bytes) in datagrams {
                // Lost like any datagram.
                let _ = socket.send_to(&bytes, to).await;
            }
            if is_over {
                return;
            }
            let timer = async {
                match timeout {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                received = socket.recv_from(&mut buffer) => {
                    if let Ok((len, from)) = received {
                        self.lock().receive(from, &buffer[..len]);
                    }
                }
                () = self.work.notified() => {}
                () = timer => {}
            }
        }
    }

    /// Everything that is due; returns the datagrams to send, the next time at which something is due, and whether the
    /// connection is over.
    fn step(&self, now: Instant) -> (Datagrams, Option<Instant>, bool) {
        let mut state = self.lock();
        let (datagrams, is_over) = state.step(now);
        let wakers = std::mem::take(&mut state.wakers);
        let timeout = state.connection.poll_timeout();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        (datagrams, timeout, is_over)
    }
}

/// Datagrams to send, each to its address.
type Datagrams = Vec<(SocketAddr, Vec<u8>)>;

impl State {
    fn receive(&mut self, from: SocketAddr, datagram: &[u8]) {
        let mut answer = Vec::new();
        let event = self.endpoint.handle(
            Instant::now(),
            from,
            None,
            None,
            BytesMut::from(datagram),
            &mut answer,
        );
        if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
            self.connection.handle_event(event);
        }
    }

    fn step(&mut self, now: Instant) -> (Datagrams, bool) {
        if self.connection.poll_timeout().is_some_and(|at| at <= now) {
            self.connection.handle_timeout(now);
        }
        while let Some(event) = self.connection.poll() {
            if let Event::ConnectionLost { reason } = event {
                // The first reason counts: a packet that was on its way to a relay that has closed the connection is answered
                // with a reset by the next relay, which quinn-proto tells as another loss.
                self.lost.get_or_insert(reason);
            }
        }
        let (mut datagrams, mut out) = (Vec::new(), Vec::new());
        while let Some(it) = self.connection.poll_transmit(now, 1, &mut out) {
            datagrams.push((it.destination, out[..it.size].to_vec()));
            out.clear();
        }
        let mut is_over = false;
        while let Some(event) = self.connection.poll_endpoint_events() {
            is_over |= event.is_drained();
            if let Some(answer) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(answer);
            }
        }
        (datagrams, is_over)
    }
}
