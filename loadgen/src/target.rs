//! The server at the end of every path: it sends back what it gets.

use std::future::poll_fn;
use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::{TcpListener, TcpStream};

use crate::cli::{TargetFlags, TargetKind};
use crate::process::announce;
use crate::pump::Pump;

/// Runs the target until the process is ended.
pub(crate) fn run(flags: &TargetFlags) -> anyhow::Result<()> {
    let TargetKind::Echo(listen) = &flags.kind;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(listen.listen))
}

async fn serve(listen: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}: is another program there?"))?;
    announce("echo", listener.local_addr()?)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(echo(stream))),
            Err(error) => crate::process::pause_after_accept_error(&error).await,
        }
    }
}

async fn echo(mut stream: TcpStream) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let (mut from, mut to) = stream.split();
    let mut pump = Pump::default();
    // A caller that goes away is the normal end of a connection.
    let _ = poll_fn(|cx| pump.poll(cx, &mut from, &mut to)).await;
}
