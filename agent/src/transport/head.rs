//! The head of an HTTP answer to the agent's own requests: to a proxy, and for the WebSocket.

use http::StatusCode;

/// Limit on the bytes of a head.
pub(super) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Limit on the interim answers (1xx) in front of an answer.
pub(super) const INTERIM_MAX: usize = 8;

/// Limit on the header fields of a head.
const FIELDS_MAX: usize = 100;

/// Longest text of a server that a message shows, in characters.
const SHOWN_CHARS_MAX: usize = 200;

/// Status and header fields of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Names and values; bytes of a value that are not UTF-8 are replaced by U+FFFD.
    fields: Vec<(String, String)>,
}

/// Why bytes are not the head of an HTTP answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoHead {
    /// The bytes are not HTTP/1.
    NotHttp,
    /// The head exceeds [`HEAD_BYTES_MAX`] or [`FIELDS_MAX`].
    TooLong,
}

impl Head {
    /// Parses the head at the start of `bytes`; returns it with its length, or `None` while it is not complete. Header
    /// fields that are not valid are left out: the answer is for this program alone, and old proxies send such fields.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, NoHead> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut answer = httparse::Response::new(&mut fields);
        let mut parser = httparse::ParserConfig::default();
        parser.allow_spaces_after_header_name_in_responses(true);
        parser.ignore_invalid_headers_in_responses(true);
        let len = match parser.parse_response(&mut answer, bytes) {
            Ok(httparse::Status::Complete(len)) if len <= HEAD_BYTES_MAX => len,
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(NoHead::TooLong),
            Err(_) => return Err(NoHead::NotHttp),
        };
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let fields = answer.headers.iter();
        let fields = fields.map(|field| (field.name.to_owned(), text(field.value)));
        let head = Self {
            status: answer.code.unwrap_or_default(),
            fields: fields.collect(),
        };
        Ok(Some((head, len)))
    }

    /// True for an interim answer, which another answer follows (RFC 9110, section 15.2). 101 is none: after it the
    /// connection leaves HTTP.
    pub(super) const fn is_interim(&self) -> bool {
        matches!(self.status, 100 | 102..=199)
    }

    /// The values of the header field `name`, in order.
    pub(super) fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let is_it = move |(own, _): &&(String, String)| own.eq_ignore_ascii_case(name);
        let found = self.fields.iter().filter(is_it);
        found.map(|(_, value)| value.trim())
    }

    /// The value of the header field `name`; `None` if the field is missing or repeated.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        let mut values = self.values(name);
        let value = values.next();
        value.filter(|_| values.next().is_none())
    }

    /// True if the list in the header field `name` has `word`, in upper or lower case.
    pub(super) fn lists(&self, name: &str, word: &str) -> bool {
        let mut words = self.values(name).flat_map(|value| value.split(','));
        words.any(|it| it.trim().eq_ignore_ascii_case(word))
    }

    /// Status and its usual reason, such as `404 Not Found`. The server's own reason may repeat a password that it was
    /// sent, so it is not shown.
    pub(super) fn status_line(&self) -> String {
        let status = StatusCode::from_u16(self.status).ok();
        match status.and_then(|it| it.canonical_reason()) {
            Some(reason) => format!("{} {reason}", self.status),
            None => self.status.to_string(),
        }
    }
}

/// A server's text, cut to a length for messages.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] =
        b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: NTLM\r\n\
          proxy-authenticate: Basic realm=\"x\"\r\nConnection: keep-alive, Upgrade\r\n\r\nrest";

    #[test]
    fn a_head_is_read_whole_wherever_it_is_cut() {
        let len = ANSWER.len() - 4;
        for cut in 0..len {
            assert_eq!(Head::parse(&ANSWER[..cut]), Ok(None), "{cut}");
        }
        for cut in len..=ANSWER.len() {
            let (head, own) = Head::parse(&ANSWER[..cut]).unwrap().unwrap();
            assert_eq!(own, len);
            assert_eq!(head.status_line(), "407 Proxy Authentication Required");
            let schemes: Vec<_> = head.values("proxy-authenticate").collect();
            assert_eq!(schemes, ["NTLM", "Basic realm=\"x\""]);
            assert_eq!(head.value("proxy-authenticate"), None);
            assert!(head.lists("connection", "upgrade"));
            assert!(!head.lists("connection", "close"));
        }
    }

    #[test]
    fn fields_that_are_not_valid_are_left_out() {
        let text = b"HTTP/1.1 407 Login\r\nVia : p\r\n folded\r\nno colon\r\nA\xff: b\r\nServer: q\r\n\r\n";
        for cut in 0..text.len() {
            assert_eq!(Head::parse(&text[..cut]), Ok(None), "{cut}");
        }
        let (head, len) = Head::parse(text).unwrap().unwrap();
        assert_eq!(len, text.len());
        assert_eq!(
            (head.value("via"), head.value("server")),
            (Some("p"), Some("q"))
        );
        assert_eq!(head.fields.len(), 2);
    }

    #[test]
    fn the_reason_in_a_servers_own_words_is_not_shown() {
        for (own, shown) in [
            ("500 no: ada:secret", "500 Internal Server Error"),
            ("404", "404 Not Found"),
            ("599 secret", "599"),
            ("999 secret", "999"),
        ] {
            let text = format!("HTTP/1.1 {own}\r\n\r\n");
            let (head, _) = Head::parse(text.as_bytes()).unwrap().unwrap();
            assert_eq!(head.status_line(), shown);
        }
    }

    #[test]
    fn an_interim_answer_is_told_from_the_last_one() {
        for (status, is_interim) in [(100, true), (101, false), (103, true), (200, false)] {
            let text = format!("HTTP/1.1 {status}\r\n\r\n");
            let (head, _) = Head::parse(text.as_bytes()).unwrap().unwrap();
            assert_eq!(head.is_interim(), is_interim, "{status}");
        }
    }

    #[test]
    fn what_is_no_head_or_a_long_one_is_refused() {
        for text in ["SSH-2.0-OpenSSH\r\n", "\x15\x03\x03", "<html>"] {
            assert_eq!(Head::parse(text.as_bytes()), Err(NoHead::NotHttp), "{text}");
        }
        let field = |count: usize| format!("HTTP/1.1 200 OK\r\n{}", "a: b\r\n".repeat(count));
        assert_eq!(Head::parse(field(101).as_bytes()), Err(NoHead::TooLong));
        let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(HEAD_BYTES_MAX));
        assert_eq!(Head::parse(long.as_bytes()), Err(NoHead::TooLong));
        let ended = format!("{long}\r\n\r\n");
        assert_eq!(Head::parse(ended.as_bytes()), Err(NoHead::TooLong));
    }
}
