//! All limits of the protocol, and how they relate.

use std::time::Duration;

/// First bytes on every link, from both sides: `TLINE\r\n` and the version of the framing.
pub const PREFACE: [u8; 8] = *b"TLINE\r\n\x01";

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 12;

/// Lowest handshake version that this build speaks.
pub const VERSION_MIN: u16 = 1;
/// Highest handshake version that this build speaks.
pub const VERSION_MAX: u16 = 1;

/// Largest payload of a `Data` frame that a peer may send, in bytes.
pub const DATA_BYTES_MAX: u32 = 64 * 1024;

/// Largest payload of a `Data` frame that this side sends, in bytes: the most that one session puts in
/// front of the others.
pub const DATA_BYTES_SENT_MAX: usize = 32 * 1024;

/// Largest payload of a control table, in bytes.
pub const TABLE_BYTES_MAX: u32 = 64 * 1024;

/// Deepest nesting that the verifier accepts in a control table.
pub const TABLE_DEPTH_MAX: usize = 8;
/// Most tables that the verifier accepts in one control table.
pub const TABLES_MAX: usize = 256;

/// Shortest piece that counts as a part of a bulk transfer, in bytes.
///
/// Splicing is slower than a copy up to 4 KiB, and faster from 64 KiB. Two consecutive reads of a
/// quarter of that are no longer a small message.
pub const BULK_PIECE_BYTES_MIN: usize = 16 * 1024;

/// First bytes on a bulk lane from both sides: `TLANE\r\n` and the lane version. An agent sends the
/// offer's nonce after them.
pub const LANE_PREFACE: [u8; 8] = *b"TLANE\r\n\x01";

/// Bytes that an agent sends before a lane carries payload.
pub const LANE_HELLO_BYTES: usize = LANE_PREFACE.len() + 16;

/// Most bytes gathered into one send.
pub const GATHER_BYTES_MAX: usize = 256 * 1024;

/// Most slices gathered into one send: `IOV_MAX` of Linux (sysconf(3)).
pub const GATHER_SLICES_MAX: usize = 1024;

/// Initial credit of a session in each direction, in bytes; also the floor that an idle sender keeps.
pub const SESSION_CREDIT_BYTES: u32 = 16 * 1024;

/// Largest window one session may grow to, in bytes.
///
/// Covers a 100 ms round trip at 1.25 Gbit/s: 0.1 s x 156 MB/s = 15.6 MB, rounded up.
pub const SESSION_WINDOW_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// Window bytes above the floor that all sessions of one link may hold together.
pub const LINK_BUDGET_BYTES: u64 = 64 * 1024 * 1024;

/// Bytes of one session that may wait in the mux for the link's socket.
pub const SESSION_QUEUE_BYTES_MAX: usize = 256 * 1024;

/// Bytes of all sessions that may wait in the mux for the link's socket; above it each session may
/// queue only its initial credit.
pub const LINK_QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Sessions that may live on one link at a time.
pub const SESSIONS_MAX: u32 = 65_536;

/// Sessions beyond [`SESSIONS_MAX`] that an agent may still hold: the relay no longer counts them, but
/// the agent still reads their lanes. Far more than the lanes that relays open for one link.
pub const LANES_LATE_MAX: u32 = 1024;

/// Highest session id of a link; once it is used, the relay must replace the link.
pub const SESSION_IDS_MAX: u32 = u32::MAX - SESSIONS_MAX;

/// Most lost links that an agent may report over one new link.
pub const LOST_LINKS_MAX: usize = 4;

/// Most sessions that the report of a lost link may list.
pub const LOST_SESSIONS_MAX: usize = 1024;

/// Tunnels that one link may register.
pub const TUNNELS_PER_LINK_MAX: u32 = 16_384;

/// Longest time from the first byte to the end of the hello exchange.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time from the end of the hello exchange, or from the link's arrival, to the agent's first tunnel.
/// Leaves time for a provider's answer, and for an agent that asks again with a fresh token.
pub const FIRST_TUNNEL_TIMEOUT: Duration = Duration::from_secs(30);

/// Control bytes that may wait for an agent that has not shown a valid token yet. The same number may
/// be on their way to its socket.
pub const STRANGER_CONTROL_BYTES_MAX: usize = 32 * 1024;

/// A link without a byte from the peer for this long is dead.
pub const STALE_TIMEOUT: Duration = Duration::from_secs(45);

/// Time without proof that sent bytes arrived, after which a ping follows them; also the silence behind data of the
/// peer after which a ping asks whether more of it was lost.
pub const PROBE_AFTER: Duration = Duration::from_secs(1);

/// A link is dead if for this long neither the answer to that ping arrives nor anything else but
/// the peer's own pings.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// A sender that is idle for this long returns the credit that it holds above the floor.
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
