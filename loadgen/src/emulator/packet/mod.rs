//! Packets as a TUN device with a virtual-network header hands them over: a header with the kernel's offloads, then
//! the packet from its IP header on. Knows no device.
//!
//! The kernel's segmentation stays on, so one read may bring up to 64 KiB of TCP or UDP, which a network card would cut
//! into segments. [`segments`] says into which, [`cut`] cuts a run of them out, [`rewrite`] changes and answers packets
//! as a router on the path would.

pub(super) mod checksum;
pub(super) mod cut;
pub(super) mod headers;
pub(super) mod offload;
pub(super) mod rewrite;
pub(super) mod segments;
#[cfg(test)]
pub(super) mod tests;
