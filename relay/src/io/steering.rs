//! Short classic BPF programs that the kernel runs for a listening socket. One chooses which of the sockets on a
//! port gets a connection (`SO_ATTACH_REUSEPORT_CBPF`, socket(7)), one refuses new connections
//! (`SO_ATTACH_FILTER`). The program for QUIC packets is in `packet_steering`.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{sock_filter, sock_fprog, socklen_t};

/// Instruction codes of classic BPF (`linux/bpf_common.h`).
pub(super) const LOAD_WORD: u16 = 0x20;
pub(super) const LOAD_BYTE: u16 = 0x30;
const AND: u16 = 0x54;
pub(super) const MODULO: u16 = 0x94;
const JUMP_UNLESS_EQUAL: u16 = 0x15;
pub(super) const RETURN: u16 = 0x06;

/// Offset that loads a random number (`linux/filter.h`).
const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM).cast_unsigned();

/// Offset of the flags in a TCP header, and two of the flags (RFC 9293, section 3.1).
const FLAGS_AT: u32 = 13;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;

/// Invalid index: the kernel falls back to its own choice (socket(7)).
pub(super) const NO_PLACE: u32 = u32::MAX;

/// Spreads the connections of `listener`'s port over the sockets at `places`. A socket's place is its position
/// in the order of listening, counted from 0.
pub(super) fn steer(listener: BorrowedFd<'_>, places: &[u32]) -> io::Result<()> {
    attach(listener, libc::SO_ATTACH_REUSEPORT_CBPF, program(places))
}

/// Drops requests for new connections on `listener`; to the peer this looks like a lost packet. Handshakes in
/// progress go on.
pub(super) fn turn_away(listener: BorrowedFd<'_>) -> io::Result<()> {
    // A filter of a TCP socket sees a segment from the first byte of its TCP header.
    let program = vec![
        instruction(LOAD_BYTE, FLAGS_AT),
        instruction(AND, SYN | ACK),
        sock_filter {
            jf: 1,
            ..instruction(JUMP_UNLESS_EQUAL, SYN)
        },
        instruction(RETURN, 0),
        instruction(RETURN, u32::MAX),
    ];
    attach(listener, libc::SO_ATTACH_FILTER, program)
}

/// Attaches `program` to a socket by one of the options above.
pub(super) fn attach(
    socket: BorrowedFd<'_>,
    option: c_int,
    mut program: Vec<sock_filter>,
) -> io::Result<()> {
    let fprog = sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_mut_ptr(),
    };
    let len = socklen_t::try_from(size_of::<sock_fprog>()).map_err(io::Error::other)?;
    let value: *const c_void = (&raw const fprog).cast();
    // SAFETY: both options take a `sock_fprog`, here of `len` bytes, whose pointer and length are those of
    // `program`; the kernel copies both during the call. The descriptor is borrowed, so it is open.
    let outcome: c_int =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, len) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

pub(super) const fn instruction(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// A program that returns one of `places` at random, all with the same probability.
fn program(places: &[u32]) -> Vec<sock_filter> {
    let mut program = Vec::new();
    if places.len() > 1 {
        program.push(instruction(LOAD_WORD, RANDOM));
        // One place per shard, so the count is small.
        let count = u32::try_from(places.len()).unwrap_or(u32::MAX);
        program.push(instruction(MODULO, count));
    }
    for (number, place) in (0..).zip(places) {
        if places.len() > 1 {
            program.push(sock_filter {
                jf: 1,
                ..instruction(JUMP_UNLESS_EQUAL, number)
            });
        }
        program.push(instruction(RETURN, *place));
    }
    program.push(instruction(RETURN, NO_PLACE));
    program
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::io::listener::listening;
    use crate::io::{Accepted, Unfinished};

    const PLAIN: Accepted = Accepted {
        unfinished: Unfinished::Ends,
        notsent_bytes: 16 * 1024,
    };

    #[test]
    fn a_listener_that_turns_away_keeps_what_waits_and_begins_nothing() {
        let (bound, sockets) = listening(1, PLAIN);
        let waiting = TcpStream::connect(bound).unwrap();
        turn_away(sockets[0].as_fd()).unwrap();
        let late = TcpStream::connect_timeout(&bound, Duration::from_millis(300));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let (_, peer) = sockets[0].accept().unwrap();
        assert_eq!(peer, waiting.local_addr().unwrap());
        sockets[0].set_nonblocking(true).unwrap();
        assert!(sockets[0].accept().is_err());
    }

    #[test]
    fn connections_go_to_the_chosen_sockets_and_to_all_of_them() {
        let (bound, sockets) = listening(4, PLAIN);
        for socket in &sockets {
            socket.set_nonblocking(true).unwrap();
        }
        // A program can be attached through any socket of the port.
        for (places, through) in [(&[2][..], 0), (&[0, 3], 1), (&[0, 1, 2, 3], 3), (&[1], 2)] {
            steer(sockets[through].as_fd(), places).unwrap();
            let callers: Vec<_> = (0..200)
                .map(|_| TcpStream::connect(bound).unwrap())
                .collect();
            let mut accepted = vec![0; sockets.len()];
            let deadline = Instant::now() + Duration::from_secs(20);
            // The kernel finishes a handshake in its own time, so an accept may come too early.
            while accepted.iter().sum::<usize>() < callers.len() {
                assert!(Instant::now() < deadline, "{accepted:?} for {places:?}");
                for (socket, count) in sockets.iter().zip(&mut accepted) {
                    *count += usize::from(socket.accept().is_ok());
                }
            }
            for (place, count) in (0..).zip(&accepted) {
                // The choice is random: each chosen socket gets at least a quarter of its fair share.
                let fair = callers.len() / places.len() / 4;
                let wanted = if places.contains(&place) { fair } else { 0 };
                assert!(*count >= wanted, "{accepted:?} for {places:?}");
                assert!(*count == 0 || wanted > 0, "{accepted:?} for {places:?}");
            }
        }
    }
}
