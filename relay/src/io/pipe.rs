//! Pipes through which the kernel moves bytes from one socket to another without copying them to user
//! space (splice(2)).

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tieline_transport::Received;

use super::socket::Socket;

/// Capacity of a pipe, in bytes. Once a user's pipes hold 64 MiB the kernel grants less (pipe(7),
/// `pipe-user-pages-soft`); a smaller pipe works, too.
pub(crate) const PIPE_BYTES: usize = 256 * 1024;

/// Empty pipes kept for later lanes.
const PIPES_KEPT: usize = 16;

/// A pipe, and the number of bytes in it.
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    len: usize,
}

impl Pipe {
    fn open() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
        Ok(Self {
            read,
            write,
            len: 0,
        })
    }

    /// True if the pipe holds no bytes.
    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Moves bytes from `from` into the pipe, which must be empty: with bytes in it, a full pipe could not be told
    /// from a socket without data. `from` must be non-blocking.
    pub(crate) fn fill(&mut self, from: &Socket) -> io::Result<Received> {
        assert!(self.is_empty(), "a pipe is drained before it is filled");
        for _ in 0..2 {
            let moved = again(|| splice(from, None, &self.write, None, PIPE_BYTES, FLAGS))?;
            if let Some(count) = moved.filter(|count| *count > 0) {
                self.len = count;
                return Ok(Received::Bytes(count));
            }
            // splice(2) stops before urgent data and returns 0, which looks like the end.
            if !matches!(from.peek(&mut [0])?, Received::Bytes(_)) {
                return Ok(moved.map_or(Received::Nothing, |_| Received::End));
            }
            // Otherwise bytes arrived after the splice: try once more.
        }
        self.fill_by_hand(from)
    }

    /// Reads the one urgent byte that splice(2) cannot pass.
    fn fill_by_hand(&mut self, from: &Socket) -> io::Result<Received> {
        let mut byte = [MaybeUninit::new(0)];
        let received = from.recv_uninit(&mut byte)?;
        if received == Received::Bytes(1) {
            // SAFETY: the array was initialised when it was made.
            let byte = unsafe { byte[0].assume_init() };
            self.len = rustix::io::write(&self.write, &[byte])?;
        }
        Ok(received)
    }

    /// Moves bytes to `to` as far as it takes them at once; 0 means: wait for readiness. `to` must be non-blocking.
    pub(crate) fn drain(&mut self, to: &Socket) -> io::Result<usize> {
        let moved = again(|| splice(&self.read, None, to, None, self.len, FLAGS))?;
        if moved.is_none() {
            to.found_no_room();
        }
        let count = moved.unwrap_or(0);
        self.len -= count;
        Ok(count)
    }
}

const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

/// Repeats an interrupted call; `None` if the call would block.
fn again(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match call() {
            Ok(count) => return Ok(Some(count)),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Empty pipes of one shard, kept for reuse.
#[derive(Default)]
pub(crate) struct Pipes(RefCell<Vec<Pipe>>);

impl Pipes {
    /// An empty pipe, kept or new.
    ///
    /// # Errors
    /// The limit of open files is reached.
    pub(crate) fn take(&self) -> io::Result<Pipe> {
        let kept = self.0.borrow_mut().pop();
        kept.map_or_else(Pipe::open, Ok)
    }

    /// Takes a pipe back; one that still holds bytes is closed.
    pub(crate) fn put(&self, pipe: Pipe) {
        let mut kept = self.0.borrow_mut();
        if pipe.is_empty() && kept.len() < PIPES_KEPT {
            kept.push(pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::socket::with_urgent_byte;
    use crate::io::{Chosen, pair, run};

    #[test]
    fn bytes_go_from_socket_to_socket_and_so_does_the_end() {
        run(Chosen::Epoll, async {
            let sockets = [pair().unwrap(), pair().unwrap()];
            let [(a, from), (to, b)] = sockets.map(|(one, other)| {
                let socket = |fd| Socket::new(fd);
                (socket(one), socket(other))
            });
            for socket in [&from, &to] {
                socket.set_nonblocking().unwrap();
            }
            let pipes = Pipes::default();
            let mut pipe = pipes.take().unwrap();
            assert_eq!(pipe.fill(&from).unwrap(), Received::Nothing);
            assert_eq!(a.send(b"frames no more").unwrap(), 14);
            assert_eq!(pipe.fill(&from).unwrap(), Received::Bytes(14));
            assert_eq!(pipe.drain(&to).unwrap(), 14);
            let mut seen = bytes::BytesMut::new();
            b.recv(&mut seen, 100).unwrap();
            assert_eq!(&seen[..], b"frames no more");
            a.finish();
            assert_eq!(pipe.fill(&from).unwrap(), Received::End);
        })
        .unwrap();
    }

    #[test]
    fn urgent_data_goes_along_and_is_no_end() {
        run(Chosen::Epoll, async {
            let (from, caller) = with_urgent_byte();
            drop(caller);
            from.set_nonblocking().unwrap();
            let (to, other) = pair().unwrap();
            let (to, other) = (Socket::new(to), Socket::new(other));
            let pipes = Pipes::default();
            let mut pipe = pipes.take().unwrap();
            loop {
                match pipe.fill(&from).unwrap() {
                    Received::Bytes(count) => assert_eq!(pipe.drain(&to).unwrap(), count),
                    Received::Nothing => from.readable().await,
                    Received::End => break,
                }
            }
            let mut seen = bytes::BytesMut::new();
            other.recv(&mut seen, 100).unwrap();
            assert_eq!(&seen[..], b"before!after");
        })
        .unwrap();
    }

    #[test]
    fn a_pipe_that_still_holds_bytes_serves_nobody_else() {
        run(Chosen::Epoll, async {
            let (a, from) = pair().unwrap();
            let (a, from) = (Socket::new(a), Socket::new(from));
            from.set_nonblocking().unwrap();
            a.send(b"leftover").unwrap();
            let pipes = Pipes::default();
            let mut pipe = pipes.take().unwrap();
            pipe.fill(&from).unwrap();
            pipes.put(pipe);
            assert!(pipes.take().unwrap().is_empty());
        })
        .unwrap();
    }
}
