//! Runtime of a shard: tasks, timers and readiness of one thread, on io_uring or epoll; sockets read and written
//! by direct calls, UDP sockets with their steering, descriptors that move between shards, and wake-ups.
//!
//! All unsafe code of the relay is here. Nothing here knows the protocol's frames.

mod driver;
mod fd_limit;
mod listener;
mod packet_socket;
mod packet_steering;
mod pipe;
mod poll;
mod readiness;
mod rights;
mod runtime;
mod signal;
mod socket;
mod steering;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod timer;
mod waker;

pub use driver::DriverReport;
pub(crate) use driver::{Chosen, choose};
pub(crate) use fd_limit::raise_fd_limit;
pub(crate) use listener::{
    Accepted, Listener, bind, lacks_descriptors, listen, local_address, more,
};
pub(crate) use packet_socket::{
    Outgoing, PacketSocket, ReceiveBuffers, bind_packets, buffer_warnings, more_packets,
};
pub(crate) use packet_steering::{ID_BYTES, PacketSteering, SteeringKey};
pub(crate) use pipe::{Pipe, Pipes};
pub(crate) use poll::{Liveness, PollStream, poll_read_through};
pub(crate) use rights::{Channel, Entrance};
#[cfg(test)]
pub(crate) use runtime::run;
pub(crate) use runtime::{Spin, run_spinning, spawn, turn};
pub(crate) use signal::Signal;
pub(crate) use socket::{Socket, Unfinished, pair};
pub(crate) use stream::{Detached, Stream};
pub(crate) use tieline_transport::Received;
pub(crate) use timer::{Sleep, sleep, timeout};
pub(crate) use waker::{Parker, Waker};
