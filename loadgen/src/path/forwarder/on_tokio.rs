//! One forwarder hop on a single-threaded tokio runtime.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use anyhow::Context;
use tokio::net::TcpStream;

use crate::process::{self, announce, pause_after_accept_error};
use crate::pump::Pump;

pub(super) fn run(listen: SocketAddr, to: SocketAddr) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(listen, to))
}

async fn serve(listen: SocketAddr, to: SocketAddr) -> anyhow::Result<()> {
    let listener = process::listen(listen)
        .with_context(|| format!("cannot listen on {listen}: is the port already in use?"))?;
    announce("forwarder", listener.local_addr()?)?;
    loop {
        match listener.accept().await {
            Ok((near, _)) => drop(tokio::spawn(async move {
                if let Err(error) = dial_and_join(near, to).await {
                    eprintln!("cannot forward to {to}: {error}");
                }
            })),
            Err(error) => pause_after_accept_error(&error).await,
        }
    }
}

async fn dial_and_join(mut near: TcpStream, to: SocketAddr) -> io::Result<()> {
    near.set_nodelay(true)?;
    let mut far = TcpStream::connect(to).await?;
    far.set_nodelay(true)?;
    let (mut near_from, mut near_to) = near.split();
    let (mut far_from, mut far_to) = far.split();
    let (mut up, mut down) = (Pump::default(), Pump::default());
    // A reset ends both directions. The peers see it, and it is not a failure of this hop.
    let _ = poll_fn(|cx| {
        let up = up.poll(cx, &mut near_from, &mut far_to)?;
        let down = down.poll(cx, &mut far_from, &mut near_to)?;
        if up.is_ready() && down.is_ready() {
            Poll::Ready(Ok::<_, io::Error>(()))
        } else {
            Poll::Pending
        }
    })
    .await;
    Ok(())
}
