//! UDP sockets of QUIC: one per shard on the same port. A datagram comes with its sender, the local address that it was
//! sent to, and its ECN bits; several of one sender may come, and be sent, in one call (GRO, GSO).

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll};

use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, Type};

use super::driver::Interest;
use super::listener::{local_address, while_taken};
use super::readiness::{Direction, Readiness};

/// Bytes that a socket's receive buffer should hold. A shard may be busy for 10 ms, with signatures of handshakes or with
/// a full turn of sessions, in which 1 Gbit/s brings 1.25 MB; rounded up. The kernel doubles the number for what it
/// stores beside the payload (socket(7), `SO_RCVBUF`).
const RECEIVE_BUFFER_BYTES: usize = 2 * 1024 * 1024;

/// Bytes that a socket's send buffer should hold: 16 of the largest sends, of 64 KiB each, of as many connections that
/// send in one turn. What does not fit waits for the socket, and is not lost.
const SEND_BUFFER_BYTES: usize = 1024 * 1024;

/// Messages per call that receives. Each may be up to 64 datagrams that the kernel has joined (`UDP_GRO`).
const MESSAGES: usize = 8;

/// Longest message, in bytes: an IP packet's length has 16 bits.
const MESSAGE_BYTES: usize = 64 * 1024;

/// Binds `count` sockets to one address, among which [`PacketSteering`](super::PacketSteering) divides the packets by the
/// order of binding.
///
/// For port 0 the kernel chooses one port for all of them. As with [`bind`](super::bind), the address is first bound
/// alone.
pub(crate) fn bind_packets(
    address: SocketAddr,
    count: usize,
) -> io::Result<(SocketAddr, Vec<UdpSocket>)> {
    while_taken(|| {
        let probe = socket(address, false)?;
        let bound = local_address(&probe, address)?;
        drop(probe);
        Ok((bound, more_packets(bound, count)?))
    })
}

/// Binds `count` more sockets to an address that this relay has bound already.
pub(crate) fn more_packets(bound: SocketAddr, count: usize) -> io::Result<Vec<UdpSocket>> {
    let sockets = (0..count).map(|_| socket(bound, true).map(UdpSocket::from));
    sockets.collect()
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<RawSocket> {
    let domain = Domain::for_address(address);
    let socket = RawSocket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    // Without SO_REUSEADDR, which lets UDP sockets of other programs share the address, too (socket(7)).
    socket.set_reuse_port(shared)?;
    // The kernel lowers sizes above its limit, and reports no error; `buffer_warnings` looks at what it gave.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SEND_BUFFER_BYTES);
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Warns the operator, in a line for each, of buffers of `socket` that the kernel made smaller than asked for.
pub(crate) fn buffer_warnings(socket: &impl AsFd) -> Vec<String> {
    let socket = SockRef::from(socket);
    let warning = |given: io::Result<usize>, asked: usize, direction: &str, sysctl: &str| {
        // The kernel reports the doubled size.
        let given = given.ok()? / 2;
        (given < asked).then(|| {
            format!(
                "the kernel gives UDP sockets a {direction} buffer of {given} bytes, so QUIC loses packets when much \
                 arrives at once: allow {asked} with `sysctl -w {sysctl}={asked}`, and in /etc/sysctl.d for the next boot"
            )
        })
    };
    let (receive, send) = (socket.recv_buffer_size(), socket.send_buffer_size());
    let receive = warning(
        receive,
        RECEIVE_BUFFER_BYTES,
        "receive",
        "net.core.rmem_max",
    );
    let send = warning(send, SEND_BUFFER_BYTES, "send", "net.core.wmem_max");
    receive.into_iter().chain(send).collect()
}

/// Datagrams of one sender, as they arrived: each has `stride` bytes, except a shorter last one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived<'a> {
    pub(crate) source: SocketAddr,
    /// The local address that they were sent to.
    pub(crate) local_ip: Option<IpAddr>,
    /// The ECN bits of the IP header, unless both are 0 (RFC 3168, section 5).
    pub(crate) ecn: Option<u8>,
    pub(crate) bytes: &'a [u8],
    /// At least 1.
    pub(crate) stride: usize,
}

/// Memory that datagrams are received into: 512 KiB.
pub(crate) struct ReceiveBuffers {
    bytes: Box<[u8]>,
    meta: [RecvMeta; MESSAGES],
    /// Messages of the last call.
    count: usize,
}

impl ReceiveBuffers {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; MESSAGES * MESSAGE_BYTES].into(),
            meta: [RecvMeta::default(); MESSAGES],
            count: 0,
        }
    }

    /// What the last [`PacketSocket::receive`] has brought.
    pub(crate) fn arrived(&self) -> impl Iterator<Item = Arrived<'_>> {
        let chunks = self.bytes.chunks(MESSAGE_BYTES);
        let messages = self.meta.iter().zip(chunks).take(self.count);
        messages.map(|(meta, chunk)| Arrived {
            source: meta.addr,
            local_ip: meta.dst_ip,
            ecn: meta.ecn.map(|it| it as u8),
            bytes: &chunk[..meta.len.min(chunk.len())],
            stride: meta.stride.max(1),
        })
    }
}

/// Datagrams to one receiver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) destination: SocketAddr,
    /// The local address to send from, if it matters.
    pub(crate) source: Option<IpAddr>,
    pub(crate) ecn: Option<u8>,
    pub(crate) bytes: &'a [u8],
    /// Length of each datagram, except a shorter last one, if there are several.
    pub(crate) stride: Option<usize>,
}

/// A shard's UDP socket.
pub(crate) struct PacketSocket {
    // Declared before `fd`, so that it is dropped first.
    readiness: Readiness,
    fd: OwnedFd,
    state: UdpSocketState,
}

impl PacketSocket {
    /// Attaches a socket to this shard, and switches its options for QUIC on: non-blocking calls, GRO, ECN, local
    /// addresses, and no fragments.
    pub(crate) fn new(socket: UdpSocket) -> io::Result<Self> {
        let fd = OwnedFd::from(socket);
        let state = UdpSocketState::new(UdpSockRef::from(&fd))?;
        // SAFETY: `readiness` is dropped before the descriptor, by the order of the fields.
        let readiness = unsafe { Readiness::new(fd.as_fd(), Interest::Both, true) };
        Ok(Self {
            readiness,
            fd,
            state,
        })
    }

    /// Whether the kernel may cut datagrams into fragments, so that the path's MTU cannot be searched for.
    pub(crate) fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    /// Most datagrams per send.
    pub(crate) fn segments_max(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Ready while datagrams may be waiting.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.readiness.poll(Direction::In, cx)
    }

    /// Ready while the kernel may have room to send.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.readiness.poll(Direction::Out, cx)
    }

    /// Receives what is waiting, as much as the buffers hold; false if nothing is.
    pub(crate) fn receive(&self, buffers: &mut ReceiveBuffers) -> io::Result<bool> {
        buffers.count = 0;
        let mut chunks = buffers.bytes.chunks_mut(MESSAGE_BYTES);
        let mut slices: [IoSliceMut<'_>; MESSAGES] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let received = self
            .state
            .recv(UdpSockRef::from(&self.fd), &mut slices, &mut buffers.meta);
        match received {
            Ok(count) => {
                buffers.count = count;
                Ok(count > 0)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readiness.spend(Direction::In);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends datagrams, all or none; false if the kernel has no room for them. Datagrams that it refuses for another
    /// reason are lost, as on the network.
    pub(crate) fn send(&self, outgoing: &Outgoing<'_>) -> bool {
        let transmit = Transmit {
            destination: outgoing.destination,
            ecn: outgoing.ecn.and_then(EcnCodepoint::from_bits),
            contents: outgoing.bytes,
            segment_size: outgoing.stride,
            src_ip: outgoing.source,
        };
        let sent = self.state.send(UdpSockRef::from(&self.fd), &transmit);
        if sent.is_err() {
            self.readiness.spend(Direction::Out);
        }
        sent.is_ok()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::future::poll_fn;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use super::*;
    use crate::io::{Chosen, choose, run, timeout};

    fn loopback() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    /// The loopback addresses of both families, with port 0; that of IPv6 unless the machine lacks it.
    pub(in crate::io) fn loopbacks() -> Vec<SocketAddr> {
        let both = [loopback(), (Ipv6Addr::LOCALHOST, 0).into()].into_iter();
        both.filter(|it| it.is_ipv4() || UdpSocket::bind(it).is_ok())
            .collect()
    }

    /// Each driver with each loopback address.
    fn drivers() -> Vec<(Chosen, SocketAddr)> {
        let (best, _) = choose(None).unwrap();
        let with_each = |driver: Chosen| loopbacks().into_iter().map(move |it| (driver, it));
        [best, Chosen::Epoll]
            .into_iter()
            .flat_map(with_each)
            .collect()
    }

    #[test]
    fn port_zero_is_chosen_once_for_all_shards() {
        for loopback in loopbacks() {
            let (bound, sockets) = bind_packets(loopback, 3).unwrap();
            assert_ne!(bound.port(), 0);
            assert!(sockets.iter().all(|it| it.local_addr().unwrap() == bound));
            let more = more_packets(bound, 2).unwrap();
            assert!(more.iter().all(|it| it.local_addr().unwrap() == bound));
        }
    }

    #[test]
    fn a_taken_port_is_an_error_although_ports_are_shared() {
        let (bound, _sockets) = bind_packets(loopback(), 2).unwrap();
        let error = bind_packets(bound, 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn small_buffers_are_told_with_the_sysctl_that_mends_them() {
        let (_, sockets) = bind_packets(loopback(), 1).unwrap();
        let socket = SockRef::from(&sockets[0]);
        socket.set_recv_buffer_size(100_000).unwrap();
        socket.set_send_buffer_size(100_000).unwrap();
        let [receive, send] = buffer_warnings(&sockets[0]).try_into().unwrap();
        assert!(receive.contains("net.core.rmem_max=2097152"), "{receive}");
        assert!(receive.contains("100000 bytes"), "{receive}");
        assert!(send.contains("net.core.wmem_max=1048576"), "{send}");
        assert!([receive, send].iter().all(|it| it.lines().count() == 1));
    }

    /// Linux has `UDP_SEGMENT` since 4.18, and `UDP_GRO` since 5.0.
    #[test]
    fn several_datagrams_of_one_send_arrive_joined() {
        run(Chosen::Epoll, async {
            let (bound, mut sockets) = bind_packets(loopback(), 1).unwrap();
            let (_, mut senders) = bind_packets(loopback(), 1).unwrap();
            let receiver = PacketSocket::new(sockets.remove(0)).unwrap();
            let sender = PacketSocket::new(senders.remove(0)).unwrap();
            assert!(sender.segments_max() > 1);
            let sent = sender.send(&Outgoing {
                destination: bound,
                source: None,
                ecn: None,
                bytes: &[7; 4 * 1200],
                stride: Some(1200),
            });
            assert!(sent);
            let mut buffers = ReceiveBuffers::new();
            let hear = async {
                poll_fn(|cx| receiver.poll_readable(cx)).await;
                while !receiver.receive(&mut buffers).unwrap() {
                    poll_fn(|cx| receiver.poll_readable(cx)).await;
                }
            };
            timeout(Duration::from_secs(20), hear).await.unwrap();
            let arrived = buffers.arrived().map(|it| (it.bytes.len(), it.stride));
            assert_eq!(arrived.collect::<Vec<_>>(), [(4 * 1200, 1200)]);
        })
        .unwrap();
    }

    /// Waits until `wanted` datagrams have arrived at `socket`, and returns them.
    async fn heard(socket: &PacketSocket, wanted: usize) -> Vec<(Vec<u8>, SocketAddr, Option<u8>)> {
        let mut buffers = ReceiveBuffers::new();
        let mut heard = Vec::new();
        let hear = async {
            while heard.len() < wanted {
                poll_fn(|cx| socket.poll_readable(cx)).await;
                if !socket.receive(&mut buffers).unwrap() {
                    continue;
                }
                for it in buffers.arrived() {
                    let parts = it.bytes.chunks(it.stride);
                    heard.extend(parts.map(|part| (part.to_vec(), it.source, it.ecn)));
                }
            }
        };
        timeout(Duration::from_secs(20), hear).await.unwrap();
        heard
    }

    #[test]
    fn several_datagrams_of_one_send_arrive_apart_with_sender_and_ecn() {
        for (driver, loopback) in drivers() {
            run(driver, async {
                let (bound, mut sockets) = bind_packets(loopback, 1).unwrap();
                let (from, mut senders) = bind_packets(loopback, 1).unwrap();
                let receiver = PacketSocket::new(sockets.remove(0)).unwrap();
                let sender = PacketSocket::new(senders.remove(0)).unwrap();
                // Nothing has arrived yet.
                assert!(!receiver.receive(&mut ReceiveBuffers::new()).unwrap());
                let bytes = [[1; 1200].as_slice(), &[2; 1200], &[3; 5]].concat();
                let outgoing = Outgoing {
                    destination: bound,
                    source: Some(from.ip()),
                    ecn: Some(0b10),
                    bytes: &bytes,
                    stride: Some(1200),
                };
                if sender.segments_max() > 1 {
                    assert!(sender.send(&outgoing));
                } else {
                    for part in bytes.chunks(1200) {
                        let alone = Outgoing {
                            bytes: part,
                            stride: None,
                            ..outgoing
                        };
                        assert!(sender.send(&alone));
                    }
                }
                let heard = heard(&receiver, 3).await;
                let wanted = [vec![1; 1200], vec![2; 1200], vec![3; 5]];
                assert!(heard.iter().map(|it| &it.0).eq(&wanted));
                assert!(heard.iter().all(|it| (it.1, it.2) == (from, Some(0b10))));
            })
            .unwrap();
        }
    }
}
