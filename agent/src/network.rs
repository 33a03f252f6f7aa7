//! Notices when this machine's addresses or routes change: a link over the old ones may be dead, and a
//! relay that was out of reach may be in reach again.
//!
//! Linux tells by itself (rtnetlink(7)). Which change it was does not matter, so no message is read:
//! whether a link still has its address, and whether its relay answers, is asked of the system and of the
//! relay. Other systems are asked every few seconds from which address this machine would dial.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

/// Changes come in bursts, a message for each address and route; this long after the first one it is
/// over for the most part, and links are asked once.
const BURST: Duration = Duration::from_millis(200);

/// Shortest time between two changes that are told: a host that starts containers has many.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// Counts this machine's changes of network.
#[derive(Clone, Debug)]
pub(crate) struct NetworkWatch(watch::Sender<u64>);

impl Default for NetworkWatch {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl NetworkWatch {
    /// The number of changes so far, and word of the next one.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    /// Tells of changes for as long as it runs.
    pub(crate) async fn run(self) {
        let mut changes = match system::Changes::listen() {
            Ok(changes) => changes,
            Err(error) => {
                tracing::warn!(%error, "changes of this machine's network are not noticed at once");
                return;
            }
        };
        while changes.next().await.is_ok() {
            sleep(BURST).await;
            changes.skip();
            tracing::debug!("this machine's addresses or routes changed");
            self.0.send_modify(|count| *count += 1);
            sleep(PAUSE_MIN).await;
        }
    }
}

/// Whether this machine has lost an address that a connection of it was made from.
pub(crate) fn is_gone(address: IpAddr) -> bool {
    // Nothing is sent: the system only looks whether it is its own.
    matches!(
        UdpSocket::bind((address, 0)),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable
    )
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;

    use rustix::io::Errno;
    use rustix::net::netlink::SocketAddrNetlink;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
    use tokio::net::UnixDatagram;

    /// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR` and
    /// `RTMGRP_IPV6_ROUTE` of linux/rtnetlink.h.
    const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

    /// The kernel's messages about links, addresses and routes. The type of the socket is that of another
    /// family, since the runtime has none for this one; it is only ever received from, as any socket of
    /// datagrams.
    pub(super) struct Changes(UnixDatagram);

    impl Changes {
        pub(super) fn listen() -> io::Result<Self> {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            // Without a protocol it is NETLINK_ROUTE.
            let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
            UnixDatagram::from_std(socket.into()).map(Self)
        }

        /// Waits for a change.
        pub(super) async fn next(&mut self) -> io::Result<()> {
            loop {
                self.0.readable().await?;
                if self.take() {
                    return Ok(());
                }
            }
        }

        /// Forgets the changes that came already.
        pub(super) fn skip(&mut self) {
            while self.take() {}
        }

        /// Takes a message; false if there is none.
        fn take(&self) -> bool {
            // The rest of a longer message is dropped, and so is what it says.
            match self.0.try_recv(&mut [0; 32]) {
                Ok(_) => true,
                // Messages were lost, so there were many.
                Err(error) => Errno::from_io_error(&error) == Some(Errno::NOBUFS),
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
    use std::time::Duration;

    use tokio::time::sleep;

    /// How often the system is asked.
    const INTERVAL: Duration = Duration::from_secs(2);

    /// Addresses of no host (RFC 5737, RFC 3849) that the default routes lead to.
    const ELSEWHERE: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    ];

    /// The addresses from which this machine would dial.
    pub(super) struct Changes([Option<IpAddr>; 2]);

    impl Changes {
        pub(super) fn listen() -> io::Result<Self> {
            Ok(Self(sources()))
        }

        pub(super) async fn next(&mut self) -> io::Result<()> {
            loop {
                sleep(INTERVAL).await;
                let before = std::mem::replace(&mut self.0, sources());
                if before != self.0 {
                    return Ok(());
                }
            }
        }

        pub(super) fn skip(&mut self) {
            self.0 = sources();
        }
    }

    fn sources() -> [Option<IpAddr>; 2] {
        ELSEWHERE.map(|there| {
            let any: IpAddr = match there {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            // A datagram socket that connects sends nothing: the system only looks up the route.
            let socket = UdpSocket::bind((any, 0)).ok()?;
            socket.connect((there, 9)).ok()?;
            socket.local_addr().ok().map(|address| address.ip())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_gone_only_if_this_machine_lacks_it() {
        assert!(!is_gone("127.0.0.1".parse().unwrap()));
        // Reserved for documents (RFC 5737): no machine has it.
        assert!(is_gone("192.0.2.1".parse().unwrap()));
    }

    #[cfg(target_os = "linux")]
    mod in_a_network_of_its_own {
        use std::process::Command;

        use tokio::time::timeout;

        use super::super::*;

        fn ip(words: &str) {
            let done = Command::new("ip").args(words.split(' ')).status().unwrap();
            assert!(done.success(), "ip {words}");
        }

        async fn next(changes: &mut watch::Receiver<u64>) {
            let change = timeout(Duration::from_secs(10), changes.changed());
            change.await.expect("a change is noticed").unwrap();
        }

        #[tokio::test]
        #[ignore = "changes the network: changes_are_noticed runs it in one of its own"]
        async fn addresses_come_and_go() {
            let watch = NetworkWatch::default();
            let mut changes = watch.changes();
            let _task = tokio::spawn(watch.clone().run());
            // Until it listens, changes are not seen.
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            ip("link set lo up");
            next(&mut changes).await;
            ip("address add 10.99.0.1/32 dev lo");
            next(&mut changes).await;
            let address = "10.99.0.1".parse().unwrap();
            assert!(!is_gone(address));
            ip("address delete 10.99.0.1/32 dev lo");
            next(&mut changes).await;
            assert!(is_gone(address));
        }

        #[test]
        fn changes_are_noticed() {
            let name = "network::tests::in_a_network_of_its_own::addresses_come_and_go";
            let may = Command::new("unshare")
                .args(["--user", "--map-root-user", "--net", "ip", "link"])
                .output();
            if !may.is_ok_and(|it| it.status.success()) {
                eprintln!("ignored: no network can be made here (unshare and ip are needed)");
                return;
            }
            let inner = Command::new("unshare")
                .args(["--user", "--map-root-user", "--net"])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", name, "--ignored"])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&inner.stdout);
            assert!(
                inner.status.success() && said.contains("1 passed"),
                "{said}"
            );
        }
    }
}
