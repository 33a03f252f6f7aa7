//! Loads of a fixed length over one connection, every byte checked. Nothing here is timed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::ensure;

use crate::blocks::{Incoming, Outgoing, Table, Verdict};
use crate::pattern::Pattern;
use crate::target::request::{ACCEPTED, Duty, encode};

/// How long one read or write may take; callgrind slows a process down fiftyfold.
const PATIENCE: Duration = Duration::from_secs(30);

const MESSAGE_BYTES: usize = 256;

const READ_BYTES: usize = 64 * 1024;

const MIB: u64 = 1024 * 1024;

/// What a client says at the end that was sent nothing, or has checked all of it by itself.
const NOTHING_RECEIVED: Verdict = Verdict {
    received: 0,
    wrong_at: None,
};

/// What is done over the connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Load {
    /// Messages there and back, one at a time.
    RoundTrips,
    /// Blocks from client to target, on the link.
    BulkUp,
    /// Blocks from target to client, on the link.
    BulkDown,
}

impl Load {
    pub(super) const ALL: [Self; 3] = [Self::RoundTrips, Self::BulkUp, Self::BulkDown];

    /// Units of work of the short and of the long run.
    pub(super) const fn units(self) -> [u64; 2] {
        match self {
            Self::RoundTrips => [500, 8_500],
            Self::BulkUp | Self::BulkDown => [8, 136],
        }
    }

    /// What the relay is told besides.
    pub(super) const fn relay_arguments(self) -> &'static [&'static str] {
        match self {
            Self::RoundTrips => &[],
            Self::BulkUp | Self::BulkDown => &["--bulk-run-bytes=0"],
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::RoundTrips => "round trip of 256 B",
            Self::BulkUp => "MiB of bulk, client to target",
            Self::BulkDown => "MiB of bulk, target to client",
        }
    }

    /// Does `units` of it; returns how many they were, as a stream ends at a block's border.
    pub(super) fn run(
        self,
        address: SocketAddr,
        preamble: &[u8],
        units: u64,
    ) -> anyhow::Result<f64> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.write_all(preamble)?;
        let bytes = match self {
            Self::RoundTrips => return round_trips(&mut socket, units),
            Self::BulkUp => bulk_up(&mut socket, units * MIB)?,
            Self::BulkDown => bulk_down(&mut socket, units * MIB)?,
        };
        Ok(bytes as f64 / MIB as f64)
    }
}

fn round_trips(socket: &mut TcpStream, count: u64) -> anyhow::Result<f64> {
    let pattern = Pattern::new(MESSAGE_BYTES);
    let mut answer = [0; MESSAGE_BYTES];
    for sequence in 0..count {
        let message = pattern.message(0, sequence);
        socket.write_all(message)?;
        socket.read_exact(&mut answer)?;
        ensure!(answer == message, "wrong bytes in answer {sequence}");
    }
    Ok(count as f64)
}

fn bulk_up(socket: &mut TcpStream, bytes: u64) -> anyhow::Result<u64> {
    ask(socket, Duty::Sink)?;
    let (table, mut outgoing) = (Table::new(), Outgoing::new(0));
    while !outgoing.is_finished() {
        if outgoing.sent() >= bytes {
            outgoing.end(NOTHING_RECEIVED);
        }
        let taken = socket.write_vectored(&outgoing.next(&table))?;
        outgoing.advance(taken);
    }
    let mut incoming = Incoming::new(0);
    while incoming.verdict().is_none() {
        read(socket, &table, &mut incoming)?;
    }
    let sent = Verdict {
        received: outgoing.sent(),
        wrong_at: None,
    };
    let verdict = incoming.verdict();
    ensure!(
        verdict == Some(sent),
        "sent {sent:?}, and the target got {verdict:?}"
    );
    Ok(outgoing.sent())
}

fn bulk_down(socket: &mut TcpStream, bytes: u64) -> anyhow::Result<u64> {
    ask(socket, Duty::Source)?;
    let (table, mut outgoing, mut incoming) = (Table::new(), Outgoing::new(0), Incoming::new(0));
    while incoming.own_verdict().received < bytes {
        read(socket, &table, &mut incoming)?;
    }
    outgoing.end(NOTHING_RECEIVED);
    while !outgoing.is_finished() {
        let taken = socket.write_vectored(&outgoing.next(&table))?;
        outgoing.advance(taken);
    }
    while incoming.verdict().is_none() {
        read(socket, &table, &mut incoming)?;
    }
    Ok(incoming.own_verdict().received)
}

fn ask(socket: &mut TcpStream, duty: Duty) -> anyhow::Result<()> {
    socket.write_all(&encode(duty, 0))?;
    let mut answer = [0];
    socket.read_exact(&mut answer)?;
    ensure!(answer == [ACCEPTED], "no target at the end of the path");
    Ok(())
}

/// Reads once and checks every byte.
fn read(socket: &mut TcpStream, table: &Table, incoming: &mut Incoming) -> anyhow::Result<()> {
    let mut buffer = [0; READ_BYTES];
    let len = socket.read(&mut buffer)?;
    ensure!(len > 0, "closed before the end");
    incoming.check(table, &buffer[..len]);
    let wrong_at = incoming.own_verdict().wrong_at;
    ensure!(wrong_at.is_none(), "a wrong byte at {wrong_at:?}");
    Ok(())
}
