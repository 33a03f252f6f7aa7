//! A TUN device at one end of the path, and how a namespace is set up around it. All functions that make or configure
//! work on the namespace of the calling thread.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::kernel;
use super::packet::offload::OFFLOAD_BYTES;
use super::settings::{Addresses, Sysctl};

/// Name of the device in both namespaces.
pub(super) const NAME: &str = "path0";

/// Largest read: the longest packet of IPv6 (65,535 bytes behind its header), and the virtual-network header.
pub(super) const READ_BYTES_MAX: usize = OFFLOAD_BYTES + 40 + 65_535;

/// Packets that wait in a device until the emulator reads them; the kernel drops more. At 1 Gbit/s and 1,500 bytes,
/// these are 60 ms, far more than the emulator is ever late.
const QUEUE_PACKETS: u32 = 5_000;

/// How long the kernel may take until an address of IPv6 can be used, and the time between two looks.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(5);
const ADDRESS_PAUSE: Duration = Duration::from_millis(1);

/// A TUN device. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Device(File);

impl Device {
    /// Makes the device and brings it up with `own` as its address.
    pub(super) fn make(own: IpAddr, addresses: &Addresses, mtu: u32) -> anyhow::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .context("cannot open /dev/net/tun, which the kernel's module `tun` provides")?;
        rustix::io::ioctl_fionbio(&file, true).context("cannot make a device non-blocking")?;
        kernel::become_tun(&file, NAME)
            .context("cannot make a TUN device: this needs root (CAP_NET_ADMIN)")?;
        configure(own, addresses, mtu).with_context(|| format!("cannot configure {NAME}"))?;
        Ok(Self(file))
    }

    /// Reads one packet; `None` if there is none now.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(&self.0, buffer) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes one packet, which the kernel takes as a whole or not at all.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.0, bytes)?;
        Ok(())
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn configure(own: IpAddr, addresses: &Addresses, mtu: u32) -> io::Result<()> {
    let kind = (SocketType::DGRAM, SocketFlags::CLOEXEC);
    let socket = socket_with(AddressFamily::INET, kind.0, kind.1, None)?;
    kernel::bring_up(&socket, "lo")?;
    kernel::set_mtu(&socket, NAME, mtu)?;
    kernel::set_queue_length(&socket, NAME, QUEUE_PACKETS)?;
    match own {
        IpAddr::V4(own) => {
            kernel::set_address_v4(&socket, NAME, own, addresses.mask_v4())?;
            kernel::bring_up(&socket, NAME)
        }
        IpAddr::V6(own) => {
            kernel::bring_up(&socket, NAME)?;
            let socket = socket_with(AddressFamily::INET6, kind.0, kind.1, None)?;
            let interface = name_to_index(&socket, NAME)?;
            kernel::add_address_v6(&socket, interface, own, addresses.prefix_bits_v6())?;
            wait_until_usable(own)
        }
    }
}

/// Waits until programs can use an address of IPv6. The device has no link layer (IFF_NOARP), so the kernel looks for no
/// duplicate; but it says so in a thread of its own, and the address is tentative until then.
fn wait_until_usable(own: Ipv6Addr) -> io::Result<()> {
    let deadline = Instant::now() + ADDRESS_PATIENCE;
    loop {
        match UdpSocket::bind((own, 0)) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::park_timeout(ADDRESS_PAUSE),
        }
    }
}

/// Turns off the packets that the kernel would send of its own accord: without a link-local address, an interface asks
/// for no router and reports no groups. Must run before the device is made.
pub(super) fn keep_quiet() {
    // Where it fails, the path carries a few packets more; a kernel without IPv6 sends none of them.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1");
}

/// Sets a setting of the namespace.
pub(super) fn set(sysctl: &Sysctl) -> anyhow::Result<()> {
    std::fs::write(path_of(sysctl), &sysctl.value)
        .with_context(|| format!("cannot set {} to `{}`", sysctl.name, sysctl.value))
}

/// The file of a setting. What is below `/proc/sys/net` belongs to the namespace of the calling thread.
fn path_of(sysctl: &Sysctl) -> PathBuf {
    let parts = sysctl.name.split('.');
    PathBuf::from("/proc/sys").join(parts.collect::<PathBuf>())
}

/// Packets that the device dropped because they came faster than they were read.
pub(super) fn unread() -> u64 {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    sent_drops(&table, NAME).unwrap_or(0)
}

/// Dropped packets of the sending side of interface `name`: the fourth number behind the eight of the receiving side.
fn sent_drops(table: &str, name: &str) -> Option<u64> {
    let mut rows = table.lines().filter_map(|line| line.split_once(':'));
    let (_, numbers) = rows.find(|(row, _)| row.trim() == name)?;
    numbers.split_ascii_whitespace().nth(11)?.parse().ok()
}

/// Whether a program of the namespace listens on this TCP port.
pub(super) fn is_listening(port: u16) -> bool {
    let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
    let mut tables = tables
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok());
    tables.any(|table| has_listener(&table, port))
}

/// Whether a table of sockets as in proc_net_tcp(5) has a listener on `port`.
fn has_listener(table: &str, port: u16) -> bool {
    /// State of a socket that listens, in hex (`TCP_LISTEN` of the kernel's tcp_states.h).
    const LISTENS: &str = "0A";
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let own = fields.next().and_then(|address| address.rsplit_once(':'));
        let state = fields.nth(1);
        own.is_some_and(|(_, own)| u16::from_str_radix(own, 16) == Ok(port))
            && state == Some(LISTENS)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_read_from_the_sending_side() {
        let table = "Inter-|   Receive                            |  Transmit\n face |bytes packets\n    \
                     lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n \
                     path0: 1 2 0 0 0 0 0 0 9 10 0 77 0 0 0 0\n";
        assert_eq!(sent_drops(table, NAME), Some(77));
        assert_eq!(sent_drops(table, "lo"), Some(12));
        assert_eq!(sent_drops(table, "eth0"), None);
    }

    #[test]
    fn a_listener_is_found_by_port_and_state() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n   \
                     0: 02004D0A:1B58 00000000:0000 0A 00000000:00000000\n   \
                     1: 02004D0A:2329 01004D0A:9C40 01 00000000:00000000\n";
        assert!(has_listener(table, 7000));
        // Port 9001 has a connection, but no listener.
        assert!(!has_listener(table, 9001) && !has_listener(table, 80));
        assert!(!has_listener("", 7000));
    }

    #[test]
    fn a_setting_is_a_file_below_proc() {
        let sysctl = Sysctl {
            name: "net.ipv4.tcp_wmem".to_owned(),
            value: String::new(),
        };
        assert_eq!(
            path_of(&sysctl),
            PathBuf::from("/proc/sys/net/ipv4/tcp_wmem")
        );
    }
}
