//! Detects changes of this machine's addresses and routes: a link from an old address may be dead, and an
//! unreachable relay may be reachable again.
//!
//! Linux reports changes (rtnetlink(7)). The content of its messages is not read: after any change, each link
//! checks whether its local address still exists and whether its relay answers. On other systems, this module
//! polls for the source address that this machine would dial from. A machine that was asleep counts as a change too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use tieline_wire::limits::STALE_TIMEOUT;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::sleep::{LOOK_INTERVAL, SleepDetector, clock};

/// Changes come in bursts, one message per address and route. The watch waits this long after the first message,
/// and reports one change.
const BURST: Duration = Duration::from_millis(200);

/// Shortest time between two [signs](NetworkWatch::signs) of a change: long enough for an address and its route to come
/// together, and short beside a round trip on which a link without an address is silent.
const SIGN_PAUSE: Duration = Duration::from_millis(20);

/// Shortest time between two reported changes: a host that starts containers has many changes.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// Time after a change in which the network may not be usable yet: radio, address, routes and name servers come one
/// after another.
pub(crate) const SETTLING: Duration = Duration::from_secs(10);

/// Knows the last change of this machine's network, and counts long sleeps of the machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct NetworkWatch {
    changed_at: watch::Sender<Option<Instant>>,
    signs: watch::Sender<u64>,
    long_sleeps: watch::Sender<u64>,
}

impl NetworkWatch {
    /// One task's view of the changes.
    pub(crate) fn changes(&self) -> NetworkChanges {
        NetworkChanges(self.changed_at.subscribe())
    }

    /// Receiver of the number of signs of a change so far: on Linux up to 50 a second, the first of them 20 ms after the
    /// change, long before it is reported.
    pub(crate) fn signs(&self) -> watch::Receiver<u64> {
        self.signs.subscribe()
    }

    /// Receiver of the number of sleeps so far that no link outlives: the relay has given up each link meanwhile.
    pub(crate) fn long_sleeps(&self) -> watch::Receiver<u64> {
        self.long_sleeps.subscribe()
    }

    /// Reports changes; never returns.
    pub(crate) async fn run(self) {
        tokio::join!(self.report_changes(), self.report_sleeps());
    }

    async fn report_changes(&self) {
        let mut changes = match system::Changes::listen() {
            Ok(changes) => changes,
            Err(error) => {
                tracing::warn!(%error, "cannot watch for network changes; only heartbeats show a broken link");
                return;
            }
        };
        let (mut reported_at, mut due) = (None, None);
        loop {
            tokio::select! {
                change = changes.next() => {
                    if change.is_err() {
                        return;
                    }
                    let next = reported_at.map(|at: Instant| at + PAUSE_MIN);
                    let burst = Some(Instant::now() + BURST);
                    due = due.or(burst.max(next));
                    sleep(SIGN_PAUSE).await;
                    changes.skip();
                    self.signs.send_modify(|count| *count += 1);
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    tracing::debug!("this machine's addresses or routes changed");
                    self.changed();
                    (reported_at, due) = (Some(Instant::now()), None);
                }
            }
        }
    }

    async fn report_sleeps(&self) {
        let mut detector = SleepDetector::new(clock());
        loop {
            sleep(LOOK_INTERVAL).await;
            if let Some(slept) = detector.look(clock()) {
                self.slept(slept);
            }
        }
    }

    /// Reports a change.
    pub(crate) fn changed(&self) {
        self.changed_at.send_replace(Some(Instant::now()));
    }

    /// Reports that the machine was asleep for so long.
    pub(crate) fn slept(&self, slept: Duration) {
        let seconds = slept.as_secs();
        tracing::info!(seconds, "this machine was asleep");
        // The time of day, which other systems have, may have been set.
        if slept > STALE_TIMEOUT && cfg!(any(target_os = "linux", target_os = "android")) {
            self.long_sleeps.send_modify(|count| *count += 1);
        }
        self.changed();
    }
}

/// One task's view of the changes of this machine's network; a clone has seen the same changes.
#[derive(Clone, Debug)]
pub(crate) struct NetworkChanges(watch::Receiver<Option<Instant>>);

impl NetworkChanges {
    /// Ready after a change that this view has not seen.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Marks all changes so far as seen.
    pub(crate) fn mark_seen(&mut self) {
        self.0.mark_unchanged();
    }

    /// True for a while after a change: the network may not be usable yet.
    pub(crate) fn is_settling(&self) -> bool {
        let changed_at = *self.0.borrow();
        changed_at.is_some_and(|at| at.elapsed() < SETTLING)
    }
}

/// Documentation addresses (RFC 5737, RFC 3849): no host has them, so the default routes apply.
const ELSEWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// The source addresses that this machine would dial from, for IPv4 and IPv6.
fn sources() -> [Option<IpAddr>; 2] {
    ELSEWHERE.map(|there| {
        let any: IpAddr = match there {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        // Connecting a UDP socket sends nothing: the system only looks up the route.
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((there, 9)).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    })
}

/// The network that this machine is in, as a text to compare: the subnets that it dials from. Empty without a network.
///
/// Two networks with the same private subnet look alike, and what one of them lets through is then tried in the other.
pub(crate) fn local_network() -> String {
    let subnets: Vec<_> = sources().into_iter().flatten().map(subnet).collect();
    subnets.join(" ")
}

/// The subnet of an address: 24 bits of IPv4, and 64 of IPv6, whose other bits change daily (RFC 8981).
fn subnet(address: IpAddr) -> String {
    match address {
        IpAddr::V4(ip) => {
            let ip = Ipv4Addr::from_bits(ip.to_bits() & !0xff);
            format!("{ip}/24")
        }
        IpAddr::V6(ip) => {
            let ip = Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64);
            format!("{ip}/64")
        }
    }
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

    /// Socket for the kernel's messages about links, addresses and routes. tokio has no netlink socket; its type for
    /// Unix datagrams works because this socket only receives.
    pub(super) struct Changes(UnixDatagram);

    impl Changes {
        pub(super) fn listen() -> io::Result<Self> {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            // The default protocol is NETLINK_ROUTE.
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

        /// Discards the changes that are already queued.
        pub(super) fn skip(&mut self) {
            while self.take() {}
        }

        /// Receives one message; false if none is queued.
        fn take(&self) -> bool {
            // A longer message is cut off: its content is not needed.
            match self.0.try_recv(&mut [0; 32]) {
                Ok(_) => true,
                // ENOBUFS: the kernel dropped messages, so changes happened.
                Err(error) => Errno::from_io_error(&error) == Some(Errno::NOBUFS),
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;
    use std::net::IpAddr;
    use std::time::Duration;

    use tokio::time::sleep;

    use super::sources;

    /// Polling interval for the source addresses.
    const INTERVAL: Duration = Duration::from_secs(2);

    /// Source addresses that this machine would dial from, for IPv4 and IPv6.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_known_by_its_subnets() {
        for (address, text) in [
            ("192.168.7.23", "192.168.7.0/24"),
            ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64"),
        ] {
            assert_eq!(subnet(address.parse().unwrap()), text);
        }
        assert_eq!(local_network(), local_network());
    }

    #[test]
    fn a_sleep_is_a_change_and_a_long_one_ends_links() {
        let watch = NetworkWatch::default();
        let (mut changes, mut long_sleeps) = (watch.changes(), watch.long_sleeps());
        assert!(!changes.is_settling());
        watch.slept(Duration::from_secs(10));
        assert!(changes.0.has_changed().unwrap() && !long_sleeps.has_changed().unwrap());
        assert!(changes.is_settling());
        changes.mark_seen();
        watch.slept(STALE_TIMEOUT + Duration::from_secs(1));
        assert!(changes.0.has_changed().unwrap());
        let ends = cfg!(any(target_os = "linux", target_os = "android"));
        assert_eq!(long_sleeps.has_changed().unwrap(), ends);
        long_sleeps.mark_unchanged();
    }

    #[cfg(target_os = "linux")]
    mod in_a_network_of_its_own {
        use std::process::Command;

        use tokio::time::timeout;

        use super::super::*;
        use crate::address::is_gone;

        fn ip(words: &str) {
            let done = Command::new("ip").args(words.split(' ')).status().unwrap();
            assert!(done.success(), "ip {words}");
        }

        async fn next(changes: &mut NetworkChanges) {
            let change = timeout(Duration::from_secs(10), changes.changed());
            change.await.expect("a network change reported within 10 s");
        }

        #[tokio::test]
        #[ignore = "changes the network: changes_are_noticed runs this test in a network namespace"]
        async fn addresses_come_and_go() {
            let watch = NetworkWatch::default();
            let mut changes = watch.changes();
            let _task = tokio::spawn(watch.clone().run());
            // Lets the watch start to listen: it does not see earlier changes.
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            ip("link set lo up");
            next(&mut changes).await;
            ip("address add 10.99.0.1/32 dev lo");
            next(&mut changes).await;
            let address = "10.99.0.1".parse().unwrap();
            assert!(!is_gone(address));
            let mut signs = watch.signs();
            ip("address delete 10.99.0.1/32 dev lo");
            let sign = timeout(Duration::from_secs(10), signs.changed()).await;
            sign.expect("a sign of the change within 10 s").unwrap();
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
                eprintln!("ignored: cannot make a network namespace (unshare and ip are needed)");
                return;
            }
            let inner = Command::new("unshare")
                .args(["--user", "--map-root-user", "--net"])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", name, "--ignored"])
                .output()
                .unwrap();
            let stdout = String::from_utf8_lossy(&inner.stdout);
            assert!(
                inner.status.success() && stdout.contains("1 passed"),
                "{stdout}"
            );
        }
    }
}
