//! How far a connection's bytes have come on their way to the peer, as Linux tells it (sock_diag(7)), or QUIC.
//!
//! getsockopt(2) with `TCP_INFO` tells the same, but no crate in use wraps it, and the agent has no unsafe code. The
//! kernel answers within the call that asks it.

use std::io;
use std::net::SocketAddr;

use tieline_transport::quic::LinkProgress;
use tieline_wire::SendProgress;
use tokio::net::TcpStream;

/// Tells how many bytes of a connection its peer's system has acknowledged, or its peer's QUIC.
#[derive(Debug)]
pub(crate) enum Gauge {
    /// The system is asked about the TCP connection between two addresses.
    System { local: SocketAddr, peer: SocketAddr },
    /// The connection's own QUIC knows.
    Quic(LinkProgress),
}

impl Gauge {
    /// The gauge of `socket`.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) fn of(socket: &TcpStream) -> io::Result<Self> {
        let (local, peer) = (socket.local_addr()?, socket.peer_addr()?);
        Ok(Self::System { local, peer })
    }

    /// Bytes that are acknowledged, and bytes in the kernel or in QUIC that are not; `None` if the system does not tell.
    pub(crate) fn read(&self) -> Option<SendProgress> {
        match self {
            Self::System { local, peer } => system::read(*local, *peer),
            Self::Quic(progress) => Some(progress.read()),
        }
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::net::{IpAddr, SocketAddr};

    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
        socket_with,
    };
    use tieline_wire::SendProgress;

    /// Type of request and answer (linux/sock_diag.h).
    const SOCK_DIAG_BY_FAMILY: u16 = 20;

    /// Flag of every request (linux/netlink.h).
    const NLM_F_REQUEST: u16 = 1;

    /// Length of `struct nlmsghdr` (linux/netlink.h).
    const HEADER_BYTES: usize = 16;

    /// Length of the request: the header, and `struct inet_diag_req_v2` (linux/inet_diag.h).
    const REQUEST_BYTES: u32 = 16 + 56;

    /// Position of `idiag_wqueue` in `struct inet_diag_msg`: of a connection, the bytes that are not acknowledged.
    const WQUEUE_AT: usize = 60;

    /// Length of `struct inet_diag_msg`; attributes follow.
    const MESSAGE_BYTES: usize = 72;

    /// The attribute that holds `struct tcp_info`.
    const INET_DIAG_INFO: u16 = 2;

    /// Position of `tcpi_bytes_acked` in `struct tcp_info` (linux/tcp.h).
    const BYTES_ACKED_AT: usize = 120;

    /// Room for an answer: without other attributes, it has less than half of this.
    const ANSWER_BYTES_MAX: usize = 1024;

    pub(super) fn read(local: SocketAddr, peer: SocketAddr) -> Option<SendProgress> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let protocol = Some(netlink::SOCK_DIAG);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol);
        let socket = socket.ok()?;
        send(&socket, &request(local, peer), SendFlags::empty()).ok()?;
        let mut answer = [0; ANSWER_BYTES_MAX];
        let (count, _) = recv(&socket, &mut answer[..], RecvFlags::DONTWAIT).ok()?;
        parse(answer.get(..count)?)
    }

    /// Asks for the connection from `local` to `peer`.
    fn request(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
        const TCP: u8 = 6;
        let family = match local {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let family = family.as_raw().to_le_bytes()[0];
        let info = 1_u8 << (INET_DIAG_INFO - 1);
        let interface = match local {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(local) => local.scope_id(),
        };
        let mut bytes = Vec::new();
        bytes.extend(REQUEST_BYTES.to_ne_bytes());
        bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes.extend(NLM_F_REQUEST.to_ne_bytes());
        // Sequence number and port, which one question and one answer do not need.
        bytes.extend([0; 8]);
        bytes.extend([family, TCP, info, 0]);
        // Connections in any state.
        bytes.extend(u32::MAX.to_ne_bytes());
        bytes.extend(local.port().to_be_bytes());
        bytes.extend(peer.port().to_be_bytes());
        bytes.extend(padded(local.ip()));
        bytes.extend(padded(peer.ip()));
        bytes.extend(interface.to_ne_bytes());
        // `INET_DIAG_NOCOOKIE`, twice: whichever connection has these addresses.
        bytes.extend(u64::MAX.to_ne_bytes());
        bytes
    }

    fn padded(address: IpAddr) -> [u8; 16] {
        match address {
            IpAddr::V4(address) => {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&address.octets());
                bytes
            }
            IpAddr::V6(address) => address.octets(),
        }
    }

    /// Reads an answer; `None` if it is an error, or comes from a kernel before 4.1, which counts no acknowledged bytes.
    fn parse(answer: &[u8]) -> Option<SendProgress> {
        if u16::from_ne_bytes(at(answer, 4)?) != SOCK_DIAG_BY_FAMILY {
            return None;
        }
        let waiting = u32::from_ne_bytes(at(answer, HEADER_BYTES + WQUEUE_AT)?);
        let mut rest = answer.get(HEADER_BYTES + MESSAGE_BYTES..)?;
        // `struct rtattr`: its length with these four bytes, its type, and its value.
        loop {
            let len = usize::from(u16::from_ne_bytes(at(rest, 0)?));
            if u16::from_ne_bytes(at(rest, 2)?) == INET_DIAG_INFO {
                let info = rest.get(4..len)?;
                return Some(SendProgress {
                    acked: u64::from_ne_bytes(at(info, BYTES_ACKED_AT)?),
                    waiting: waiting.into(),
                });
            }
            rest = rest.get(len.max(4).next_multiple_of(4)..)?;
        }
    }

    fn at<const N: usize>(bytes: &[u8], position: usize) -> Option<[u8; N]> {
        bytes.get(position..)?.first_chunk().copied()
    }

    #[cfg(test)]
    mod tests {
        use std::net::Ipv6Addr;

        use super::*;

        #[test]
        fn a_request_has_the_length_that_it_names() {
            let v4 = SocketAddr::from(([127, 0, 0, 1], 1));
            let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, 1));
            for address in [v4, v6] {
                let bytes = request(address, address);
                assert_eq!(u32::try_from(bytes.len()).unwrap(), REQUEST_BYTES);
            }
        }

        #[test]
        fn no_answer_of_any_length_or_content_does_harm() {
            for len in 0..300 {
                for byte in [0, 1, 2, 20, 255] {
                    let mut answer = vec![byte; len];
                    let kind = SOCK_DIAG_BY_FAMILY.to_ne_bytes();
                    if let Some(place) = answer.get_mut(4..6) {
                        place.copy_from_slice(&kind);
                    }
                    let _ = parse(&answer);
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::net::SocketAddr;

    use tieline_wire::SendProgress;

    /// Other systems have no such question, or need unsafe code for it.
    pub(super) const fn read(_: SocketAddr, _: SocketAddr) -> Option<SendProgress> {
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn bytes_that_a_peer_does_not_read_wait_and_are_acknowledged_once_it_does() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(host).await else {
                continue; // No IPv6 here.
            };
            let address = listener.local_addr().unwrap();
            let mut ours = TcpStream::connect(address).await.unwrap();
            let (mut peer, _) = listener.accept().await.unwrap();
            let gauge = Gauge::of(&ours).unwrap();
            let Some(idle) = gauge.read() else {
                return; // A kernel without tcp_diag, such as gVisor's.
            };
            assert_eq!(idle.waiting, 0);
            let mut sent = 0;
            let piece = vec![7; 1024 * 1024];
            ours.writable().await.unwrap();
            while let Ok(count) = ours.try_write(&piece) {
                sent += count;
            }
            let full = gauge.read().unwrap();
            assert!(full.waiting > 0 && full.acked > idle.acked, "{full:?}");
            ours.shutdown().await.unwrap();
            let mut rest = Vec::new();
            peer.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest.len(), sent);
            let sent = u64::try_from(sent).unwrap();
            // The last acknowledgement may be on its way, and the end counts as a byte.
            while gauge.read().unwrap().acked < idle.acked + sent {
                tokio::task::yield_now().await;
            }
        }
    }
}
