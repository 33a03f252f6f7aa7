//! Why an agent does not try QUIC, and what its log tells of small buffers for datagrams.

use super::quic::RECEIVE_BUFFER_BYTES;

/// Smallest receive buffer, in bytes, with which QUIC is of use. It holds what arrives in 10 ms, for which the link's task
/// may have to wait, at 50 Mbit/s; with less, datagrams are lost that TCP would not lose.
const RECEIVE_ROOM_MIN: usize = 64 * 1024;

/// Why an agent does not try QUIC.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untried {
    /// The relay's URL names another transport.
    #[error("a {0}:// link does not use it")]
    Scheme(&'static str),
    /// A proxy leads to the relay: its name, or what is wrong with it.
    #[error("not tried, because no proxy passes QUIC on ({0})")]
    Proxy(String),
    /// The system has too little room for datagrams.
    #[error(
        "not tried, because the system's buffers for UDP hold {bytes} bytes only, and QUIC needs {} (sysctl \
         net.core.rmem_max on Linux)",
        RECEIVE_ROOM_MIN
    )]
    Buffers {
        /// Bytes that a receive buffer may have.
        bytes: usize,
    },
}

/// Whether a receive buffer of `bytes` bytes is of use for QUIC.
///
/// # Errors
/// [`Untried::Buffers`] if it is too small.
pub(super) fn has_room_for_quic(bytes: usize) -> Result<(), Untried> {
    match bytes < RECEIVE_ROOM_MIN {
        true => Err(Untried::Buffers { bytes }),
        false => Ok(()),
    }
}

/// What is to say of a receive buffer of `bytes` bytes, in one line; `None` if it is as large as QUIC asks for. An agent
/// that `chooses` takes a WebSocket where it is too small.
pub(super) fn small_buffers(bytes: usize, chooses: bool) -> Option<String> {
    match has_room_for_quic(bytes) {
        Err(why) if chooses => Some(format!("QUIC is {why}; links go over a WebSocket")),
        _ if bytes >= RECEIVE_BUFFER_BYTES => None,
        _ => Some(format!(
            "the system's buffers for UDP hold {bytes} bytes, so QUIC loses packets when much arrives at once: on Linux \
             allow {RECEIVE_BUFFER_BYTES} with `sysctl -w net.core.rmem_max={RECEIVE_BUFFER_BYTES}`, and in /etc/sysctl.d \
             for the next boot"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_too_small_for_quic_below_64_kib_and_told_of_below_2_mib() {
        let least = 64 * 1024;
        let too_few = Untried::Buffers { bytes: least - 1 };
        assert_eq!(has_room_for_quic(least - 1), Err(too_few.clone()));
        assert_eq!(has_room_for_quic(least), Ok(()));
        let why = too_few.to_string();
        assert!(why.contains("65535") && why.contains("65536"), "{why}");
        let text = small_buffers(least - 1, true).unwrap();
        assert!(text.contains(&why) && text.contains("WebSocket"), "{text}");
        // An agent that must use QUIC does.
        for (bytes, chooses) in [
            (least - 1, false),
            (least, true),
            (2 * 1024 * 1024 - 1, false),
        ] {
            let text = small_buffers(bytes, chooses).unwrap();
            assert!(text.contains("net.core.rmem_max=2097152"), "{text}");
            assert!(text.contains(&bytes.to_string()), "{text}");
            assert_eq!(text.lines().count(), 1);
        }
        for chooses in [true, false] {
            assert_eq!(small_buffers(2 * 1024 * 1024, chooses), None);
        }
    }
}
