//! Whether a request over HTTP/1.1 is HEAD, told by its first bytes: an answer that hyper does not write has to know.

/// First bytes of the request line of HEAD.
const HEAD: &[u8] = b"HEAD ";

/// First bytes of a request line that tell whether it is HEAD.
pub(crate) const METHOD_BYTES: usize = HEAD.len();

/// Most bytes of a request that are worth reading for [`is_head`]: empty lines may come before its request line.
pub const REQUEST_START_BYTES_MAX: usize = 64;

/// Whether the request that begins with `start` is HEAD; `None` if more bytes are needed to know. Empty lines in front
/// of the request line do not count (RFC 9112, section 2.2).
#[must_use]
pub fn is_head(start: &[u8]) -> Option<bool> {
    let mut line = start;
    while let Some(behind) = line.strip_prefix(b"\r\n") {
        line = behind;
    }
    if line == b"\r" {
        return None;
    }
    let known = line.len().min(METHOD_BYTES);
    if line[..known] != HEAD[..known] {
        return Some(false);
    }
    (known == METHOD_BYTES).then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_is_known_by_its_first_bytes_behind_empty_lines() {
        for empty_lines in ["", "\r\n", "\r\n\r\n\r\n"] {
            for (line, expected) in [
                ("", None),
                ("\r", None),
                ("H", None),
                ("HEAD", None),
                ("HEAD ", Some(true)),
                ("HEAD / HTTP/1.1\r\n", Some(true)),
                ("G", Some(false)),
                ("GET / HTTP/1.1\r\n", Some(false)),
                ("HEADS /", Some(false)),
                ("HEAD\0", Some(false)),
                ("head / ", Some(false)),
                (" HEAD /", Some(false)),
                ("\rHEAD /", Some(false)),
                ("\nHEAD /", Some(false)),
                ("\0\0\0\0\0", Some(false)),
            ] {
                let start = format!("{empty_lines}{line}");
                assert_eq!(is_head(start.as_bytes()), expected, "{start:?}");
            }
        }
        assert!(is_head(&b"\r\n".repeat(REQUEST_START_BYTES_MAX)).is_none());
    }
}
