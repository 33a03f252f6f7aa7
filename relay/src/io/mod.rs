//! What the shards need from the kernel beyond monoio: sockets read and written by direct calls,
//! descriptors that move between shards, wake-ups, and the choice of the driver.
//!
//! The only unsafe code of the relay is here. Nothing here knows a frame.

mod driver;
mod fd_limit;
mod listener;
mod pipe;
mod poll;
mod signal;
mod socket;
mod spin;
mod turn;
mod waker;
#[cfg(test)]
pub(crate) mod witness;

pub use driver::DriverReport;
pub(crate) use driver::{Chosen, choose, run};
pub(crate) use fd_limit::raise_fd_limit;
pub(crate) use listener::{Listener, bind};
pub(crate) use pipe::{Pipe, Pipes};
pub(crate) use poll::PollSocket;
pub(crate) use signal::Signal;
pub(crate) use socket::{Received, Socket, pair};
pub(crate) use spin::Spin;
pub(crate) use turn::{turn, wake_behind_others};
pub(crate) use waker::{Parker, Waker};
