//! What tests of several modules use of the kernel calls.

pub(crate) mod witness;
