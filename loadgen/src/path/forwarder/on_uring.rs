//! One forwarder hop on tokio-uring: each read and write is a ring operation.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;

use anyhow::Context;
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::{TcpListener, TcpStream};

use crate::process::{announce, pause_after_accept_error};
use crate::pump::READ_BYTES_MAX;

/// Submission queue entries: enough for a read and a write on each of 1,000 connections before a forced submit.
const RING_ENTRIES: u32 = 2048;

pub(super) fn run(listen: SocketAddr, to: SocketAddr) -> anyhow::Result<()> {
    let mut builder = tokio_uring::builder();
    builder.entries(RING_ENTRIES);
    let runtime = tokio_uring::Runtime::new(&builder).context(
        "io_uring is refused here (kernel.io_uring_disabled, a seccomp filter of the container, \
         or the limit of locked memory)",
    )?;
    runtime.block_on(serve(listen, to))
}

async fn serve(listen: SocketAddr, to: SocketAddr) -> anyhow::Result<()> {
    // A seccomp filter may allow the ring but refuse its operations, so one operation is tried.
    tokio_uring::no_op()
        .await
        .context("io_uring grants a ring but refuses its operations")?;
    let listener = TcpListener::bind(listen)
        .with_context(|| format!("cannot listen on {listen}: is the port already in use?"))?;
    announce("forwarder", listener.local_addr()?)?;
    loop {
        match listener.accept().await {
            Ok((near, _)) => drop(tokio_uring::spawn(async move {
                if let Err(error) = dial_and_join(near, to).await {
                    eprintln!("cannot forward to {to}: {error}");
                }
            })),
            Err(error) => pause_after_accept_error(&error).await,
        }
    }
}

async fn dial_and_join(near: TcpStream, to: SocketAddr) -> io::Result<()> {
    near.set_nodelay(true)?;
    let far = TcpStream::connect(to).await?;
    far.set_nodelay(true)?;
    let (near, far) = (Rc::new(near), Rc::new(far));
    tokio_uring::spawn(pump(Rc::clone(&near), Rc::clone(&far)));
    pump(far, near).await;
    Ok(())
}

/// Moves the bytes of one direction; a failure also ends the other direction.
async fn pump(from: Rc<TcpStream>, to: Rc<TcpStream>) {
    if copy(&from, &to).await.is_err() {
        // Fails if the socket is already closed, which needs no handling.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}

async fn copy(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(READ_BYTES_MAX);
    loop {
        let (read, filled) = from.read(buffer).await;
        let len = read?;
        if len == 0 {
            return to.shutdown(Shutdown::Write);
        }
        let (written, slice) = to.write_all(filled.slice(..len)).await;
        written?;
        buffer = slice.into_inner();
    }
}
