//! Steering of QUIC packets: the sockets on a UDP port divide the packets by the connection ID in them. The kernel runs
//! a short classic BPF program for each packet (`SO_ATTACH_REUSEPORT_CBPF`, socket(7)), and
//! [`PacketSteering::place_of`] does the same arithmetic, so that a shard can choose IDs whose packets come to itself.
//!
//! For UDP the program sees a packet from the first byte of its payload: the kernel moves the data past the UDP header
//! before it runs the program (`run_bpf_filter` in net/core/sock_reuseport.c, called with the length of that header).
//! The length that it loads is then that of the payload. An index that no socket has makes the kernel choose by its own
//! hash of the addresses. The kernel runs the program once for datagrams that it has joined (GRO), so datagrams of two
//! connections between the same two ports may come to the socket of the first.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use libc::sock_filter;

use super::steering::{LOAD_BYTE, LOAD_WORD, MODULO, NO_PLACE, RETURN, attach, instruction};

/// Instruction codes of classic BPF (`linux/bpf_common.h`, `linux/filter.h`).
const LOAD_LENGTH: u16 = 0x80;
const LOAD_STORED: u16 = 0x60;
const STORE: u16 = 0x02;
const COPY_TO_X: u16 = 0x07;
const XOR: u16 = 0xa4;
const XOR_X: u16 = 0xac;
const MULTIPLY: u16 = 0x24;
const SHIFT_RIGHT: u16 = 0x74;
const JUMP: u16 = 0x05;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const JUMP_IF_SET: u16 = 0x45;
const RETURN_RESULT: u16 = 0x16;

/// Bit of a packet's first byte that marks a long header (RFC 8999, section 5.1).
const LONG_HEADER: u8 = 0x80;

/// Offset of the connection ID behind a short header's first byte (RFC 9000, section 17.3).
const SHORT_ID_AT: usize = 1;

/// Offset of the destination connection ID in a long header: behind the first byte, the version, and the ID's length
/// (RFC 8999, section 5.1).
const LONG_ID_AT: usize = 6;

/// Bytes of a connection ID that decide. IDs of the relay have just these; clients' first ones have 8 to 20 (RFC 9000,
/// section 7.2).
pub(crate) const ID_BYTES: usize = 8;

/// Shifts, and the last factor, of the arithmetic. All steps can be undone (factors are odd), so that every socket gets
/// the same share of all IDs.
const SHIFTS: [u32; 3] = [15, 13, 16];
const LAST_FACTOR: u32 = 0x846c_a68b;

/// Key of the arithmetic, without which clients could choose IDs that all come to one socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SteeringKey {
    masks: [u32; 2],
    /// Odd.
    factors: [u32; 2],
}

impl SteeringKey {
    /// The key that `bytes`, which are secret and random, make.
    pub(crate) fn new(bytes: [u8; 16]) -> Self {
        let whole = u128::from_be_bytes(bytes);
        let word = |at: u32| {
            let word = whole >> (32 * at) & u128::from(u32::MAX);
            // Masked to 32 bits above.
            u32::try_from(word).unwrap_or_default()
        };
        Self {
            masks: [word(0), word(1)],
            factors: [word(2) | 1, word(3) | 1],
        }
    }

    /// Hash of eight bytes.
    pub(crate) fn hash(&self, id: [u8; ID_BYTES]) -> u32 {
        let whole = u64::from_be_bytes(id);
        // Both halves fit into 32 bits.
        let first = u32::try_from(whole >> 32).unwrap_or_default();
        let second = u32::try_from(whole & u64::from(u32::MAX)).unwrap_or_default();
        let mut hash = (first ^ self.masks[0]).wrapping_mul(self.factors[0]);
        hash ^= hash >> SHIFTS[0];
        hash = (second ^ hash ^ self.masks[1]).wrapping_mul(self.factors[1]);
        hash ^= hash >> SHIFTS[1];
        hash = hash.wrapping_mul(LAST_FACTOR);
        hash ^ hash >> SHIFTS[2]
    }
}

impl fmt::Debug for SteeringKey {
    /// Shows nothing: the key is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SteeringKey(..)")
    }
}

/// Division of packets among the sockets of one port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PacketSteering {
    key: SteeringKey,
    /// Number of sockets, at least 1.
    sockets: u32,
}

impl PacketSteering {
    /// Among `sockets` sockets; one, if that is 0.
    pub(crate) fn new(key: SteeringKey, sockets: usize) -> Self {
        let sockets = u32::try_from(sockets).unwrap_or(u32::MAX).max(1);
        Self { key, sockets }
    }

    /// The socket for packets to a connection ID that begins with `id`: its position in the order of binding.
    pub(crate) fn place(&self, id: [u8; ID_BYTES]) -> usize {
        usize::try_from(self.key.hash(id) % self.sockets).unwrap_or_default()
    }

    /// The socket for `packet`; `None` if it is too short to have a connection ID, and the kernel chooses.
    pub(crate) fn place_of(&self, packet: &[u8]) -> Option<usize> {
        let at = match packet.first()? & LONG_HEADER {
            0 => SHORT_ID_AT,
            _ => LONG_ID_AT,
        };
        let id = packet.get(at..at + ID_BYTES)?;
        Some(self.place(id.try_into().ok()?))
    }

    /// Makes the kernel divide the packets of a port like this from now on. `socket` is any of its sockets. One socket
    /// has a program, too: sockets that another relay adds, before it replaces the program, get nothing until then.
    pub(crate) fn steer(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        attach(socket, libc::SO_ATTACH_REUSEPORT_CBPF, self.program())
    }

    /// The arithmetic of [`PacketSteering::place_of`], as a program.
    fn program(&self) -> Vec<sock_filter> {
        let SteeringKey { masks, factors } = self.key;
        let mut program = vec![
            instruction(LOAD_LENGTH, 0),
            // To the last instruction if the packet is too short.
            branch(JUMP_IF_AT_LEAST, SHORT_ID_AT + ID_BYTES, 0, 33),
            instruction(LOAD_BYTE, 0),
            branch(JUMP_IF_SET, usize::from(LONG_HEADER), 5, 0),
        ];
        program.extend(store_id(SHORT_ID_AT));
        program.extend([
            // Past the next six, which are for a long header.
            instruction(JUMP, 6),
            instruction(LOAD_LENGTH, 0),
            branch(JUMP_IF_AT_LEAST, LONG_ID_AT + ID_BYTES, 0, 24),
        ]);
        program.extend(store_id(LONG_ID_AT));
        program.extend([
            instruction(LOAD_STORED, 0),
            instruction(XOR, masks[0]),
            instruction(MULTIPLY, factors[0]),
        ]);
        program.extend(fold(SHIFTS[0]));
        program.extend([
            instruction(COPY_TO_X, 0),
            instruction(LOAD_STORED, 1),
            instruction(XOR_X, 0),
            instruction(XOR, masks[1]),
            instruction(MULTIPLY, factors[1]),
        ]);
        program.extend(fold(SHIFTS[1]));
        program.push(instruction(MULTIPLY, LAST_FACTOR));
        program.extend(fold(SHIFTS[2]));
        program.extend([
            instruction(MODULO, self.sockets),
            instruction(RETURN_RESULT, 0),
            instruction(RETURN, NO_PLACE),
        ]);
        program
    }
}

/// Loads the two words of an ID at `at`, and stores them.
fn store_id(at: usize) -> [sock_filter; 4] {
    [
        instruction(LOAD_WORD, offset(at)),
        instruction(STORE, 0),
        instruction(LOAD_WORD, offset(at + ID_BYTES / 2)),
        instruction(STORE, 1),
    ]
}

/// Folds the upper bits of the result into the lower ones.
const fn fold(shift: u32) -> [sock_filter; 3] {
    [
        instruction(COPY_TO_X, 0),
        instruction(SHIFT_RIGHT, shift),
        instruction(XOR_X, 0),
    ]
}

/// A conditional jump, by `jt` or `jf` instructions.
fn branch(code: u16, k: usize, jt: u8, jf: u8) -> sock_filter {
    sock_filter {
        jt,
        jf,
        ..instruction(code, offset(k))
    }
}

/// Offsets in a packet's header are small.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::io::bind_packets;
    use crate::io::packet_socket::tests::loopbacks;

    /// Runs `program` on `packet`, as the kernel does: a load behind the packet's end returns 0.
    fn interpret(program: &[sock_filter], packet: &[u8]) -> u32 {
        let (mut a, mut x, mut stored, mut at) = (0_u32, 0_u32, [0_u32; 16], 0_usize);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            let offset = k as usize;
            at += 1;
            match code {
                LOAD_LENGTH => a = u32::try_from(packet.len()).unwrap(),
                LOAD_BYTE => match packet.get(offset) {
                    Some(byte) => a = u32::from(*byte),
                    None => return 0,
                },
                LOAD_WORD => match packet.get(offset..offset + 4) {
                    Some(word) => a = u32::from_be_bytes(word.try_into().unwrap()),
                    None => return 0,
                },
                LOAD_STORED => a = stored[offset],
                STORE => stored[offset] = a,
                COPY_TO_X => x = a,
                XOR => a ^= k,
                XOR_X => a ^= x,
                MULTIPLY => a = a.wrapping_mul(k),
                SHIFT_RIGHT => a >>= k,
                MODULO => a %= k,
                JUMP => at += offset,
                JUMP_IF_AT_LEAST => at += usize::from(if a >= k { jt } else { jf }),
                JUMP_IF_SET => at += usize::from(if a & k != 0 { jt } else { jf }),
                RETURN_RESULT => return a,
                RETURN => return k,
                _ => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    proptest! {
        #[test]
        fn the_program_and_the_function_agree(
            key in any::<[u8; 16]>(),
            sockets in 1..=64_usize,
            packet in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let steering = PacketSteering::new(SteeringKey::new(key), sockets);
            let place = steering.place_of(&packet).map_or(NO_PLACE, |it| u32::try_from(it).unwrap());
            prop_assert_eq!(interpret(&steering.program(), &packet), place);
            prop_assert!(place == NO_PLACE || (place as usize) < sockets);
        }

        #[test]
        fn every_socket_gets_its_share_with_every_key(key in any::<[u8; 16]>(), sockets in 2..=8_usize) {
            let steering = PacketSteering::new(SteeringKey::new(key), sockets);
            let mut counts = vec![0_usize; sockets];
            let mut random = fastrand::Rng::with_seed(7);
            for _ in 0..4_000 {
                counts[steering.place(random.u64(..).to_be_bytes())] += 1;
            }
            let fair = 4_000 / sockets;
            prop_assert!(counts.iter().all(|count| *count > fair / 2), "{:?}", counts);
        }
    }

    /// A packet with the ID `id`, behind a short or a long header.
    fn packet(is_long: bool, id: [u8; ID_BYTES]) -> Vec<u8> {
        let mut packet = match is_long {
            true => vec![0xc0, 0, 0, 0, 1, 8],
            false => vec![0x40],
        };
        packet.extend(id);
        packet.extend([0; 20]);
        packet
    }

    #[test]
    fn packets_come_to_the_socket_that_the_function_names() {
        let loopbacks = loopbacks().into_iter();
        for (loopback, count) in loopbacks.flat_map(|it| [1, 2, 5].map(|count| (it, count))) {
            let (bound, sockets) = bind_packets(loopback, count).unwrap();
            let steering =
                PacketSteering::new(SteeringKey::new([u8::try_from(count).unwrap(); 16]), count);
            // A program can be attached through any socket of the port.
            steering.steer(sockets[count - 1].as_fd()).unwrap();
            for socket in &sockets {
                socket
                    .set_read_timeout(Some(Duration::from_secs(20)))
                    .unwrap();
            }
            let client = UdpSocket::bind(loopback).unwrap();
            let mut random = fastrand::Rng::with_seed(11);
            for number in 0..200 {
                let sent = packet(number % 2 == 0, random.u64(..).to_be_bytes());
                client.send_to(&sent, bound).unwrap();
                let place = steering.place_of(&sent).unwrap();
                let mut heard = [0; 64];
                // A packet at another socket makes this wait until its timeout.
                let (len, _) = sockets[place].recv_from(&mut heard).unwrap();
                assert_eq!(heard[..len], sent);
            }
        }
    }
}
