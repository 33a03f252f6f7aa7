//! Addresses to listen on, as settings write them: `127.0.0.1:9080`, or `tls://0.0.0.0:443` for connections over TLS.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddress {
    /// IP address and port.
    pub address: SocketAddr,
    /// Whether connections to the address begin with TLS.
    pub is_tls: bool,
}

impl From<SocketAddr> for ListenAddress {
    /// The address without TLS.
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            is_tls: false,
        }
    }
}

impl FromStr for ListenAddress {
    /// What is wrong with the text, worded to follow it in a sentence.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (is_tls, rest) = match text.split_once("://") {
            None => (false, text),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("tls") => (true, rest),
            Some(_) => {
                return Err(
                    "begins with another scheme than tls://: write it as tls://0.0.0.0:443 for TLS, or as \
                     0.0.0.0:9080 without",
                );
            }
        };
        let address = rest
            .parse::<SocketAddr>()
            .map_err(|_| "is not an address such as 127.0.0.1:9001 or [::1]:9001")?;
        Ok(Self { address, is_tls })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "tls://" } else { "" };
        write!(f, "{scheme}{}", self.address)
    }
}

/// Parses an address of the admin pages, which are served without TLS.
///
/// # Errors
/// As [`ListenAddress::from_str`], and if the text asks for TLS.
pub(super) fn plain(text: &str) -> Result<SocketAddr, &'static str> {
    let it: ListenAddress = text.parse()?;
    if it.is_tls {
        return Err(
            "asks for TLS, which the admin pages do not have: write it without tls://, as in 127.0.0.1:9003, \
             and let other machines reach it through a proxy that ends TLS",
        );
    }
    Ok(it.address)
}

/// Parses an address for QUIC, whose connections always begin with TLS.
///
/// # Errors
/// As [`ListenAddress::from_str`], and if the text begins with a scheme, also with `tls://`.
pub(super) fn quic(text: &str) -> Result<SocketAddr, &'static str> {
    if text.contains("://") {
        return Err(
            "begins with a scheme: QUIC always has TLS, so write the address alone, as in 0.0.0.0:9443",
        );
    }
    let it: ListenAddress = text.parse()?;
    Ok(it.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_it_is_read() {
        for (text, shown, is_tls) in [
            ("127.0.0.1:9080", "127.0.0.1:9080", false),
            ("[::1]:9080", "[::1]:9080", false),
            ("tls://0.0.0.0:443", "tls://0.0.0.0:443", true),
            ("TLS://[::]:443", "tls://[::]:443", true),
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(
                (address.to_string().as_str(), address.is_tls),
                (shown, is_tls)
            );
        }
        let without: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let address: ListenAddress = "127.0.0.1:1".parse().unwrap();
        assert_eq!(address, without.into());
    }

    #[test]
    fn what_is_no_address_is_told_what_to_write() {
        for (text, wanted) in [
            (
                "https://0.0.0.0:443",
                "begins with another scheme than tls://",
            ),
            (
                "tcp://0.0.0.0:443",
                "begins with another scheme than tls://",
            ),
            ("://0.0.0.0:443", "begins with another scheme than tls://"),
            ("localhost:9001", "is not an address such as"),
            ("tls://localhost:443", "is not an address such as"),
            ("tls://0.0.0.0", "is not an address such as"),
            ("tls://0.0.0.0:443/", "is not an address such as"),
            ("tls:0.0.0.0:443", "is not an address such as"),
            ("", "is not an address such as"),
        ] {
            let problem = text.parse::<ListenAddress>().unwrap_err();
            assert!(problem.starts_with(wanted), "{text}: {problem}");
        }
    }

    #[test]
    fn the_admin_pages_have_no_tls() {
        assert_eq!(plain("127.0.0.1:9003"), Ok(([127, 0, 0, 1], 9003).into()));
        for (text, wanted) in [
            ("tls://127.0.0.1:9003", "asks for TLS"),
            ("https://127.0.0.1:9003", "begins with another scheme"),
            ("localhost:9003", "is not an address"),
        ] {
            let problem = plain(text).unwrap_err();
            assert!(problem.starts_with(wanted), "{text}: {problem}");
        }
    }

    #[test]
    fn an_address_for_quic_is_written_without_a_scheme() {
        assert_eq!(quic("[::]:443"), Ok("[::]:443".parse().unwrap()));
        for (text, wanted) in [
            ("tls://0.0.0.0:443", "begins with a scheme"),
            ("quic://0.0.0.0:443", "begins with a scheme"),
            ("", "is not an address"),
        ] {
            let problem = quic(text).unwrap_err();
            assert!(problem.starts_with(wanted), "{text}: {problem}");
        }
    }
}
