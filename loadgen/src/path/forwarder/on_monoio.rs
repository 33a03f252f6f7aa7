//! One forwarder hop on monoio: each read and write is a ring operation.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt, Splitable};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};

use crate::process::announce;
use crate::pump::READ_BYTES_MAX;

/// Submission queue entries: enough for a read and a write on each of 1,000 connections before a forced submit.
const RING_ENTRIES: u32 = 2048;

/// Pause after a failed accept: with a full descriptor table, the accept loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

pub(super) fn run(listen: SocketAddr, to: SocketAddr) -> anyhow::Result<()> {
    let builder = RuntimeBuilder::<IoUringDriver>::new().with_entries(RING_ENTRIES);
    let mut runtime = builder.enable_timer().build().context(
        "io_uring is refused here (kernel.io_uring_disabled, a seccomp filter of the container, \
         or the limit of locked memory)",
    )?;
    runtime.block_on(serve(listen, to))
}

async fn serve(listen: SocketAddr, to: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen)
        .with_context(|| format!("cannot listen on {listen}: is the port already in use?"))?;
    announce("forwarder", listener.local_addr()?)?;
    loop {
        match listener.accept().await {
            Ok((near, _)) => drop(monoio::spawn(async move {
                if let Err(error) = dial_and_join(near, to).await {
                    eprintln!("cannot forward to {to}: {error}");
                }
            })),
            Err(error) => {
                eprintln!("cannot accept a connection: {error}");
                monoio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn dial_and_join(near: TcpStream, to: SocketAddr) -> io::Result<()> {
    near.set_nodelay(true)?;
    let far = TcpStream::connect_addr(to).await?;
    far.set_nodelay(true)?;
    let (near_from, near_to) = near.into_split();
    let (far_from, far_to) = far.into_split();
    drop(monoio::spawn(pump(near_from, far_to)));
    pump(far_from, near_to).await;
    Ok(())
}

/// Moves the bytes of one direction. Its end, in order or not, is the end of what the other hop hears; the peers end the
/// other direction.
async fn pump(mut from: impl AsyncReadRent, mut to: impl AsyncWriteRent) {
    // The peers see a failure, and it is not one of this hop.
    let _ = copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

async fn copy(from: &mut impl AsyncReadRent, to: &mut impl AsyncWriteRent) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(READ_BYTES_MAX);
    loop {
        let (read, filled) = from.read(buffer).await;
        if read? == 0 {
            return Ok(());
        }
        let (written, taken) = to.write_all(filled).await;
        written?;
        buffer = taken;
        buffer.clear();
    }
}
