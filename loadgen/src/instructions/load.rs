//! Fixed amounts of work over one connection; every byte is checked, no time is measured.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::blocks::{Incoming, Outgoing, Table, Verdict};
use crate::exchange::{self, HEAD_BYTES_MAX, RequestKind, TEXT_BYTES, TEXT_UP_BYTES};
use crate::path::relay::RelayPair;
use crate::path::tunnel_preamble;
use crate::pattern::Pattern;
use crate::targets::request::{ACCEPTED, Duty, Request};

/// Timeout of one read or write; callgrind slows a process down about fiftyfold.
const PATIENCE: Duration = Duration::from_secs(30);

const MESSAGE_BYTES: usize = 256;

const READ_BYTES: usize = 64 * 1024;

const MIB: u64 = 1024 * 1024;

/// Verdict that the client sends if it received nothing, or has checked all received bytes itself.
const NOTHING_RECEIVED: Verdict = Verdict {
    received: 0,
    wrong_at: None,
};

/// Kind of work that the client does over one connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Load {
    /// Echoed messages, one at a time.
    RoundTrips,
    /// Tool calls over HTTP, one at a time on a kept connection.
    Calls,
    /// Blocks from client to target over the link.
    BulkUp,
    /// Blocks from target to client over the link.
    BulkDown,
}

impl Load {
    pub(super) const ALL: [Self; 4] = [Self::RoundTrips, Self::Calls, Self::BulkUp, Self::BulkDown];

    /// Units of work of the short run and of the long run.
    pub(super) const fn units(self) -> [u64; 2] {
        match self {
            Self::RoundTrips | Self::Calls => [500, 8_500],
            Self::BulkUp | Self::BulkDown => [8, 136],
        }
    }

    /// Extra relay arguments for this load.
    pub(super) const fn relay_arguments(self) -> &'static [&'static str] {
        match self {
            Self::RoundTrips | Self::Calls => &[],
            Self::BulkUp | Self::BulkDown => &["--bulk-run-bytes=0"],
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::RoundTrips => "round trip of 256 B",
            Self::Calls => "tools/call over HTTP",
            Self::BulkUp => "MiB of bulk, client to target",
            Self::BulkDown => "MiB of bulk, target to client",
        }
    }

    /// Target that serves this load: the `target` subcommand, and the kind in its `listening` line.
    pub(super) const fn target(self) -> (&'static str, &'static str) {
        match self {
            Self::Calls => ("http", "http-target"),
            Self::RoundTrips | Self::BulkUp | Self::BulkDown => ("any", "target"),
        }
    }

    /// Does `units` of work over the first tunnel of `pair`. Returns the units done, which are more if a
    /// stream ended only at a block's border.
    pub(super) fn run(self, pair: &RelayPair, units: u64) -> anyhow::Result<f64> {
        let tunnel = pair.tunnels.first().context("no tunnel")?;
        match self {
            Self::RoundTrips => round_trips(&mut raw(pair, tunnel)?, units),
            Self::Calls => calls(&mut connect(pair.http)?, pair.http, tunnel, units),
            Self::BulkUp => bulk_up(&mut raw(pair, tunnel)?, units * MIB),
            Self::BulkDown => bulk_down(&mut raw(pair, tunnel)?, units * MIB),
        }
    }
}

/// Opens a session over raw TCP to `tunnel`.
fn raw(pair: &RelayPair, tunnel: &str) -> anyhow::Result<TcpStream> {
    let preamble = tunnel_preamble(tunnel).context("a tunnel's name has 1 to 63 bytes")?;
    let mut socket = connect(pair.frontend)?;
    socket.write_all(&preamble)?;
    Ok(socket)
}

fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn calls(
    socket: &mut TcpStream,
    address: SocketAddr,
    tunnel: &str,
    count: u64,
) -> anyhow::Result<f64> {
    let pattern = Pattern::printable(TEXT_BYTES);
    let (host, page) = (address.to_string(), format!("/w/{tunnel}/mcp"));
    let (mut request, mut expected, mut input) = (Vec::new(), Vec::new(), Vec::new());
    for sequence in 0..count {
        let (up, rest) = pattern.message(0, sequence).split_at(TEXT_UP_BYTES);
        let number = exchange::number(0, sequence);
        request.clear();
        let text = str::from_utf8(up)?;
        exchange::request(
            RequestKind::Call,
            (&host, &page),
            number,
            text,
            &mut request,
        );
        socket.write_all(&request)?;
        expected.clear();
        exchange::answer(number, up, rest, &mut expected);
        input.clear();
        let body_at = read_head(socket, &mut input)?;
        ensure!(
            input.starts_with(b"HTTP/1.1 200 "),
            "call {sequence} got {:?}",
            String::from_utf8_lossy(&input)
        );
        let received = input.len();
        input.resize(body_at + expected.len(), 0);
        ensure!(received <= input.len(), "answer {sequence} is too long");
        socket.read_exact(&mut input[received..])?;
        ensure!(
            input[body_at..] == expected,
            "wrong bytes in answer {sequence}"
        );
    }
    Ok(count as f64)
}

/// Reads an answer's head, and what arrives with it, into `input`; returns where the body starts.
fn read_head(socket: &mut TcpStream, input: &mut Vec<u8>) -> anyhow::Result<usize> {
    const HEAD_END: &[u8] = b"\r\n\r\n";
    let mut buffer = [0; 4096];
    loop {
        let mut windows = input.windows(HEAD_END.len());
        if let Some(at) = windows.position(|bytes| bytes == HEAD_END) {
            return Ok(at + HEAD_END.len());
        }
        ensure!(
            input.len() <= HEAD_BYTES_MAX,
            "head of an answer is longer than {HEAD_BYTES_MAX} B"
        );
        let len = socket.read(&mut buffer)?;
        ensure!(len > 0, "closed before the end of an answer's head");
        input.extend_from_slice(&buffer[..len]);
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

fn bulk_up(socket: &mut TcpStream, bytes: u64) -> anyhow::Result<f64> {
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
        "client sent {sent:?}, but the target received {verdict:?}"
    );
    Ok(outgoing.sent() as f64 / MIB as f64)
}

fn bulk_down(socket: &mut TcpStream, bytes: u64) -> anyhow::Result<f64> {
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
    Ok(incoming.own_verdict().received as f64 / MIB as f64)
}

fn ask(socket: &mut TcpStream, duty: Duty) -> anyhow::Result<()> {
    let request = Request {
        duty,
        stream: 0,
        pace_kbit: None,
    };
    socket.write_all(&request.encode())?;
    let mut answer = [0];
    socket.read_exact(&mut answer)?;
    ensure!(
        answer == [ACCEPTED],
        "the path does not end at a tieline-loadgen target"
    );
    Ok(())
}

/// Reads once and checks every byte.
fn read(socket: &mut TcpStream, table: &Table, incoming: &mut Incoming) -> anyhow::Result<()> {
    let mut buffer = [0; READ_BYTES];
    let len = socket.read(&mut buffer)?;
    ensure!(len > 0, "closed before the end of the transfer");
    incoming.check(table, &buffer[..len]);
    let wrong_at = incoming.own_verdict().wrong_at;
    ensure!(wrong_at.is_none(), "a wrong byte at {wrong_at:?}");
    Ok(())
}
