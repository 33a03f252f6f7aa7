//! What tests of several modules use of the kernel calls.

mod tls;
pub(crate) mod witness;
