//! The denylist: token ids, subjects and agent keys that are refused even with a valid token.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use tieline_token::CLAIM_BYTES_MAX;
use tieline_wire::AgentKey;

/// Largest number of entries in one file.
const ENTRIES_MAX: usize = 100_000;

/// Shortest prefix of a key that an entry may have, in bytes; the log shows as many.
const KEY_BYTES_MIN: usize = 6;

/// One entry of the denylist.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Denied {
    /// A token's id, its `jti`.
    Number(String),
    /// A token holder, the `sub` of tokens.
    Subject(String),
    /// An agent's key, or a prefix of at least the length that the log shows.
    Key(Vec<u8>),
}

impl Denied {
    /// Parses an agent's key as the log prints it: 12 or more hexadecimal digits, with or without
    /// `AgentKey(` and `..)` around them.
    #[must_use]
    pub fn parse_key(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("AgentKey(").unwrap_or(text);
        let digits = digits.strip_suffix(')').unwrap_or(digits);
        let digits = digits.strip_suffix("..").unwrap_or(digits);
        let bytes = data_encoding::HEXLOWER_PERMISSIVE
            .decode(digits.as_bytes())
            .ok()?;
        (KEY_BYTES_MIN..=32)
            .contains(&bytes.len())
            .then_some(Self::Key(bytes))
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(jti) => write!(f, "jti {jti:?}"),
            Self::Subject(sub) => write!(f, "sub {sub:?}"),
            Self::Key(key) => write!(f, "key {}", data_encoding::HEXLOWER.encode(key)),
        }
    }
}

/// Set of denied token ids, subjects and agent keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denylist {
    numbers: HashSet<String>,
    subjects: HashSet<String>,
    keys: HashSet<Vec<u8>>,
}

/// Form of the denylist file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DenylistForm {
    #[serde(default)]
    jti: Vec<String>,
    #[serde(default)]
    sub: Vec<String>,
    #[serde(default)]
    key: Vec<String>,
}

impl Denylist {
    /// Adds an entry.
    pub fn add(&mut self, denied: Denied) {
        match denied {
            Denied::Number(jti) => self.numbers.insert(jti),
            Denied::Subject(sub) => self.subjects.insert(sub),
            Denied::Key(key) => self.keys.insert(key),
        };
    }

    /// True if the list has this token id, this subject, or this agent key.
    #[must_use]
    pub fn names(&self, jti: Option<&str>, sub: Option<&str>, key: Option<&AgentKey>) -> bool {
        let key_is_in = |key: &AgentKey| {
            let bytes = key.as_bytes();
            !self.keys.is_empty()
                && (KEY_BYTES_MIN..=bytes.len()).any(|len| self.keys.contains(&bytes[..len]))
        };
        jti.is_some_and(|jti| self.numbers.contains(jti))
            || sub.is_some_and(|sub| self.subjects.contains(sub))
            || key.is_some_and(key_is_in)
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.numbers.len() + self.subjects.len() + self.keys.len()
    }

    /// True if there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks a parsed file; the error says which entry is wrong.
    pub(super) fn new(form: DenylistForm) -> Result<Self, String> {
        let DenylistForm { jti, sub, key } = form;
        if jti.len() + sub.len() + key.len() > ENTRIES_MAX {
            return Err(format!("more than {ENTRIES_MAX} entries"));
        }
        if jti
            .iter()
            .chain(&sub)
            .any(|text| text.is_empty() || text.len() > CLAIM_BYTES_MAX)
        {
            return Err(format!(
                "an entry is empty or longer than {CLAIM_BYTES_MAX} bytes"
            ));
        }
        let mut list = Self {
            numbers: jti.into_iter().collect(),
            subjects: sub.into_iter().collect(),
            keys: HashSet::new(),
        };
        for text in key {
            let denied = Denied::parse_key(&text).ok_or_else(|| {
                let short: String = text.chars().take(80).collect();
                format!("key {short:?} is not 12 to 64 hexadecimal digits, as the log prints it")
            })?;
            list.add(denied);
        }
        Ok(list)
    }
}
