//! Moves bytes from one socket to another: inside the kernel on Linux (splice(2)), else through a buffer of this
//! process. No call blocks.

use std::io;
use std::ops::Range;

use tokio::net::TcpStream;

/// Largest piece that the kernel moves at a time, in bytes.
#[cfg(target_os = "linux")]
const PIPE_BYTES: usize = 256 * 1024;

/// Size of the buffer, where the kernel does not move the bytes.
const COPY_BYTES: usize = 64 * 1024;

/// Bytes on their way between the two sockets.
pub(super) enum Pipe {
    #[cfg(target_os = "linux")]
    Kernel(kernel::Pipe),
    /// A piece in a buffer of this process, and where in it the bytes are that are still to be written.
    Copy {
        memory: Vec<u8>,
        unsent: Range<usize>,
    },
}

impl Pipe {
    /// Opens a kernel pipe, or a buffer if no pipe can be opened.
    pub(super) fn open() -> Self {
        #[cfg(target_os = "linux")]
        if let Ok(pipe) = kernel::Pipe::open() {
            return Self::Kernel(pipe);
        }
        Self::copying()
    }

    const fn copying() -> Self {
        Self::Copy {
            memory: Vec::new(),
            unsent: 0..0,
        }
    }

    /// True if the pipe holds no bytes.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            #[cfg(target_os = "linux")]
            Self::Kernel(pipe) => pipe.is_empty(),
            Self::Copy { unsent, .. } => unsent.is_empty(),
        }
    }

    /// Moves bytes from `from` into the pipe, which must be empty; 0 at the end of `from`.
    pub(super) fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Kernel(pipe) => pipe.fill(from),
            Self::Copy { memory, unsent } => {
                memory.resize(COPY_BYTES, 0);
                *unsent = 0..from.try_read(memory)?;
                Ok(unsent.end)
            }
        }
    }

    /// Moves bytes from the pipe to `to`, as many as `to` takes.
    pub(super) fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Kernel(pipe) => pipe.drain(to),
            Self::Copy { memory, unsent } => {
                let count = to.try_write(&memory[unsent.clone()])?;
                unsent.start += count;
                Ok(count)
            }
        }
    }
}

#[cfg(target_os = "linux")]
mod kernel {
    use std::io;
    use std::os::fd::OwnedFd;

    use rustix::io::retry_on_intr;
    use rustix::net::{RecvFlags, recv};
    use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
    use tokio::io::Interest;
    use tokio::net::TcpStream;

    use super::PIPE_BYTES;

    const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

    pub(in super::super) struct Pipe {
        read: OwnedFd,
        write: OwnedFd,
        len: usize,
    }

    impl Pipe {
        pub(super) fn open() -> io::Result<Self> {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            // A smaller pipe will do: a user with many pipes gets no larger one (pipe(7), `pipe-user-pages-soft`).
            let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
            Ok(Self {
                read,
                write,
                len: 0,
            })
        }

        pub(super) const fn is_empty(&self) -> bool {
            self.len == 0
        }

        pub(super) fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
            self.len = from.try_io(Interest::READABLE, || {
                for _ in 0..2 {
                    let into = || splice(from, None, &self.write, None, PIPE_BYTES, FLAGS);
                    let moved = retry_on_intr(into);
                    if moved.is_ok_and(|count| count > 0) {
                        return Ok(moved?);
                    }
                    // splice(2) stops in front of urgent data and reports 0 bytes, which would look like the
                    // end.
                    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
                    if !retry_on_intr(|| recv(from, &mut [0], flags)).is_ok_and(|(_, len)| len > 0)
                    {
                        return Ok(moved?);
                    }
                    // The peek saw urgent data, or bytes that came after the splice: tries once more.
                }
                self.fill_by_hand(from)
            })?;
            Ok(self.len)
        }

        /// Moves one byte of urgent data, which splice(2) never moves.
        fn fill_by_hand(&self, from: &TcpStream) -> io::Result<usize> {
            let mut byte = [0];
            let (_, count) = retry_on_intr(|| recv(from, &mut byte[..], RecvFlags::DONTWAIT))?;
            if count == 0 {
                return Ok(0);
            }
            Ok(retry_on_intr(|| rustix::io::write(&self.write, &byte))?)
        }

        pub(super) fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
            let count = to.try_io(Interest::WRITABLE, || {
                let out = || splice(&self.read, None, to, None, self.len, FLAGS);
                Ok(retry_on_intr(out)?)
            })?;
            self.len -= count;
            Ok(count)
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let caller = TcpStream::connect(listener.local_addr().unwrap());
        let (caller, accepted) = tokio::join!(caller, listener.accept());
        (caller.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn bytes_and_their_end_go_through_whichever_way_they_are_moved() {
        for mut pipe in [Pipe::open(), Pipe::copying()] {
            let (mut sender, from) = connected().await;
            let (to, mut receiver) = connected().await;
            let sent: Vec<u8> = (0..300_000_u32).map(|at| at.to_le_bytes()[1]).collect();
            let (expected, mut seen) = (sent.clone(), Vec::new());
            let sending = async {
                sender.write_all(&sent).await.unwrap();
                sender.shutdown().await.unwrap();
            };
            let moving = async {
                loop {
                    match pipe.fill(&from) {
                        Ok(0) => break,
                        Ok(_) => {}
                        Err(_) => {
                            from.readable().await.unwrap();
                            continue;
                        }
                    }
                    while !pipe.is_empty() {
                        if pipe.drain(&to).is_err() {
                            to.writable().await.unwrap();
                        }
                    }
                }
                drop(to);
            };
            let (_, (), read) = tokio::join!(sending, moving, receiver.read_to_end(&mut seen));
            read.unwrap();
            assert_eq!(seen, expected);
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn urgent_data_goes_along_and_is_no_end() {
        let (sender, from) = connected().await;
        let (to, mut receiver) = connected().await;
        // Set as on every connection that the agent makes.
        let inline = socket2::SockRef::from(&from).set_out_of_band_inline(true);
        inline.unwrap();
        {
            let sender = socket2::SockRef::from(&sender);
            sender.send(b"before").unwrap();
            sender.send_out_of_band(b"!").unwrap();
            sender.send(b"after").unwrap();
        }
        drop(sender);
        let mut pipe = Pipe::open();
        assert!(matches!(pipe, Pipe::Kernel(_)));
        loop {
            match pipe.fill(&from) {
                Ok(0) => break,
                Ok(count) => assert_eq!(pipe.drain(&to).unwrap(), count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    from.readable().await.unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
        drop(to);
        let mut seen = Vec::new();
        receiver.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"before!after");
    }
}
