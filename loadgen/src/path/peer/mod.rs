//! Peers: other tunnel or proxy programs, measured as additional paths in the same rounds.

mod configuration;
pub(crate) mod known;
pub(crate) mod proxy;

use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use crate::path::{Path, PathKind, Role};
use crate::socket::Wrap;

/// Names of the built-in paths, which peers cannot use.
const TAKEN: [&str; 6] = [
    "direct",
    "forwarder-tokio",
    "forwarder-tokio-uring",
    "forwarder-monoio",
    "relay",
    "relay-epoll",
];

/// A running peer, as given on the command line by `--peer`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PeerSpec {
    /// Name in the report.
    pub(crate) name: String,
    /// Address that the client connects to.
    pub(crate) address: SocketAddr,
    /// Bytes that the client sends first.
    pub(crate) preamble: Vec<u8>,
}

/// A process id of a peer, as given by `--peer-pid`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PeerPid {
    pub(crate) name: String,
    pub(crate) pid: u32,
}

impl FromStr for PeerSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text
            .split_once('=')
            .ok_or("write NAME=HOST:PORT, such as frp=127.0.0.1:7000")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || !name.chars().all(plain) {
            return Err(format!(
                "`{name}`: a name has letters, digits, `-`, `_` and `.`"
            ));
        }
        let is_wrapped = ["direct-", "relay-"].iter().any(|it| name.starts_with(it));
        if TAKEN.contains(&name) || is_wrapped {
            return Err(format!("`{name}` is the name of another path"));
        }
        let (address, preamble) = rest.split_once(',').unwrap_or((rest, ""));
        let address = address
            .to_socket_addrs()
            .map_err(|error| format!("`{address}` is not a resolvable HOST:PORT: {error}"))?
            .next()
            .ok_or_else(|| format!("`{address}` resolves to no address"))?;
        Ok(Self {
            name: name.to_owned(),
            address,
            preamble: parse_preamble(preamble)?,
        })
    }
}

impl FromStr for PeerPid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('=').and_then(|(name, pid)| {
            Some(Self {
                name: name.to_owned(),
                pid: pid.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| "write NAME=PID, such as frp=1234".to_owned())
    }
}

impl PeerSpec {
    /// Path through this peer, with those of `pids` that carry the peer's name.
    pub(crate) fn path(&self, pids: &[PeerPid]) -> Path {
        let own = pids.iter().filter(|pid| pid.name == self.name);
        let processes: Vec<(Role, u32)> = own
            .enumerate()
            .map(|(place, pid)| {
                let role = if place == 0 {
                    Role::NearHop
                } else {
                    Role::FarHop
                };
                (role, pid.pid)
            })
            .collect();
        Path {
            kind: PathKind::peer(&self.name),
            address: self.address,
            wrap: Wrap::default(),
            preambles: vec![self.preamble.clone()],
            pages: Vec::new(),
            hops_known: !processes.is_empty(),
            processes,
            connections_max: None,
        }
    }
}

/// Parses a preamble: `text:...` and `hex:...` pieces separated by commas.
fn parse_preamble(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        // A comma belongs to the text unless it is followed by the start of another piece.
        let end = [",text:", ",hex:"]
            .iter()
            .filter_map(|word| rest.find(word))
            .min()
            .unwrap_or(rest.len());
        let (piece, more) = rest.split_at(end);
        if let Some(text) = piece.strip_prefix("text:") {
            bytes.extend(unescape(text)?);
        } else if let Some(hex) = piece.strip_prefix("hex:") {
            bytes.extend(decode_hex(hex)?);
        } else {
            return Err(format!("`{piece}`: a preamble is text:... or hex:..."));
        }
        rest = more.strip_prefix(',').unwrap_or(more);
    }
    Ok(bytes)
}

fn decode_hex(hex: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("`{hex}` is not hex: two digits for each byte");
    if !hex.is_ascii() || !hex.len().is_multiple_of(2) {
        return Err(wrong());
    }
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| wrong()))
        .collect()
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            bytes.extend(c.encode_utf8(&mut [0; 4]).bytes());
            continue;
        }
        match rest.next() {
            Some('n') => bytes.push(b'\n'),
            Some('r') => bytes.push(b'\r'),
            Some('t') => bytes.push(b'\t'),
            Some('0') => bytes.push(0),
            Some('\\') => bytes.push(b'\\'),
            Some('x') => bytes.extend(decode_hex(&rest.by_ref().take(2).collect::<String>())?),
            other => {
                let other = other.map(String::from).unwrap_or_default();
                return Err(format!(
                    "`\\{other}`: known escapes are \\n \\r \\t \\0 \\\\ and \\x1f"
                ));
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_a_name_an_address_and_perhaps_a_preamble() {
        let peer: PeerSpec = "frp=127.0.0.1:7000".parse().unwrap();
        assert_eq!(
            (peer.name.as_str(), peer.address.port(), peer.preamble.len()),
            ("frp", 7000, 0)
        );
        let peer: PeerSpec = "a=127.0.0.1:1,text:a,b\\r\\n\\x00,hex:00ff,text:="
            .parse()
            .unwrap();
        assert_eq!(peer.preamble, b"a,b\r\n\0\0\xff=");
    }

    #[test]
    fn a_wrong_peer_says_what_is_expected() {
        for (text, word) in [
            ("127.0.0.1:7000", "NAME=HOST:PORT"),
            ("=127.0.0.1:7000", "a name has"),
            ("a b=127.0.0.1:7000", "a name has"),
            ("relay=127.0.0.1:7000", "another path"),
            ("relay-epoll=127.0.0.1:7000", "another path"),
            ("relay-tls=127.0.0.1:7000", "another path"),
            ("frp=7000", "HOST:PORT"),
            ("frp=127.0.0.1:7000,abc", "text:... or hex:..."),
            ("frp=127.0.0.1:7000,hex:abc", "two digits"),
            ("frp=127.0.0.1:7000,hex:zz", "two digits"),
            ("frp=127.0.0.1:7000,text:\\q", "\\x1f"),
        ] {
            let error = text.parse::<PeerSpec>().unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!("frp".parse::<PeerPid>().is_err() && "frp=x".parse::<PeerPid>().is_err());
    }

    #[test]
    fn the_first_process_is_the_near_hop() {
        let peer: PeerSpec = "frp=127.0.0.1:7000".parse().unwrap();
        let pids = ["frp=11", "other=12", "frp=13"].map(|pid| pid.parse::<PeerPid>().unwrap());
        let path = peer.path(&pids);
        assert_eq!(path.processes, [(Role::NearHop, 11), (Role::FarHop, 13)]);
        assert!(path.hops_known && !peer.path(&pids[1..2]).hops_known);
    }
}
