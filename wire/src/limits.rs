//! Every bound of the protocol in one place, and how the bounds relate.

use std::time::Duration;

/// First bytes on every link, from both sides: `TLINE\r\n` and the version of the framing.
pub const PREFACE: [u8; 8] = *b"TLINE\r\n\x01";

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 12;

/// Lowest and highest handshake version that this build speaks.
pub const VERSION_MIN: u16 = 1;
/// See [`VERSION_MIN`].
pub const VERSION_MAX: u16 = 1;

/// Largest payload of a `Data` frame that a peer may send, in bytes.
pub const DATA_BYTES_MAX: u32 = 64 * 1024;

/// Largest payload of a `Data` frame that we send, in bytes: what one session may put in front
/// of every other one.
pub const DATA_BYTES_SENT_MAX: usize = 32 * 1024;

/// Largest payload of a control table, in bytes.
pub const TABLE_BYTES_MAX: u32 = 64 * 1024;

/// Verifier limits for a control table.
pub const TABLE_DEPTH_MAX: usize = 8;
/// See [`TABLE_DEPTH_MAX`].
pub const TABLES_MAX: usize = 256;

/// Shortest piece that counts as a part of a bulk transfer, in bytes.
///
/// Splicing loses against a copy up to 4 KiB and wins from 64 KiB; two reads of a quarter of that
/// in a row are no small message any more.
pub const BULK_PIECE_BYTES_MIN: usize = 16 * 1024;

/// First bytes on a bulk lane from both sides: `TLANE\r\n` and its version. The agent's are
/// followed by the nonce of the offer.
pub const LANE_PREFACE: [u8; 8] = *b"TLANE\r\n\x01";

/// Bytes that an agent sends before a lane carries payload.
pub const LANE_HELLO_BYTES: usize = LANE_PREFACE.len() + 16;

/// Bytes gathered into one send.
pub const GATHER_BYTES_MAX: usize = 256 * 1024;

/// Slices gathered into one send: `IOV_MAX` of Linux (sysconf(3)).
pub const GATHER_SLICES_MAX: usize = 1024;

/// Credit that a session starts with in each direction, in bytes, and the floor that an idle
/// sender keeps.
pub const SESSION_CREDIT_BYTES: u32 = 16 * 1024;

/// Largest window one session may grow to, in bytes.
///
/// Covers a 100 ms round trip at 1.25 Gbit/s: 0.1 s x 156 MB/s = 15.6 MB, rounded up.
pub const SESSION_WINDOW_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// Window bytes above the floor that all sessions of one link may hold together.
pub const LINK_BUDGET_BYTES: u64 = 64 * 1024 * 1024;

/// Bytes of one session that may wait in the mux for the link's socket.
pub const SESSION_QUEUE_BYTES_MAX: usize = 256 * 1024;

/// Bytes of all sessions that may wait in the mux for the link's socket before each of them is
/// held to what it starts with.
pub const LINK_QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Sessions that may live on one link at a time.
pub const SESSIONS_MAX: u32 = 65_536;

/// Sessions beyond [`SESSIONS_MAX`] that an agent may still hold because their lanes bring bytes that
/// the relay has counted out: far more lanes than relays open for one link.
pub const LANES_LATE_MAX: u32 = 1024;

/// Session ids left over when the relay must replace a link.
pub const SESSION_IDS_MAX: u32 = u32::MAX - SESSIONS_MAX;

/// Lost links of which one new link tells.
pub const LOST_LINKS_MAX: usize = 4;

/// Sessions of a lost link that are told of.
pub const LOST_SESSIONS_MAX: usize = 1024;

/// Tunnels that one link may register.
pub const TUNNELS_PER_LINK_MAX: u32 = 16_384;

/// From the first byte to the end of the hello exchange.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// From the end of the hello exchange, or the link's arrival, to the agent's first tunnel: a provider's
/// answer, and an agent that asks again with a fresh token, have time.
pub const FIRST_TUNNEL_TIMEOUT: Duration = Duration::from_secs(30);

/// Control bytes that may wait for an agent that has not shown a good token yet. As many may be on
/// their way to its socket.
pub const STRANGER_CONTROL_BYTES_MAX: usize = 32 * 1024;

/// Without any byte from the peer for this long, a link is dead.
pub const STALE_TIMEOUT: Duration = Duration::from_secs(45);

/// What was sent and is not known to have arrived after this long is followed by a ping.
pub const PROBE_AFTER: Duration = Duration::from_secs(1);

/// Without an answer to that ping, and without anything else than the peer's own pings, for this
/// long, a link is dead.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// A sender that was idle this long returns the credit it holds above the floor.
pub const IDLE_CREDIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest string of a control table, in bytes, unless a narrower bound holds.
pub const STRING_BYTES_MAX: usize = 1024;

/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Most capabilities of a tunnel.
pub const CAPABILITIES_MAX: usize = 64;

/// Longest capability, in bytes.
pub const CAPABILITY_BYTES_MAX: usize = 128;

/// Longest kind of application, in bytes: a segment of URLs that people read.
pub const DCC_BYTES_MAX: usize = 64;

/// Longest name of a target's host: 255 bytes on the wire (RFC 1035, 2.3.4) are 253 characters and a dot.
pub const HOST_BYTES_MAX: usize = 254;

/// Most public URLs of a tunnel.
pub const URLS_MAX: usize = 16;

/// Longest public URL, in bytes.
pub const URL_BYTES_MAX: usize = 2 * STRING_BYTES_MAX;

/// Longest name of a tunnel: a DNS label (RFC 1035, 2.3.4).
pub const TUNNEL_ID_BYTES_MAX: usize = 63;

const _: () = {
    assert!(DATA_BYTES_SENT_MAX <= DATA_BYTES_MAX as usize);
    assert!(SESSION_CREDIT_BYTES as usize > HEADER_BYTES);
    assert!(SESSION_CREDIT_BYTES <= SESSION_WINDOW_BYTES_MAX);
    // The longest registration and acknowledgement fit a table, with its offsets and lengths.
    let words = CAPABILITIES_MAX * (CAPABILITY_BYTES_MAX + 16);
    assert!(TOKEN_BYTES_MAX + 16 * STRING_BYTES_MAX + words < TABLE_BYTES_MAX as usize);
    assert!(URLS_MAX * (URL_BYTES_MAX + 16) + 2 * STRING_BYTES_MAX < TABLE_BYTES_MAX as usize);
    assert!(LOST_SESSIONS_MAX * 12 + 128 < TABLE_BYTES_MAX as usize);
    assert!(PROBE_AFTER.as_secs() + PROBE_TIMEOUT.as_secs() < 5);
    assert!(DATA_BYTES_SENT_MAX + HEADER_BYTES <= GATHER_BYTES_MAX);
};
