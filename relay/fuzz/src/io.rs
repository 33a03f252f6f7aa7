//! The steering of packets, without the sockets.

#[allow(dead_code)]
#[path = "../../src/io/packet_steering.rs"]
mod packet_steering;
#[allow(dead_code)]
#[path = "../../src/io/steering.rs"]
mod steering;

pub(crate) use packet_steering::{ID_BYTES, PacketSteering, SteeringKey};
