//! New connections: each is opened, makes one small round trip or a TLS handshake and is closed; then its successor is
//! opened.

use std::io::{self, ErrorKind, IoSlice};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use rustls::{ClientConfig, HandshakeKind};

use crate::histogram::{Recorder, Window};
use crate::path::Path;
use crate::pattern::Pattern;
use crate::scenario::failure::{ConnectionError, WorkerError, failed};
use crate::scenario::poller::{Poller, Ready};
use crate::socket::{BUFFER_BYTES_MIN, Shake, Socket, is_not_yet};

/// How long one connection may take until its answer, including the set-up of the path.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection whose answer is not complete yet.
#[derive(Debug)]
struct Attempt {
    id: u64,
    socket: Socket,
    begun_ns: u64,
    /// Preamble and message, in one buffer; empty if only the handshake is measured.
    unsent: Vec<u8>,
    /// Bytes of `unsent` that the socket has taken.
    sent: usize,
    /// Bytes of the answer received so far.
    answered: usize,
    /// Whether the client has ended the connection after its handshake.
    is_finished: bool,
}

/// What each connection does.
#[derive(Debug)]
enum Errand {
    /// One small round trip.
    RoundTrip,
    /// A TLS handshake, with settings of its own for each of the concurrent connections, so that none takes the ticket
    /// of another.
    Handshake(Shake, Vec<Arc<ClientConfig>>),
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
    errand: Errand,
    /// Whether each of the concurrent connections has been opened once, and so may have a ticket.
    is_prepared: bool,
    buffer: Box<[u8]>,
    /// Id of the next connection; `step` is the distance to the id after it.
    next_id: u64,
    step: u64,
}

impl<'a> ConnectWorker<'a> {
    /// Runs `at_once` connections once, so that one-time set-up happens before the measurement.
    pub(super) fn prepare(
        path: &'a Path,
        pattern: &'a Pattern,
        shake: Option<Shake>,
        (at_once, first_id, step): (usize, u64, u64),
        origin: Instant,
        stop: &'a AtomicBool,
    ) -> Result<Self, WorkerError> {
        let errand = match shake {
            Some(shake) => Errand::handshakes(shake, path, at_once)
                .ok_or_else(|| failed(first_id, ConnectionError::NoHandshake))?,
            None => Errand::RoundTrip,
        };
        let mut worker = Self {
            path,
            pattern,
            origin,
            stop,
            poller: Poller::new()?,
            attempts: std::iter::repeat_with(|| None).take(at_once).collect(),
            errand,
            is_prepared: false,
            buffer: vec![0; BUFFER_BYTES_MIN].into_boxed_slice(),
            next_id: first_id,
            step,
        };
        let now_ns = worker.now_ns();
        worker.run(Window {
            from_ns: now_ns,
            until_ns: now_ns,
        })?;
        worker.is_prepared = true;
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
        let tcp = open(self.path).map_err(|error| failed(id, error))?;
        let (tls, unsent) = match &self.errand {
            Errand::Handshake(_, configs) => (configs.get(index).cloned(), Vec::new()),
            Errand::RoundTrip => {
                let client = self.path.wrap.tls.as_ref();
                let unsent = [self.path.preamble(id), self.pattern.message(id, 0)].concat();
                (client.map(|client| client.config()), unsent)
            }
        };
        let socket = Socket::begin(tcp, tls);
        let socket = socket.map_err(|error| failed(id, ConnectionError::Connect(error)))?;
        self.attempts[index] = Some(Attempt {
            id,
            socket,
            begun_ns,
            unsent,
            sent: 0,
            answered: 0,
            is_finished: false,
        });
        // On loopback the connection is often established already, so writing now saves a poll.
        self.send(index, false)
    }

    fn send(&mut self, index: usize, is_added: bool) -> Result<(), WorkerError> {
        let Some(attempt) = self.attempts.get_mut(index).and_then(Option::as_mut) else {
            return Ok(());
        };
        let rest = [IoSlice::new(&attempt.unsent[attempt.sent..])];
        match attempt.socket.write(&rest) {
            Ok(taken) => attempt.sent += taken,
            Err(error) if is_not_yet(&error) => {}
            Err(error) => return Err(failed(attempt.id, ConnectionError::Connect(error))),
        }
        let wants_write = attempt.sent < attempt.unsent.len() || attempt.socket.has_unsent();
        if !is_added {
            self.poller.add(&attempt.socket, index, wants_write)
        } else if wants_write {
            Ok(())
        } else {
            self.poller.modify(&attempt.socket, index, false)
        }
    }

    /// Returns whether the answer or the handshake is complete; if it is, the connection is closed.
    fn receive(&mut self, index: usize, recorder: &mut Recorder) -> Result<bool, WorkerError> {
        let Some(attempt) = self.attempts.get_mut(index).and_then(Option::as_mut) else {
            return Ok(false);
        };
        let id = attempt.id;
        let read = attempt.socket.read(&mut self.buffer);
        if let Errand::Handshake(shake, _) = &self.errand {
            let is_resumed = self.is_prepared && *shake == Shake::Resumed;
            let is_done = attempt.shaken(read, is_resumed);
            if !is_done.map_err(|error| failed(id, error))? {
                return Ok(false);
            }
            return Ok(self.done(index, recorder));
        }
        let expected = &self.pattern.message(id, 0)[attempt.answered..];
        let buffer = &self.buffer;
        let len = match read {
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
        Ok(self.done(index, recorder))
    }

    /// Closes a connection and counts it.
    fn done(&mut self, index: usize, recorder: &mut Recorder) -> bool {
        if let Some(attempt) = self.attempts[index].take() {
            recorder.answered(attempt.begun_ns, self.now_ns());
        }
        true
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Errand {
    /// `None` if the path does not begin with TLS or the key exchange is missing.
    fn handshakes(shake: Shake, path: &Path, at_once: usize) -> Option<Self> {
        let client = path.wrap.tls.as_ref()?;
        let configs = std::iter::repeat_with(|| client.handshakes(shake));
        let configs: Option<Vec<Arc<ClientConfig>>> = configs.take(at_once).collect();
        Some(Self::Handshake(shake, configs?))
    }
}

impl Attempt {
    /// Ends the connection once its handshake is complete; returns whether the server has ended it too, and so has done
    /// its part of the handshake and sent its tickets.
    fn shaken(
        &mut self,
        read: io::Result<usize>,
        is_resumed: bool,
    ) -> Result<bool, ConnectionError> {
        let is_end = match read {
            Ok(0) => true,
            Ok(surplus) => return Err(ConnectionError::Surplus { surplus }),
            Err(error) if is_not_yet(&error) => false,
            // A server may reset a connection that was ended without any request.
            Err(error) if self.is_finished && is_reset(&error) => true,
            Err(error) => return Err(ConnectionError::Connect(error)),
        };
        let Some(handshake) = self.socket.handshake() else {
            return if is_end {
                Err(ConnectionError::NoHandshake)
            } else {
                Ok(false)
            };
        };
        if is_resumed && handshake != HandshakeKind::Resumed {
            return Err(ConnectionError::NotResumed);
        }
        if !self.is_finished && !is_end {
            self.is_finished = true;
            return match self.socket.finish() {
                Ok(()) => Ok(false),
                // The server has read TLS's own end, and has already reset the connection.
                Err(error) if is_reset(&error) => Ok(true),
                Err(error) => Err(ConnectionError::Connect(error)),
            };
        }
        Ok(is_end)
    }
}

/// Makes two handshakes of this kind, to find out whether both ends can do it, and whether the second one resumes the
/// first if it should.
pub(super) fn probe(path: &Path, shake: Shake) -> Result<(), WorkerError> {
    let (pattern, stop) = (Pattern::new(0), AtomicBool::new(false));
    let (numbers, origin) = ((1, 0, 1), Instant::now());
    let mut worker = ConnectWorker::prepare(path, &pattern, Some(shake), numbers, origin, &stop)?;
    let now_ns = worker.now_ns();
    let nothing = Window {
        from_ns: now_ns,
        until_ns: now_ns,
    };
    worker.run(nothing).map(drop)
}

/// Whether an error of a connected socket says that the peer has reset the connection.
fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected
    )
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
