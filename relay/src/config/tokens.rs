//! Static tokens: the tokens file holds the hash of each token and what it allows.

use std::collections::HashMap;
use std::fmt;
use std::hint::black_box;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use serde::Deserialize;
use tieline_token::{CLAIM_BYTES_MAX, Claims, Scope};

/// Beginning of each generated static token, so that people and secret scanners recognize one.
pub const TOKEN_PREFIX: &str = "tieline_";

/// Longest static token, in characters.
pub const LISTED_CHARS_MAX: usize = 256;

/// The example in the documents once had the hash of this word: every reader of them has this token.
const EXAMPLE: &str = "password";

/// Largest number of tokens in one file.
const TOKENS_MAX: usize = 100_000;

/// Beginning of a written hash.
const HASH_PREFIX: &str = "sha256:";

/// SHA-256 hash of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Hashes a token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(hash)
    }

    /// Parses `sha256:` followed by 64 hexadecimal digits.
    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(HASH_PREFIX)?;
        let mut hash = [0; 32];
        data_encoding::HEXLOWER_PERMISSIVE
            .decode_mut(
                digits.as_bytes(),
                (digits.len() == 64).then_some(&mut hash[..])?,
            )
            .ok()?;
        Some(Self(hash))
    }

    /// Compares in constant time.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let pairs = self.0.iter().zip(&other.0);
        pairs.fold(0, |sum, (one, other)| black_box(sum | (one ^ other))) == 0
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{HASH_PREFIX}{}",
            data_encoding::HEXLOWER.encode(&self.0)
        )
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(masked)")
    }
}

/// True for a text that the relay accepts as a static token: the characters of a bearer token (`b64token` of
/// RFC 6750, section 2.1), so that the token can be told from surrounding text.
#[must_use]
pub fn is_listable(token: &str) -> bool {
    let padding = token.bytes().rev().take_while(|byte| *byte == b'=').count();
    let text = &token[..token.len() - padding];
    !text.is_empty() && token.len() <= LISTED_CHARS_MAX && text.bytes().all(is_token_char)
}

/// True for a character of a static token, except the `=` at its end.
pub(crate) const fn is_token_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/')
}

/// Permissions of a static token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenEntry {
    /// The permissions, as the claims of a signed token.
    pub claims: Claims,
    /// Expiry: the first second since 1970 at which the token is refused.
    pub expires_at_seconds: Option<u64>,
}

/// All static tokens, by hash.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TokenTable(HashMap<TokenHash, Arc<TokenEntry>>);

impl fmt::Debug for TokenTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenTable({} tokens)", self.0.len())
    }
}

/// Form of the tokens file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokensForm {
    #[serde(default)]
    token: Vec<TokenForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenForm {
    sub: String,
    hash: String,
    tunnels: Option<Vec<String>>,
    dcc: Option<Vec<String>>,
    scope: Option<Vec<String>>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    reach: Vec<String>,
    #[serde(default)]
    shared: bool,
    expires: Option<toml::Value>,
}

impl TokenTable {
    /// Finds a token's entry by the token's hash.
    #[must_use]
    pub fn find(&self, hash: &TokenHash) -> Option<&Arc<TokenEntry>> {
        // A lookup by hash may leak timing, but a hash of 256 random bits cannot be guessed piece by piece.
        // The comparison in constant time avoids relying on that argument.
        let (found, entry) = self.0.get_key_value(hash)?;
        found.is(hash).then_some(entry)
    }

    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are no tokens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks a parsed file; the error says which token is wrong.
    pub(super) fn new(form: TokensForm) -> Result<Self, String> {
        if form.token.len() > TOKENS_MAX {
            return Err(format!("more than {TOKENS_MAX} tokens"));
        }
        let mut table = HashMap::with_capacity(form.token.len());
        for (index, token) in form.token.into_iter().enumerate() {
            let sub: String = token.sub.chars().take(CLAIM_BYTES_MAX).collect();
            let wrong = |problem: String| format!("token {} ({sub:?}): {problem}", index + 1);
            let (hash, entry) = token.read().map_err(wrong)?;
            if table.insert(hash, Arc::new(entry)).is_some() {
                return Err(wrong("its hash is that of another token".to_owned()));
            }
        }
        Ok(Self(table))
    }
}

impl TokenForm {
    fn read(self) -> Result<(TokenHash, TokenEntry), String> {
        let hash = TokenHash::parse(&self.hash).ok_or(
            "`hash` is `sha256:` and 64 hexadecimal digits, as `tieline-relay token new` prints it",
        )?;
        if hash.is(&TokenHash::of(EXAMPLE)) {
            return Err(format!(
                "this is the hash of the word {EXAMPLE:?}; `tieline-relay token new` makes a token"
            ));
        }
        for word in self.scope.iter().flatten() {
            if !Scope::ALL.iter().any(|scope| scope.word() == word) {
                return Err(format!("scope {word:?} is not agent, caller or admin"));
            }
        }
        for pattern in self.tunnels.iter().flatten().chain(&self.reach) {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '*';
            if pattern.is_empty() || !pattern.chars().all(fits) {
                return Err(format!(
                    "{pattern:?} is not a name pattern: it may have letters a-z, digits, '-' and '*'"
                ));
            }
        }
        let expires_at_seconds = self.expires.map(seconds).transpose()?;
        let claims = Claims {
            sub: self.sub,
            exp: expires_at_seconds.unwrap_or(u64::MAX),
            allowed_dcc: self.dcc,
            tunnels: self.tunnels,
            scope: self.scope,
            groups: self.groups,
            reach: self.reach,
            shared: self.shared,
            ..Claims::default()
        };
        claims.check_form().map_err(|error| error.to_string())?;
        let entry = TokenEntry {
            claims,
            expires_at_seconds,
        };
        Ok((hash, entry))
    }
}

/// Converts the value of `expires` to seconds since 1970.
fn seconds(expires: toml::Value) -> Result<u64, String> {
    let wrong = || "`expires` is a date, a time and its zone: 2027-01-31T18:00:00Z".to_owned();
    let text = match expires {
        toml::Value::Datetime(at) => at.to_string(),
        toml::Value::String(text) => text,
        _ => return Err(wrong()),
    };
    let at: Timestamp = text.parse().map_err(|_| wrong())?;
    // A time before 1970 has expired like 1970 itself.
    Ok(u64::try_from(at.as_second()).unwrap_or(0))
}

/// Formats seconds since 1970 as RFC 3339 does, in UTC; the last day of year 9999 stands for later times.
#[must_use]
pub fn rfc3339(seconds: u64) -> String {
    let last = Timestamp::MAX.as_second();
    let seconds = i64::try_from(seconds).map_or(last, |it| it.min(last));
    Timestamp::from_second(seconds)
        .unwrap_or(Timestamp::MAX)
        .to_string()
}
