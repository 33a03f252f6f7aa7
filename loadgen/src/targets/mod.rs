//! The server at the end of every path: echoes bytes, sends and checks blocks, or answers calls over
//! HTTP.

mod http;
pub(crate) mod request;
mod stream;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::runtime;

use crate::cli::{TargetFlags, TargetKind};
use crate::process::{self, announce};
use crate::pump::Pump;
use crate::targets::stream::Streams;

/// Runs the target until the process ends.
pub(crate) fn run(flags: &TargetFlags) -> anyhow::Result<()> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match &flags.kind {
        TargetKind::Echo(listen) => runtime.block_on(serve(listen.listen, None)),
        TargetKind::Any(listen) => runtime.block_on(serve(listen.listen, Some(Streams::start()?))),
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
                Ok((duty, id)) => streams.hand_over(stream, duty, id).await,
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

/// Reads the request byte by byte, once per connection, because the following bytes belong to the stream.
async fn read_request(stream: &mut TcpStream) -> anyhow::Result<(request::Duty, u64)> {
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
    request::decode(line)
        .with_context(|| format!("`{}` is not a valid request", String::from_utf8_lossy(line)))
}
