//! The server at the end of every path: echoes bytes, sends and checks blocks, or answers calls over
//! HTTP.

mod http;
mod quic;
mod quic_stream;
pub(crate) mod request;
mod stream;
mod wrapped;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::runtime;

use crate::cli::{TargetFlags, TargetKind, WrapFlags};
use crate::process::{self, announce};
use crate::pump::Pump;
use crate::targets::request::Request;
use crate::targets::stream::{Arrival, Streams};
use crate::targets::wrapped::{Wrapped, Wrapping};

/// Runs the target until the process ends.
pub(crate) fn run(flags: &TargetFlags) -> anyhow::Result<()> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match &flags.kind {
        TargetKind::Echo(listen) => runtime.block_on(serve(listen.listen, None)),
        TargetKind::Any(any) => {
            let (streams, listen) = (Streams::start()?, any.listen.listen);
            if any.wrap.quic {
                return runtime.block_on(serve_quic(listen, streams, &any.wrap));
            }
            match Wrapping::read(&any.wrap)? {
                Some(wrapping) => runtime.block_on(serve_wrapped(listen, streams, wrapping)),
                None => runtime.block_on(serve(listen, Some(streams))),
            }
        }
        TargetKind::Http(listen) => runtime.block_on(serve_http(listen.listen)),
    }
}

/// Serves calls and event streams over HTTP.
async fn serve_http(listen: SocketAddr) -> anyhow::Result<()> {
    let listener = process::listen(listen)
        .with_context(|| format!("cannot listen on {listen}: is the port already in use?"))?;
    announce("http-target", listener.local_addr()?)?;
    let server = Arc::new(http::Server::new());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let server = Arc::clone(&server);
                drop(tokio::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    if let Err(error) = server.serve(stream).await {
                        eprintln!("closed a connection: {error:#}");
                    }
                }));
            }
            Err(error) => process::pause_after_accept_error(&error).await,
        }
    }
}

/// Serves block requests and echo; without a stream thread, echo only.
async fn serve(listen: SocketAddr, streams: Option<Streams>) -> anyhow::Result<()> {
    let listener = process::listen(listen)
        .with_context(|| format!("cannot listen on {listen}: is the port already in use?"))?;
    let kind = if streams.is_some() { "target" } else { "echo" };
    announce(kind, listener.local_addr()?)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(answer(stream, streams.clone()))),
            Err(error) => process::pause_after_accept_error(&error).await,
        }
    }
}

/// Serves block requests and echo on connections that are wrapped.
async fn serve_wrapped(
    listen: SocketAddr,
    streams: Streams,
    wrapping: Wrapping,
) -> anyhow::Result<()> {
    let listener = process::listen(listen)
        .with_context(|| format!("cannot listen on {listen}: is the port already in use?"))?;
    announce("target", listener.local_addr()?)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (streams, wrapping) = (streams.clone(), wrapping.clone());
                drop(tokio::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    // Errors are ignored: a client that only makes a handshake may end the connection in order or with
                    // a reset.
                    let _ = answer_wrapped(stream, streams, &wrapping).await;
                }));
            }
            Err(error) => process::pause_after_accept_error(&error).await,
        }
    }
}

/// Serves block requests and echo on streams of QUIC.
async fn serve_quic(listen: SocketAddr, streams: Streams, flags: &WrapFlags) -> anyhow::Result<()> {
    let files = flags.tls_cert.as_deref().zip(flags.tls_key.as_deref());
    let (cert, key) = files.context("QUIC needs --tls-cert and --tls-key")?;
    let endpoint = quic::listen(listen, cert, key)?;
    announce("target", endpoint.local_addr()?)?;
    quic::serve(endpoint, streams).await;
    Ok(())
}

async fn answer_wrapped(
    stream: TcpStream,
    streams: Streams,
    wrapping: &Wrapping,
) -> anyhow::Result<()> {
    let mut stream = Wrapped::accept(stream, wrapping).await?;
    match stream.peek().await? {
        None => {}
        Some(request::MARK) => {
            let request = read_request(&mut stream).await?;
            let arrival = Arrival::Wrapped(Box::new(stream.into_parts()?));
            streams.hand_over(arrival, request).await?;
        }
        Some(_) => {
            let (mut from, mut to) = tokio::io::split(stream);
            let mut pump = Pump::default();
            poll_fn(|cx| pump.poll(cx, &mut from, &mut to)).await?;
        }
    }
    Ok(())
}

async fn answer(mut stream: TcpStream, streams: Option<Streams>) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    if let Some(streams) = streams {
        let mut first = [0];
        // Peek, so that an echo returns the byte with the rest.
        if !matches!(stream.peek(&mut first).await, Ok(1)) {
            return;
        }
        if first == [request::MARK] {
            let handed_over = match read_request(&mut stream).await {
                Ok(request) => hand_over(stream, &streams, request).await,
                Err(error) => Err(error),
            };
            if let Err(error) = handed_over {
                eprintln!("refused a connection: {error:#}");
            }
            return;
        }
    }
    let (mut from, mut to) = stream.split();
    let mut pump = Pump::default();
    // A client that disconnects is the normal end of a connection.
    let _ = poll_fn(|cx| pump.poll(cx, &mut from, &mut to)).await;
}

async fn hand_over(stream: TcpStream, streams: &Streams, request: Request) -> anyhow::Result<()> {
    let arrival = Arrival::Plain(stream.into_std()?);
    streams.hand_over(arrival, request).await
}

/// Reads the request byte by byte, once per connection, because the following bytes belong to the stream.
async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> anyhow::Result<Request> {
    let mut line = Vec::new();
    loop {
        let byte = stream.read_u8().await?;
        if byte == b'\n' {
            break;
        }
        line.push(byte);
        anyhow::ensure!(
            line.len() < request::REQUEST_BYTES_MAX,
            "request is too long"
        );
    }
    let line = line.get(1..).unwrap_or_default();
    Request::decode(line)
        .with_context(|| format!("`{}` is not a valid request", String::from_utf8_lossy(line)))
}
