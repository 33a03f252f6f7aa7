//! The calls into the kernel for which neither the standard library nor rustix has a safe function: a network namespace
//! for one thread, and the ioctls of TUN devices and network interfaces.
//!
//! All unsafe code of the load generator is here.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use rustix::ioctl::{IntegerSetter, Opcode, Updater, ioctl, opcode};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Requests of linux/if_tun.h.
const TUNSETIFF: Opcode = opcode::write::<c_int>(b'T', 202);
const TUNSETOFFLOAD: Opcode = opcode::write::<c_int>(b'T', 208);

/// Flags of a TUN device, linux/if_tun.h: packets from their IP header on, behind a virtual-network header.
const IFF_TUN: u16 = 0x0001;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

/// Work that the kernel may leave to the device, linux/if_tun.h.
const TUN_F_CSUM: usize = 0x01;
const TUN_F_TSO4: usize = 0x02;
const TUN_F_TSO6: usize = 0x04;
/// Datagrams of UDP, from Linux 6.2 on and only both together.
const TUN_F_USO4_AND_6: usize = 0x20 | 0x40;

/// Requests of linux/sockios.h.
const SIOCGIFFLAGS: Opcode = 0x8913;
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCSIFADDR: Opcode = 0x8916;
const SIOCSIFNETMASK: Opcode = 0x891c;
const SIOCSIFMTU: Opcode = 0x8922;
const SIOCSIFTXQLEN: Opcode = 0x8943;

/// Flag of an interface that is up, linux/if.h.
const IFF_UP: u16 = 0x0001;

/// Address family of IPv4, linux/socket.h.
const AF_INET: u16 = 2;

/// Most bytes of an interface's name, the terminating zero included (`IFNAMSIZ`).
const NAME_BYTES: usize = 16;

/// `struct ifreq` of linux/if.h: a name, and a union whose largest member on 64-bit machines has 24 bytes. On others
/// it is shorter, and the kernel then leaves the end alone.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_BYTES],
    value: [u8; 24],
}

/// `struct in6_ifreq` of linux/ipv6.h.
#[repr(C)]
struct AddressRequest {
    address: [u8; 16],
    prefix_bits: u32,
    interface: u32,
}

/// Moves the calling thread into a network namespace of its own, which has no interface but its loopback. Threads and
/// processes that this thread starts are born there.
///
/// # Errors
/// The kernel refuses: the process is not root (CAP_SYS_ADMIN), or has reached a limit.
pub(super) fn leave_network_namespace() -> io::Result<()> {
    // SAFETY: the flag leaves the table of descriptors shared, which is what the function's contract is about.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?)
}

/// Makes `fd`, an open `/dev/net/tun`, the TUN device `name` with a virtual-network header, and lets the kernel leave
/// checksums and segmentation to it.
///
/// # Errors
/// The kernel refuses: the process may not make devices here (CAP_NET_ADMIN), or the name is taken.
pub(super) fn become_tun(fd: impl AsFd, name: &str) -> io::Result<()> {
    let fd = fd.as_fd();
    let flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
    update::<TUNSETIFF>(fd, &mut InterfaceRequest::new(name, &flags.to_ne_bytes()))?;
    let segments = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    // Kernels before 6.2 refuse the whole request; they cut datagrams of UDP themselves.
    if set_offloads(fd, segments | TUN_F_USO4_AND_6).is_err() {
        set_offloads(fd, segments)?;
    }
    Ok(())
}

fn set_offloads(fd: impl AsFd, flags: usize) -> io::Result<()> {
    // SAFETY: the request takes its flags as an integer and touches no memory of this process.
    Ok(unsafe { ioctl(fd, IntegerSetter::<TUNSETOFFLOAD>::new_usize(flags)) }?)
}

/// Sets the largest packet of interface `name`. `socket` is any socket of its namespace, here and below.
///
/// # Errors
/// The kernel refuses, here and below: the process is not root (CAP_NET_ADMIN), or there is no such interface.
pub(super) fn set_mtu(socket: impl AsFd, name: &str, bytes: u32) -> io::Result<()> {
    update::<SIOCSIFMTU>(
        socket,
        &mut InterfaceRequest::new(name, &bytes.to_ne_bytes()),
    )
}

/// Sets how many packets wait in interface `name` until its device is read.
pub(super) fn set_queue_length(socket: impl AsFd, name: &str, packets: u32) -> io::Result<()> {
    update::<SIOCSIFTXQLEN>(
        socket,
        &mut InterfaceRequest::new(name, &packets.to_ne_bytes()),
    )
}

/// Gives interface `name` its address and the mask of its network.
pub(super) fn set_address_v4(
    socket: impl AsFd,
    name: &str,
    address: Ipv4Addr,
    mask: Ipv4Addr,
) -> io::Result<()> {
    let socket = socket.as_fd();
    update::<SIOCSIFADDR>(socket, &mut InterfaceRequest::with_address(name, address))?;
    update::<SIOCSIFNETMASK>(socket, &mut InterfaceRequest::with_address(name, mask))
}

/// Gives interface number `interface` an address. `socket` is one of IPv6.
pub(super) fn add_address_v6(
    socket: impl AsFd,
    interface: u32,
    address: Ipv6Addr,
    prefix_bits: u32,
) -> io::Result<()> {
    let mut request = AddressRequest {
        address: address.octets(),
        prefix_bits,
        interface,
    };
    // SAFETY: on a socket of IPv6 the request reads a `struct in6_ifreq`, whose layout `AddressRequest` has.
    Ok(unsafe {
        ioctl(
            socket,
            Updater::<SIOCSIFADDR, AddressRequest>::new(&mut request),
        )
    }?)
}

/// Brings interface `name` up.
pub(super) fn bring_up(socket: impl AsFd, name: &str) -> io::Result<()> {
    let socket = socket.as_fd();
    let mut request = InterfaceRequest::new(name, &[]);
    update::<SIOCGIFFLAGS>(socket, &mut request)?;
    let flags = u16::from_ne_bytes([request.value[0], request.value[1]]) | IFF_UP;
    update::<SIOCSIFFLAGS>(
        socket,
        &mut InterfaceRequest::new(name, &flags.to_ne_bytes()),
    )
}

impl InterfaceRequest {
    /// A request about interface `name`, cut to what a name may have; `value` is at the start of the union.
    fn new(name: &str, value: &[u8]) -> Self {
        let mut request = Self {
            name: [0; NAME_BYTES],
            value: [0; 24],
        };
        // The last byte stays zero.
        for (place, byte) in request.name[..NAME_BYTES - 1].iter_mut().zip(name.bytes()) {
            *place = byte;
        }
        for (place, byte) in request.value.iter_mut().zip(value) {
            *place = *byte;
        }
        request
    }

    /// A request whose union has a `struct sockaddr_in`.
    fn with_address(name: &str, address: Ipv4Addr) -> Self {
        let mut request = Self::new(name, &AF_INET.to_ne_bytes());
        request.value[4..8].copy_from_slice(&address.octets());
        request
    }
}

/// One of this file's requests that take a `struct ifreq`.
fn update<const REQUEST: Opcode>(fd: impl AsFd, request: &mut InterfaceRequest) -> io::Result<()> {
    // SAFETY: each request above that is passed here reads, and at most writes, one `struct ifreq`, whose layout
    // `InterfaceRequest` has. None keeps the pointer.
    Ok(unsafe { ioctl(fd, Updater::<REQUEST, InterfaceRequest>::new(request)) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_kernels_numbers_and_sizes() {
        assert_eq!((TUNSETIFF, TUNSETOFFLOAD), (0x4004_54ca, 0x4004_54d0));
        assert_eq!(size_of::<InterfaceRequest>(), 40);
        assert_eq!(size_of::<AddressRequest>(), 24);
    }

    #[test]
    fn a_request_has_name_and_value_at_their_places() {
        let request = InterfaceRequest::new("path0", &[1, 2]);
        assert_eq!(request.name[..6], *b"path0\0");
        assert_eq!(request.value[..3], [1, 2, 0]);
        let request = InterfaceRequest::new("a-name-that-is-too-long", &[]);
        assert_eq!(request.name[15], 0);
        let address = Ipv4Addr::new(10, 77, 0, 1);
        let request = InterfaceRequest::with_address("path0", address);
        assert_eq!(request.value[4..8], [10, 77, 0, 1]);
    }
}
