//! Bulk transfer at full speed: one thread's connections, with every byte checked.
//!
//! The target checks the bytes sent up and reports its verdict at the end; the client checks those sent down.

use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::blocks::{BLOCK_BYTES, Incoming, Outgoing, Table, Verdict};
use crate::histogram::{Recorder, Window};
use crate::path::Path;
use crate::scenario::Direction;
use crate::scenario::failure::{ConnectionError, WorkerError, failed};
use crate::scenario::poller::{Poller, Ready};
use crate::socket::Socket;
use crate::targets::request::{ACCEPTED, Duty, Request};

/// Timeout for connecting and for the target's acceptance of the request.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long bytes in flight at the end of a round may take to arrive.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Most reads or writes in a row on one connection before other connections are served.
const TURNS_MAX: usize = 8;

/// One connection of a bulk transfer.
#[derive(Debug)]
struct Transfer {
    id: u64,
    socket: Socket,
    sends: bool,
    outgoing: Outgoing,
    incoming: Incoming,
    wants_write: bool,
}

/// A thread's share of a path's connections.
#[derive(Debug)]
pub(super) struct BulkWorker<'a> {
    transfers: Vec<Transfer>,
    table: Table,
    buffer: Box<[u8]>,
    poller: Poller,
    origin: Instant,
    stop: &'a AtomicBool,
}

impl<'a> BulkWorker<'a> {
    /// Opens the connections and waits until the target has accepted each of them. What comes down has a rate, in kbit/s,
    /// or comes as fast as possible.
    pub(super) fn connect(
        path: &Path,
        load: (Direction, Option<u32>),
        ids: impl Iterator<Item = u64>,
        origin: Instant,
        stop: &'a AtomicBool,
    ) -> Result<Self, WorkerError> {
        let poller = Poller::new()?;
        let mut transfers = Vec::new();
        let (table, mut buffer) = (Table::new(), vec![0; BLOCK_BYTES].into_boxed_slice());
        for id in ids {
            if stop.load(Ordering::Relaxed) {
                return Err(WorkerError::Stopped);
            }
            let opened = Transfer::open(path, load, id, (&table, &mut buffer[..]));
            let transfer = opened.map_err(|error| failed(id, error))?;
            poller.add(&transfer.socket, transfers.len(), transfer.wants_write)?;
            transfers.push(transfer);
        }
        Ok(Self {
            transfers,
            table,
            buffer,
            poller,
            origin,
            stop,
        })
    }

    /// Moves bytes until the window ends and the target has confirmed all of them.
    pub(super) fn run(mut self, window: Window) -> Result<Recorder, WorkerError> {
        let mut recorder = Recorder::new(window);
        let drain_ns = u64::try_from(DRAIN_TIMEOUT.as_nanos()).unwrap_or(u64::MAX);
        let mut is_ending = false;
        let mut open = self.transfers.len();
        let mut ready: Vec<Ready> = Vec::new();
        while open > 0 {
            if self.stop.load(Ordering::Relaxed) {
                return Err(WorkerError::Stopped);
            }
            let now_ns = self.now_ns();
            if now_ns >= window.until_ns.saturating_add(drain_ns) {
                return Err(WorkerError::Silent {
                    silent: open,
                    connections: self.transfers.len(),
                    seconds: DRAIN_TIMEOUT.as_secs(),
                });
            }
            if now_ns >= window.until_ns && !is_ending {
                is_ending = true;
                for index in 0..self.transfers.len() {
                    let transfer = &mut self.transfers[index];
                    transfer.outgoing.end(Verdict {
                        received: 0,
                        wrong_at: None,
                    });
                    transfer.sends = true;
                    self.write(index, &mut recorder)?;
                }
            }
            let rest = Duration::from_nanos(window.until_ns.saturating_sub(now_ns).max(1_000_000));
            self.poller.wait(rest, &mut ready)?;
            for event in &ready {
                if event.writable {
                    self.write(event.index, &mut recorder)?;
                }
                if event.readable && self.read(event.index, &mut recorder)? {
                    open -= 1;
                }
            }
        }
        Ok(recorder)
    }

    fn write(&mut self, index: usize, recorder: &mut Recorder) -> Result<(), WorkerError> {
        let transfer = &mut self.transfers[index];
        for _ in 0..TURNS_MAX {
            if !transfer.sends || transfer.outgoing.is_finished() {
                break;
            }
            let before = transfer.outgoing.sent();
            match transfer.socket.write(&transfer.outgoing.next(&self.table)) {
                Ok(taken) => transfer.outgoing.advance(taken),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(transfer.id, transfer.broke(error))),
            }
            let taken = transfer.outgoing.sent() - before;
            let now_ns = nanoseconds_since(self.origin);
            recorder.moved(usize::try_from(taken).unwrap_or(usize::MAX), 0, now_ns);
        }
        let flushed = transfer.socket.flush();
        let is_flushed = flushed.map_err(|error| failed(transfer.id, transfer.broke(error)))?;
        let wants_write = !is_flushed || transfer.sends && !transfer.outgoing.is_finished();
        if wants_write != transfer.wants_write {
            transfer.wants_write = wants_write;
            self.poller.modify(&transfer.socket, index, wants_write)?;
        }
        Ok(())
    }

    /// Returns whether the target's verdict has been received and the transfer is complete.
    fn read(&mut self, index: usize, recorder: &mut Recorder) -> Result<bool, WorkerError> {
        let transfer = &mut self.transfers[index];
        for _ in 0..TURNS_MAX {
            let len = match transfer.socket.read(&mut self.buffer) {
                Ok(0) => return Err(failed(transfer.id, transfer.closed())),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(transfer.id, transfer.broke(error))),
            };
            let before = transfer.incoming.own_verdict().received;
            transfer.incoming.check(&self.table, &self.buffer[..len]);
            let own = transfer.incoming.own_verdict();
            if let Some(offset) = own.wrong_at {
                let error = ConnectionError::WrongBulkByte {
                    way: "down",
                    offset,
                };
                return Err(failed(transfer.id, error));
            }
            let brought = usize::try_from(own.received - before).unwrap_or(usize::MAX);
            recorder.moved(0, brought, nanoseconds_since(self.origin));
            if let Some(verdict) = transfer.incoming.verdict() {
                transfer
                    .judge(verdict)
                    .map_err(|error| failed(transfer.id, error))?;
                // The target closes the connection next; that event is of no interest.
                self.poller.remove(&transfer.socket)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn now_ns(&self) -> u64 {
        nanoseconds_since(self.origin)
    }
}

fn nanoseconds_since(origin: Instant) -> u64 {
    u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl Transfer {
    fn open(
        path: &Path,
        (direction, pace_kbit): (Direction, Option<u32>),
        id: u64,
        (table, buffer): (&Table, &mut [u8]),
    ) -> Result<Self, ConnectionError> {
        let duty = match direction {
            Direction::Up => Duty::Sink,
            Direction::Down => Duty::Source,
            Direction::Both => Duty::Duplex,
        };
        let request = Request {
            duty,
            stream: id,
            pace_kbit,
        };
        let mut connect = || {
            let page = path.page(id);
            let mut socket = Socket::open(path.address, &path.wrap, page, ACCEPT_TIMEOUT)?;
            socket.write_all(&[path.preamble(id), &request.encode()].concat())?;
            let len = socket.read(buffer)?;
            if len == 0 {
                return Err(io::Error::from(ErrorKind::UnexpectedEof));
            }
            socket.set_nonblocking(true)?;
            Ok((socket, len))
        };
        let (socket, len) = connect().map_err(ConnectionError::Connect)?;
        let [ACCEPTED, first @ ..] = &buffer[..len] else {
            return Err(ConnectionError::NoTarget);
        };
        let mut incoming = Incoming::new(id);
        incoming.check(table, first);
        let sends = direction != Direction::Down;
        Ok(Self {
            id,
            socket,
            sends,
            outgoing: Outgoing::new(id),
            incoming,
            wants_write: sends,
        })
    }

    fn judge(&self, verdict: Verdict) -> Result<(), ConnectionError> {
        let sent = self.outgoing.sent();
        match verdict.wrong_at {
            Some(offset) => Err(ConnectionError::WrongBulkByte { way: "up", offset }),
            None if verdict.received != sent => Err(ConnectionError::Lost {
                sent,
                received: verdict.received,
            }),
            None => Ok(()),
        }
    }

    fn broke(&self, source: io::Error) -> ConnectionError {
        ConnectionError::BulkBroken {
            up: self.outgoing.sent(),
            down: self.incoming.own_verdict().received,
            source,
        }
    }

    fn closed(&self) -> ConnectionError {
        self.broke(io::Error::new(
            ErrorKind::UnexpectedEof,
            "closed before the end of the transfer",
        ))
    }
}
