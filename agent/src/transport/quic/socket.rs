//! The UDP socket of a QUIC connection, with what QUIC has of the system where there is any: several datagrams in one
//! call (GSO, GRO), ECN bits, and no fragments.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};

use quinn_proto::{EcnCodepoint, Transmit};
use quinn_udp::{RecvMeta, UdpSocketState};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::address::is_gone;
use crate::transport::wire::until_ready;

/// Bytes that the receive buffer should hold. The link's task may have to wait for 10 ms while others run, in which
/// 1 Gbit/s brings 1.25 MB; rounded up. A system with a lower limit gives less (Linux: `net.core.rmem_max`, 208 KiB
/// unless it was raised), and more datagrams are lost then where much arrives at once.
pub(in crate::transport) const RECEIVE_BUFFER_BYTES: usize = 2 * 1024 * 1024;

/// Bytes that the send buffer should hold: what one turn sends, 16 times 10 datagrams of 1452 bytes, is 232 KB; rounded
/// up. What does not fit waits, and is not lost.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// Most datagrams in one send: with 1452 bytes each 15 KB, far below the 64 KiB of the kernel's limit, and about what a
/// paced connection may send at once.
const DATAGRAMS_MAX: usize = 10;

/// Messages per call that receives. Each may be up to 64 datagrams that the kernel has joined.
const MESSAGES: usize = 4;

/// Longest message, in bytes: an IP packet's length has 16 bits.
const MESSAGE_BYTES: usize = 64 * 1024;

/// A UDP socket with an address of its own, for one connection.
pub(super) struct PacketSocket {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl PacketSocket {
    /// A socket for packets to and from `remote`, at a port that the system chooses.
    pub(super) fn bind(remote: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr = match remote {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = std::net::UdpSocket::bind(any)?;
        let options = SockRef::from(&socket);
        // Optional: QUIC works with smaller buffers.
        let _ = options.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
        let _ = options.set_send_buffer_size(SEND_BUFFER_BYTES);
        // A connected socket learns that nothing listens at the relay's port. Elsewhere sends that name an address fail
        // on a connected socket.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        socket.connect(remote)?;
        let state = UdpSocketState::new((&socket).into())?;
        let socket = UdpSocket::from_std(socket)?;
        Ok(Self { socket, state })
    }

    /// The socket's address.
    #[cfg(test)]
    pub(super) fn local_address(&self) -> SocketAddr {
        self.socket.local_addr().expect("a bound socket has one")
    }

    /// True if this machine no longer has the address that the socket sends from.
    pub(super) fn has_lost_its_address(&self) -> bool {
        let address = self.socket.local_addr().map(|address| address.ip());
        address.is_ok_and(|ip| !ip.is_unspecified() && is_gone(ip))
    }

    /// True if the system may cut datagrams into fragments, so that the path's MTU cannot be searched for.
    pub(super) fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    /// Most datagrams in one send.
    pub(super) fn datagrams_max(&self) -> usize {
        self.state.max_gso_segments().clamp(1, DATAGRAMS_MAX)
    }

    /// Ready while datagrams may be waiting.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        until_ready(self.socket.poll_recv_ready(cx))
    }

    /// Ready while the system may have room to send.
    pub(super) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        until_ready(self.socket.poll_send_ready(cx))
    }

    /// Receives what is waiting, as much as `arrivals` holds; false if nothing is.
    ///
    /// # Errors
    /// The system's error. It may be about an earlier packet, to which something on the way has answered.
    pub(super) fn receive(&self, arrivals: &mut Arrivals) -> io::Result<bool> {
        arrivals.count = 0;
        let mut chunks = arrivals.bytes.chunks_mut(MESSAGE_BYTES);
        let mut slices: [IoSliceMut<'_>; MESSAGES] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let received = self.socket.try_io(Interest::READABLE, || {
            let socket = (&self.socket).into();
            self.state.recv(socket, &mut slices, &mut arrivals.meta)
        });
        match received {
            Ok(count) => {
                arrivals.count = count;
                Ok(count > 0)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends the datagrams that `transmit` describes, and that `bytes` begins with; false if the system has no room for
    /// them now.
    ///
    /// # Errors
    /// The system's error: the datagrams are lost, as they may be on the network.
    pub(super) fn send(&self, transmit: &Transmit, bytes: &[u8]) -> io::Result<bool> {
        let outgoing = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit
                .ecn
                .and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8)),
            contents: &bytes[..transmit.size.min(bytes.len())],
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        let sent = self.socket.try_io(Interest::WRITABLE, || {
            self.state.try_send((&self.socket).into(), &outgoing)
        });
        match sent {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Bytes of datagrams that the system lets a socket's receive buffer hold.
///
/// # Errors
/// The system's error: there is no UDP.
pub(in crate::transport) fn receive_room() -> io::Result<usize> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let options = SockRef::from(&socket);
    let _ = options.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
    let bytes = options.recv_buffer_size()?;
    // Linux doubles what is set, and tells the double, for its own bookkeeping (socket(7)).
    let is_doubled = cfg!(any(target_os = "linux", target_os = "android"));
    Ok(if is_doubled { bytes / 2 } else { bytes })
}

/// Memory that datagrams are received into: 256 KiB, of which a quiet connection uses little.
pub(super) struct Arrivals {
    bytes: Box<[u8]>,
    meta: [RecvMeta; MESSAGES],
    /// Messages of the last call.
    count: usize,
}

impl Arrivals {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; MESSAGES * MESSAGE_BYTES].into(),
            meta: [RecvMeta::default(); MESSAGES],
            count: 0,
        }
    }

    /// The datagrams that the last [`PacketSocket::receive`] has brought.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        let messages = self.meta.iter().zip(self.bytes.chunks(MESSAGE_BYTES));
        messages.take(self.count).flat_map(|(meta, message)| {
            let bytes = &message[..meta.len.min(message.len())];
            bytes.chunks(meta.stride.max(1)).map(move |bytes| Datagram {
                source: meta.addr,
                ecn: meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8)),
                bytes,
            })
        })
    }
}

/// A datagram that has arrived.
pub(super) struct Datagram<'a> {
    pub(super) source: SocketAddr,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) bytes: &'a [u8],
}
