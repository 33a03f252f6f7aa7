//! The proxy's listening sockets: accept callers up to a limit, serve each in its own task, and
//! drain on shutdown.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tieline_hop::{CallerState, REQUEST_START_BYTES_MAX, answer_to, is_head};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::caller::{Caller, ConnectionState, Socket};
use super::error::ConnectError;
use super::forward::Front;
use super::problem::TOO_MANY;
use super::{CONNECTIONS_MAX, DRAIN_TIMEOUT, HTTP_BUFFER_BYTES_MAX};
use crate::descriptors;

/// Longest time to receive a request's head, and longest idle time between two requests of a
/// connection. Answers have no time limit.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections beyond the limit that get a 503 answer at the same time; more are reset.
const REFUSALS_MAX: usize = 16;

/// Longest time to send a 503 answer to a connection beyond the limit.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Part of [`REFUSAL_TIMEOUT`] for the method of the request.
const METHOD_TIMEOUT: Duration = Duration::from_millis(500);

/// Pause after a failed accept: while the system is out of descriptors, accepting fails at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Attempts to find a port that is free in both address families, if the system chooses the port.
const PORTS_MAX: usize = 16;

/// Where the proxy listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listen {
    /// One address.
    At(SocketAddr),
    /// 127.0.0.1 and ::1, on one port.
    Localhost(u16),
}

/// Binds one address, or localhost in each address family that this machine has.
pub(super) async fn bind(
    listen: Listen,
) -> Result<(Vec<TcpListener>, Vec<SocketAddr>), ConnectError> {
    let listeners = match listen {
        Listen::At(address) => vec![bind_one(address).await?],
        Listen::Localhost(port) => bind_localhost(port).await?,
    };
    let addresses: io::Result<Vec<_>> = listeners.iter().map(TcpListener::local_addr).collect();
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    let addresses = addresses.map_err(|source| ConnectError::Bind { address, source })?;
    Ok((listeners, addresses))
}

async fn bind_one(address: SocketAddr) -> Result<TcpListener, ConnectError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ConnectError::Taken { address },
        _ => ConnectError::Bind { address, source },
    })
}

async fn bind_localhost(port: u16) -> Result<Vec<TcpListener>, ConnectError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let first = bind_one(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)).await;
        let chosen = first.as_ref().ok().and_then(|it| it.local_addr().ok());
        let chosen = chosen.map_or(port, |address| address.port());
        let second = bind_one(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), chosen)).await;
        match (first, second) {
            // A client that uses the other address family would reach another program.
            (_, Err(ConnectError::Taken { .. })) if port == 0 && tries < PORTS_MAX => {}
            (_, Err(taken @ ConnectError::Taken { .. }))
            | (Err(taken @ ConnectError::Taken { .. }), _) => return Err(taken),
            // A machine may lack one address family.
            (Ok(first), second) => {
                return Ok([Some(first), second.ok()].into_iter().flatten().collect());
            }
            (Err(_), Ok(second)) => return Ok(vec![second]),
            (Err(why), Err(_)) => return Err(why),
        }
    }
}

/// Accepts the next connection on any of `listeners`.
async fn accept(listeners: &[TcpListener]) -> io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|cx| {
        let mut ready = listeners.iter().map(|it| it.poll_accept(cx));
        ready.find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await
}

/// Serves callers until `shutdown` resolves; connected callers then get at most [`DRAIN_TIMEOUT`].
pub(super) async fn serve(
    listeners: Vec<TcpListener>,
    front: Rc<Front>,
    shutdown: impl Future<Output = ()>,
) {
    let (places, refusals) = places(descriptors::free());
    let permits = Arc::new(Semaphore::new(places));
    let refusals = Arc::new(Semaphore::new(refusals));
    let (stop, stopping) = watch::channel(false);
    let mut callers = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listeners) => accepted,
            Some(_) = callers.join_next() => continue,
            () = &mut shutdown => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::select! {
                    () = sleep(ACCEPT_PAUSE) => continue,
                    () = &mut shutdown => break,
                }
            }
        };
        if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
            let (front, stopping) = (Rc::clone(&front), stopping.clone());
            callers.spawn_local(async move {
                serve_one(stream, front, stopping).await;
                drop(permit);
            });
        } else if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
            callers.spawn_local(async move {
                let _ = timeout(REFUSAL_TIMEOUT, refuse(stream)).await;
                drop(permit);
            });
        } else {
            reset(stream);
        }
    }
    drop(listeners);
    let _ = stop.send(true);
    let _ = timeout(DRAIN_TIMEOUT, async {
        while callers.join_next().await.is_some() {}
    })
    .await;
}

/// How many callers to serve, and how many more to refuse with an answer, given the number of free
/// descriptors. Each served caller takes two descriptors.
fn places(descriptors: Option<u64>) -> (usize, usize) {
    let free = descriptors.and_then(|it| usize::try_from(it).ok());
    let free = free.unwrap_or(usize::MAX);
    let refusals = REFUSALS_MAX.min(free / 4).max(1);
    let served = CONNECTIONS_MAX.min(free.saturating_sub(refusals) / 2);
    (served.max(1), refusals)
}

/// Closes a connection without an answer: an orderly end would look like an empty answer.
fn reset(stream: TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    let is_head = timeout(METHOD_TIMEOUT, is_head_request(&mut stream)).await;
    // Without a method in time, the answer is that to GET.
    let answer = answer_to(is_head.unwrap_or(false), TOO_MANY);
    stream.write_all(answer).await?;
    stream.shutdown().await?;
    // Closing with unread bytes would reset the connection and destroy the answer.
    copy(&mut stream, &mut sink()).await.map(|_| ())
}

/// Reads the first bytes of a request and tells whether it is HEAD; false if they do not tell.
async fn is_head_request(stream: &mut TcpStream) -> bool {
    let mut start = [0; REQUEST_START_BYTES_MAX];
    let mut known = 0;
    while known < start.len() {
        match stream.read(&mut start[known..]).await {
            Ok(count @ 1..) => known += count,
            _ => return false,
        }
        if let Some(is_head) = is_head(&start[..known]) {
            return is_head;
        }
    }
    false
}

async fn serve_one(stream: TcpStream, front: Rc<Front>, stopping: watch::Receiver<bool>) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    // Senders have already chosen when to write; holding their bytes back only adds latency.
    let _ = stream.set_nodelay(true);
    let state = Rc::new(ConnectionState::default());
    let caller = Caller::new(Socket::new(stream), Rc::clone(&state));
    let is_complete = serve_http(&caller, &state, (front, local.ip()), stopping).await;
    // hyper has dropped its half of the connection by now.
    let Some((socket, intake)) = caller.into_inner() else {
        return;
    };
    // If not all answers were written, the caller has not got the `101`.
    match state.upgraded.take().filter(|_| is_complete) {
        Some(relay) => relay.pass(socket.into_stream(), intake.into_ahead()).await,
        None => socket.close(&state).await,
    }
}

/// Serves requests that arrive at the address `local`, until the connection ends or leaves HTTP; true if all answers
/// were written.
async fn serve_http(
    caller: &Caller,
    state: &Rc<ConnectionState>,
    (front, local): (Rc<Front>, IpAddr),
    mut stopping: watch::Receiver<bool>,
) -> bool {
    let service = service_fn(|request| {
        let (front, state) = (Rc::clone(&front), Rc::clone(state));
        async move {
            let answer = front.answer(request, local, state).await;
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .auto_date_header(false)
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_header_size(HTTP_BUFFER_BYTES_MAX)
            .max_buf_size(HTTP_BUFFER_BYTES_MAX)
            .serve_connection(caller.clone(), service)
    );
    let mut asked = pin!(async {
        // Cannot fail: the sender outlives every caller's task.
        let _ = stopping.wait_for(|stop| *stop).await;
    });
    let mut is_stopping = false;
    poll_fn(|cx| {
        state.driven_by(cx.waker());
        state.begin_turn();
        if !is_stopping && asked.as_mut().poll(cx).is_ready() {
            is_stopping = true;
            connection.as_mut().graceful_shutdown();
        }
        match connection.as_mut().poll(cx) {
            Poll::Ready(Err(error)) => {
                if error.is_parse() {
                    state.unread.set(true);
                }
                Poll::Ready(false)
            }
            Poll::Ready(Ok(())) => Poll::Ready(true),
            Poll::Pending if caller.poll_gone(cx) => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_head_request_beyond_the_limit_gets_the_head_of_the_answer_to_others() {
        let listener = bind_one("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let end = TOO_MANY
            .windows(4)
            .position(|it| it == b"\r\n\r\n")
            .unwrap()
            + 4;
        let many = "\r\n".repeat(REQUEST_START_BYTES_MAX) + "HEAD / HTTP/1.1\r\n\r\n";
        for (request, expected) in [
            ("HEAD / HTTP/1.1\r\n\r\n", &TOO_MANY[..end]),
            ("\r\n\r\nHEAD / HTTP/1.1\r\n\r\n", &TOO_MANY[..end]),
            ("GET / HTTP/1.1\r\n\r\n", TOO_MANY),
            ("\r\nGET / HTTP/1.1\r\n\r\n", TOO_MANY),
            ("", TOO_MANY),
            (&many, TOO_MANY),
        ] {
            let mut caller = TcpStream::connect(address).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            caller.write_all(request.as_bytes()).await.unwrap();
            caller.shutdown().await.unwrap();
            refuse(stream).await.unwrap();
            let mut answer = Vec::new();
            caller.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, expected, "{request:?}");
        }
    }

    #[tokio::test]
    async fn a_caller_beyond_the_refusals_gets_a_reset_and_no_end() {
        let listener = bind_one("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut caller = TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        reset(stream);
        let error = caller.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn what_callers_take_leaves_a_descriptor_to_refuse_the_next_one_with() {
        assert_eq!(places(None), (CONNECTIONS_MAX, REFUSALS_MAX));
        assert_eq!(places(Some(20_000)), (CONNECTIONS_MAX, REFUSALS_MAX));
        for free in 4..2_000 {
            let (served, refusals) = places(Some(free));
            assert!((2 * served + refusals) as u64 <= free, "{free}");
        }
        assert_eq!(places(Some(0)), (1, 1));
    }
}
