//! Types for names and numbers that must not be confused.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;

use crate::limits::TUNNEL_ID_BYTES_MAX;

/// A point in time: microseconds since an origin that the driver chose.
///
/// The protocol reads no clock; the driver says what time it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// From microseconds since the origin.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the origin.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was, zero if it lies ahead.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(rhs.as_micros()).unwrap_or(u64::MAX)),
        )
    }
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Wraps the id's bytes.
            #[must_use]
            pub const fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The id's bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "("))?;
                for byte in &self.0[..6] {
                    write!(f, "{byte:02x}")?;
                }
                f.write_str("..)")
            }
        }
    };
}

bytes_id! {
    /// An agent's Ed25519 public key: the owner of a tunnel's name.
    AgentKey, 32
}
bytes_id! {
    /// The host that an agent runs on: several hosts may share one home directory, and so one key.
    MachineId, 16
}
bytes_id! {
    /// One run of an agent process: the same key with a new instance takes over.
    InstanceId, 16
}

/// Number of a decision about a name; voids older decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A session's number on its link: rises, and is never reused on that link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u32);

/// Sessions of one link by id, with a fast hash, since each frame takes several look-ups. The hash is
/// seeded; a relay that chose colliding ids would only slow its own agents down.
pub type SessionMap<V> = std::collections::HashMap<SessionId, V, foldhash::fast::RandomState>;

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Names that no tunnel may have: names that relays serve beside tunnels, likely beginnings of a target's
/// path after `/dcc/<dcc>/`, and hosts that every domain has (RFC 2142, RFC 6761).
pub const RESERVED_NAMES: &[&str] = &[
    "admin",
    "agent",
    "api",
    "app",
    "auth",
    "connect",
    "dashboard",
    "dcc",
    "docs",
    "health",
    "healthz",
    "localhost",
    "login",
    "mail",
    "mcp",
    "message",
    "messages",
    "metrics",
    "oauth",
    "relay",
    "revoke",
    "sse",
    "static",
    "status",
    "tunnel",
    "tunnels",
    "w",
    "well-known",
    "www",
];

/// Why a text is not a tunnel name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, or longer than a DNS label may be.
    #[error("a tunnel name has 1 to {TUNNEL_ID_BYTES_MAX} characters, not {0}")]
    Length(usize),
    /// A character outside `a-z 0-9 -`.
    #[error("a tunnel name has only letters a-z, digits and '-', not {0:?}")]
    Character(char),
    /// A hyphen at either end.
    #[error("a tunnel name neither starts nor ends with '-'")]
    Hyphen,
}

/// The published name of a tunnel: a DNS label, kept in lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelId(Arc<str>);

impl TunnelId {
    /// Reads a name; upper case is folded, as in DNS.
    ///
    /// # Errors
    /// [`NameError`] says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > TUNNEL_ID_BYTES_MAX {
            return Err(NameError::Length(text.chars().count()));
        }
        if let Some(wrong) = text
            .chars()
            .find(|c| !c.is_ascii_alphanumeric() && *c != '-')
        {
            return Err(NameError::Character(wrong));
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(NameError::Hyphen);
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// Derives the name of a target for which the agent asks for none: always the same name for one key,
    /// machine and label.
    #[must_use]
    pub fn derive(key: &AgentKey, machine: &MachineId, label: &str) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"tieline tunnel name 1\0");
        hash.update(key.as_bytes());
        hash.update(machine.as_bytes());
        hash.update(label.as_bytes());
        let suffix = base32(hash.finish().as_ref());
        Self(match slug(label) {
            slug if slug.is_empty() => suffix.into(),
            slug => format!("{slug}-{suffix}").into(),
        })
    }

    /// True for a name that no agent gets: it has another meaning in a URL or a host name (see
    /// [`RESERVED_NAMES`]), or its third and fourth characters are hyphens. Browsers show such labels
    /// (`xn--…`) in other scripts (RFC 5890, 2.3.1).
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.as_bytes().get(2..4) == Some(b"--") || RESERVED_NAMES.contains(&&*self.0)
    }

    /// True for a name that looks derived; only the key that it is derived from may ask for such a name.
    #[must_use]
    pub fn looks_derived(&self) -> bool {
        let suffix = self.0.rsplit('-').next().unwrap_or(&self.0);
        suffix.len() == DERIVED_SUFFIX_CHARS && suffix.bytes().all(|b| BASE32.contains(&b))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// Compares, sorts and hashes like its text, so a map of names can be searched with a text.
impl Borrow<str> for TunnelId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for TunnelId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl fmt::Display for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TunnelId({})", self.0)
    }
}

/// Characters of a derived name's suffix: 13 x 5 = 65 bits of the hash.
const DERIVED_SUFFIX_CHARS: usize = 13;

/// Characters of a label that a derived name keeps, for readability.
const SLUG_CHARS_MAX: usize = 20;

// RFC 4648 base 32 in lower case: DNS ignores case, so the text does not depend on case.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fn base32(hash: &[u8]) -> String {
    let mut bits = hash
        .iter()
        .take(DERIVED_SUFFIX_CHARS)
        .fold(0_u128, |bits, byte| (bits << 8) | u128::from(*byte));
    (0..DERIVED_SUFFIX_CHARS)
        .map(|_| {
            let digit = char::from(BASE32[(bits & 31) as usize]);
            bits >>= 5;
            digit
        })
        .collect()
}

fn slug(label: &str) -> String {
    let mut slug = String::new();
    for c in label.chars() {
        if slug.len() == SLUG_CHARS_MAX {
            break;
        }
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derive(key: u8, machine: u8, label: &str) -> TunnelId {
        TunnelId::derive(
            &AgentKey::new([key; 32]),
            &MachineId::new([machine; 16]),
            label,
        )
    }

    #[test]
    fn a_name_is_a_dns_label_in_lower_case() {
        assert_eq!(TunnelId::parse("Maya-1").unwrap().as_str(), "maya-1");
        assert_eq!(TunnelId::parse(""), Err(NameError::Length(0)));
        assert_eq!(TunnelId::parse(&"a".repeat(64)), Err(NameError::Length(64)));
        assert_eq!(TunnelId::parse("a.b"), Err(NameError::Character('.')));
        assert_eq!(TunnelId::parse("mаya"), Err(NameError::Character('а')));
        assert_eq!(TunnelId::parse("-a"), Err(NameError::Hyphen));
        assert_eq!(TunnelId::parse("a-"), Err(NameError::Hyphen));
    }

    #[test]
    fn a_derived_name_depends_on_key_machine_and_label() {
        let name = derive(1, 1, "127.0.0.1:8765/mcp");
        assert_eq!(name, derive(1, 1, "127.0.0.1:8765/mcp"));
        assert_ne!(name, derive(2, 1, "127.0.0.1:8765/mcp"));
        assert_ne!(name, derive(1, 2, "127.0.0.1:8765/mcp"));
        assert_ne!(name, derive(1, 1, "127.0.0.1:8766/mcp"));
    }

    #[test]
    fn a_derived_name_is_a_valid_name_for_any_label() {
        for label in [
            "",
            "-",
            "Maya",
            "a--b",
            "ä",
            &"x".repeat(500),
            "127.0.0.1:1/mcp?x=é",
        ] {
            let name = derive(1, 1, label);
            assert_eq!(
                TunnelId::parse(name.as_str()).as_ref(),
                Ok(&name),
                "{label}"
            );
            assert!(name.looks_derived(), "{name}");
        }
        assert!(!TunnelId::parse("maya-1").unwrap().looks_derived());
    }

    #[test]
    fn names_that_mean_something_else_are_reserved_and_derived_ones_never_are() {
        for name in ["mcp", "MCP", "w", "xn--mya-2na", "ab--c"] {
            assert!(TunnelId::parse(name).unwrap().is_reserved(), "{name}");
        }
        for name in ["maya", "mcp-1", "a--b", "seat-12", "x-n--a"] {
            assert!(!TunnelId::parse(name).unwrap().is_reserved(), "{name}");
        }
        for label in ["xn--a", "ab--cd", "mcp", "w"] {
            assert!(!derive(1, 1, label).is_reserved(), "{label}");
        }
        assert!(RESERVED_NAMES.is_sorted());
    }

    #[test]
    fn a_key_is_shown_short() {
        assert_eq!(
            format!("{:?}", AgentKey::new([0xab; 32])),
            "AgentKey(abababababab..)"
        );
    }
}
