//! New connections: each is opened, makes one small round trip and is closed; then its successor is opened.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use crate::histogram::{Recorder, Window};
use crate::path::Path;
use crate::pattern::Pattern;
use crate::scenario::failure::{ConnectionError, WorkerError, failed};
use crate::scenario::poller::{Poller, Ready};

/// How long one connection may take until its answer, including the set-up of the path.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Size of the read buffer; an answer is smaller.
const READ_BYTES: usize = 4096;

/// A connection whose answer is not complete yet.
#[derive(Debug)]
struct Attempt {
    id: u64,
    socket: TcpStream,
    begun_ns: u64,
    /// Preamble and message, in one buffer.
    unsent: Vec<u8>,
    /// Bytes of `unsent` that the socket has taken.
    sent: usize,
    /// Bytes of the answer received so far.
    answered: usize,
}

/// A thread's share of the concurrently open connections.
#[derive(Debug)]
pub(super) struct ConnectWorker<'a> {
    path: &'a Path,
    pattern: &'a Pattern,
    origin: Instant,
    stop: &'a AtomicBool,
    poller: Poller,
    attempts: Vec<Option<Attempt>>,
    /// Id of the next connection; `step` is the distance to the id after it.
    next_id: u64,
    step: u64,
}

impl<'a> ConnectWorker<'a> {
    /// Runs `at_once` connections once, so that one-time set-up happens before the measurement.
    pub(super) fn prepare(
        path: &'a Path,
        pattern: &'a Pattern,
        (at_once, first_id, step): (usize, u64, u64),
        origin: Instant,
        stop: &'a AtomicBool,
    ) -> Result<Self, WorkerError> {
        let mut worker = Self {
            path,
            pattern,
            origin,
            stop,
            poller: Poller::new()?,
            attempts: std::iter::repeat_with(|| None).take(at_once).collect(),
            next_id: first_id,
            step,
        };
        let now_ns = worker.now_ns();
        worker.run(Window {
            from_ns: now_ns,
            until_ns: now_ns,
        })?;
        Ok(worker)
    }

    /// Opens connections until the window ends and each has its answer.
    pub(super) fn run(&mut self, window: Window) -> Result<Recorder, WorkerError> {
        let mut recorder = Recorder::new(window);
        let mut ready: Vec<Ready> = Vec::new();
        for index in 0..self.attempts.len() {
            self.begin(index)?;
        }
        let mut open = self.attempts.len();
        // Time of the last event on any connection.
        let mut progress_ns = self.now_ns();
        while open > 0 {
            if self.stop.load(Ordering::Relaxed) {
                return Err(WorkerError::Stopped);
            }
            self.poller.wait(ANSWER_TIMEOUT, &mut ready)?;
            let now_ns = self.now_ns();
            if !ready.is_empty() {
                progress_ns = now_ns;
            } else if Duration::from_nanos(now_ns - progress_ns) > ANSWER_TIMEOUT {
                return Err(WorkerError::Silent {
                    silent: open,
                    connections: self.attempts.len(),
                    seconds: ANSWER_TIMEOUT.as_secs(),
                });
            }
            for event in &ready {
                if event.writable {
                    self.send(event.index, true)?;
                }
                if event.readable && self.receive(event.index, &mut recorder)? {
                    if self.now_ns() < window.until_ns {
                        self.begin(event.index)?;
                    } else {
                        open -= 1;
                    }
                }
            }
        }
        Ok(recorder)
    }

    fn begin(&mut self, index: usize) -> Result<(), WorkerError> {
        let id = self.next_id;
        self.next_id += self.step;
        let begun_ns = self.now_ns();
        let socket = open(self.path).map_err(|error| failed(id, error))?;
        let unsent = [self.path.preamble(id), self.pattern.message(id, 0)].concat();
        self.attempts[index] = Some(Attempt {
            id,
            socket,
            begun_ns,
            unsent,
            sent: 0,
            answered: 0,
        });
        // On loopback the connection is often established already, so writing now saves a poll.
        self.send(index, false)
    }

    fn send(&mut self, index: usize, is_added: bool) -> Result<(), WorkerError> {
        let Some(attempt) = self.attempts.get_mut(index).and_then(Option::as_mut) else {
            return Ok(());
        };
        match (&attempt.socket).write(&attempt.unsent[attempt.sent..]) {
            Ok(taken) => attempt.sent += taken,
            Err(error) if is_not_yet(&error) => {}
            Err(error) => return Err(failed(attempt.id, ConnectionError::Connect(error))),
        }
        let wants_write = attempt.sent < attempt.unsent.len();
        if !is_added {
            self.poller.add(&attempt.socket, index, wants_write)
        } else if wants_write {
            Ok(())
        } else {
            self.poller.modify(&attempt.socket, index, false)
        }
    }

    /// Returns whether the answer is complete; if it is, the connection is closed.
    fn receive(&mut self, index: usize, recorder: &mut Recorder) -> Result<bool, WorkerError> {
        let Some(attempt) = self.attempts.get_mut(index).and_then(Option::as_mut) else {
            return Ok(false);
        };
        let id = attempt.id;
        let expected = &self.pattern.message(id, 0)[attempt.answered..];
        let mut buffer = [0; READ_BYTES];
        let len = match (&attempt.socket).read(&mut buffer) {
            Ok(0) => {
                let missing = expected.len();
                let error = ConnectionError::Closed {
                    answered: 0,
                    missing,
                };
                return Err(failed(id, error));
            }
            Ok(len) => len,
            Err(error) if is_not_yet(&error) => return Ok(false),
            Err(error) => return Err(failed(id, ConnectionError::Connect(error))),
        };
        if len > expected.len() {
            let surplus = len - expected.len();
            return Err(failed(id, ConnectionError::Surplus { surplus }));
        }
        if buffer[..len] != expected[..len] {
            let same = buffer.iter().zip(expected).take_while(|(a, b)| a == b);
            let error = ConnectionError::WrongByte {
                answered: 0,
                offset: attempt.answered + same.count(),
            };
            return Err(failed(id, error));
        }
        attempt.answered += len;
        if attempt.answered < self.pattern.size() {
            return Ok(false);
        }
        let begun_ns = attempt.begun_ns;
        self.attempts[index] = None;
        recorder.answered(begun_ns, self.now_ns());
        Ok(true)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Starts a non-blocking connect.
fn open(path: &Path) -> Result<TcpStream, ConnectionError> {
    let family = if path.address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let refused = |error: Errno| ConnectionError::Connect(error.into());
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None).map_err(refused)?;
    rustix::net::sockopt::set_tcp_nodelay(&socket, true).map_err(refused)?;
    match connect(&socket, &path.address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(Errno::ADDRNOTAVAIL) => Err(ConnectionError::NoPort),
        Err(error) => Err(refused(error)),
    }
}

fn is_not_yet(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected
    )
}
