//! Dials a bulk lane: a plain TCP connection of its own, whose bytes the kernel can move.

use std::io;
use std::net::SocketAddr;

use tieline_wire::BulkNonce;
use tieline_wire::limits::LANE_PREFACE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::socket::{self, CloseMode};

/// A session's bulk lane.
pub(crate) type Lane = TcpStream;

/// Connects the lane that the relay at `relay` has offered with `nonce`.
///
/// # Errors
/// The system's error; `InvalidData` if the other end does not take the lane.
pub(crate) async fn dial_lane(relay: SocketAddr, nonce: &BulkNonce) -> io::Result<Lane> {
    let mut lane = socket::connect(relay, CloseMode::Ends).await?;
    lane.write_all(&nonce.lane_hello()).await?;
    let mut answer = LANE_PREFACE;
    lane.read_exact(&mut answer).await?;
    if answer != LANE_PREFACE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(lane)
}
