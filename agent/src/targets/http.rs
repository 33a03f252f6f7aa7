//! A target that speaks HTTP: the agent moves plain bytes, the relay knows that they are HTTP.

use tieline_wire::Register;

use super::tcp::TcpTarget;
use crate::address::HostPort;

const HTTP_PORT: u16 = 80;

/// A server that speaks HTTP under a base path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpTarget {
    tcp: TcpTarget,
    base_path: String,
}

impl HttpTarget {
    /// Parses the part of a target after `http://`.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.contains(['?', '#']) {
            return Err("a target must not have a query or fragment");
        }
        let (authority, path) = text.find('/').map_or((text, ""), |at| text.split_at(at));
        if authority.contains('@') {
            return Err("a target must not have a user name or password");
        }
        if !Register::is_base_path(path) {
            return Err("a path must not have spaces or `..`; write special characters as %XX");
        }
        let tcp = TcpTarget::new(HostPort::parse(authority, Some(HTTP_PORT))?);
        // A server may answer at `/mcp/` only; an empty path and `/` are the same (RFC 3986, section 6.2.3).
        let base_path = match path.trim_end_matches('/') {
            "" => "",
            _ => path,
        };
        Ok(Self {
            tcp,
            base_path: base_path.to_owned(),
        })
    }

    pub(super) const fn tcp(&self) -> &TcpTarget {
        &self.tcp
    }

    /// Host and port as a client would write them in `Host`: without the default port.
    pub(super) fn authority(&self) -> String {
        let full = self.tcp.address().to_string();
        if self.tcp.address().port() == HTTP_PORT {
            full.trim_end_matches(":80").to_owned()
        } else {
            full
        }
    }

    pub(super) fn base_path(&self) -> &str {
        &self.base_path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_port_is_left_out_of_the_authority() {
        let target = HttpTarget::parse("Studio.example/mcp/").unwrap();
        assert_eq!(target.authority(), "studio.example");
        assert_eq!(target.tcp().address().port(), 80);
        assert_eq!(target.base_path(), "/mcp/");
        assert_eq!(
            HttpTarget::parse("[::1]:8080").unwrap().authority(),
            "[::1]:8080"
        );
        assert_eq!(HttpTarget::parse("h:8080/").unwrap().base_path(), "");
    }

    #[test]
    fn what_cannot_be_part_of_a_target_is_refused() {
        for text in [
            "",
            "/mcp",
            "h:1/a?b",
            "h:1/#a",
            "u:p@h:1/",
            "h:1/a b",
            "h:x/",
            "h:1/a/../b",
            "h:1/\\\\x",
        ] {
            assert!(HttpTarget::parse(text).is_err(), "{text}");
        }
    }
}
