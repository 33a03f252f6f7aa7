//! Recognises the server that answers at an address where a relay was expected, and says what to do.

/// Number of first bytes that are kept: enough for an HTTP status line.
pub const FIRST_BYTES_MAX: usize = 48;

/// Hint that leads from a wrong port to the right one.
const AGENT_PORT: &str =
    "is this the relay's port for agents (9001 unless its operator says otherwise)?";

/// Names the kind of server that sent `first`; no bytes at all mean a silence, or an early end.
#[must_use]
pub fn describe(first: &[u8]) -> String {
    let begins = |text: &[u8]| first.starts_with(text);
    let who = if first.is_empty() {
        "no data came before that"
    } else if begins(b"HTTP/") || begins(b"<") {
        "an HTTP server answers there"
    } else if begins(b"SSH-") {
        "an SSH server answers there"
    } else if begins(b"220") {
        "a mail or FTP server answers there"
    } else if matches!(first, [0x15 | 0x16, 0x03, ..]) {
        return "a TLS server answers there, and this version dials plain TCP only: give the relay's \
                port for agents (9001 unless its operator says otherwise) without TLS in front"
            .to_owned();
    } else {
        "what answers there is not a Tieline relay"
    };
    format!("{who}; {AGENT_PORT}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_recognised_by_its_first_bytes() {
        for (first, word) in [
            (&b"HTTP/1.1 400 Bad Request\r\n"[..], "HTTP server"),
            (b"<html>", "HTTP server"),
            (b"SSH-2.0-OpenSSH_9.6", "SSH server"),
            (b"220 mail.example ESMTP", "mail or FTP"),
            (b"\x15\x03\x03\x00\x02", "TLS server"),
            (b"J\x00\x00\x00\x0a8.0.36", "not a Tieline relay"),
            (b"", "no data came"),
        ] {
            let text = describe(first);
            assert!(text.contains(word) && text.contains("9001"), "{text}");
        }
    }
}
