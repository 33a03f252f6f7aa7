//! Reads the claims of a token without checking its signature.

use serde::Serialize;
use serde_json::{Map, Value};
use tieline_token::{LEEWAY_SECONDS, Unverified, date_claim_seconds};

use super::time::{Date, Span};

/// A token's content, in the form of the JSON output.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Shown {
    /// A JSON Web Token.
    Jwt {
        /// Always false: this command has no key to check the signature with.
        verified: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        algorithm: Option<String>,
        state: TokenState,
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at: Option<Date>,
        /// Seconds until the token expires; negative once it has expired.
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_in_s: Option<i64>,
        claims: Map<String, Value>,
    },
    /// Any other text: only its issuer knows the meaning.
    Opaque { characters: usize },
}

/// Whether a token is valid at a given time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TokenState {
    Valid,
    Expired,
    NotYetValid,
    /// The token has no usable expiry time.
    Unknown,
}

impl Shown {
    /// Reads `token` at the time `now`, in seconds since 1970.
    pub(super) fn of(token: &str, now: u64) -> Self {
        let Some(Unverified { header, claims }) = Unverified::read(token) else {
            return Self::Opaque {
                characters: token.chars().count(),
            };
        };
        let expires = claims.get("exp").and_then(date_claim_seconds);
        let starts = claims.get("nbf").and_then(date_claim_seconds);
        let state = match expires {
            Some(expires) if expires <= now => TokenState::Expired,
            _ if starts.is_some_and(|starts| starts > now) => TokenState::NotYetValid,
            Some(_) => TokenState::Valid,
            None => TokenState::Unknown,
        };
        let algorithm = header.get("alg").and_then(Value::as_str);
        let whole = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
        Self::Jwt {
            verified: false,
            algorithm: algorithm.map(str::to_owned),
            state,
            expires_at: expires.map(Date),
            expires_in_s: expires.map(|expires| whole(expires).saturating_sub(whole(now))),
            claims,
        }
    }

    /// The value of a time claim, in seconds since 1970.
    pub(super) fn time(&self, claim: &str) -> Option<u64> {
        match self {
            Self::Jwt { claims, .. } => claims.get(claim).and_then(date_claim_seconds),
            Self::Opaque { .. } => None,
        }
    }

    pub(super) const fn state(&self) -> TokenState {
        match self {
            Self::Jwt { state, .. } => *state,
            Self::Opaque { .. } => TokenState::Unknown,
        }
    }

    /// True if the token expires in less than `limit` seconds or has expired.
    pub(super) fn ends_within(&self, limit: u64) -> bool {
        let Self::Jwt { expires_in_s, .. } = self else {
            return false;
        };
        expires_in_s.is_some_and(|left| u64::try_from(left).unwrap_or(0) < limit)
    }

    /// Expiry in words; `None` for an opaque token.
    pub(super) fn expiry(&self) -> Option<String> {
        let Self::Jwt {
            expires_at,
            expires_in_s,
            ..
        } = self
        else {
            return None;
        };
        let (Some(date), Some(left)) = (expires_at, expires_in_s) else {
            return Some("never, according to its claims".to_owned());
        };
        let span = Span(left.unsigned_abs());
        let text = match *left {
            1.. => return Some(format!("in {span} ({date})")),
            0 => format!("now ({date})"),
            _ => format!("{span} ago ({date})"),
        };
        // Relays still accept a token that has just expired, to allow for clocks that differ.
        let until = Date(date.0.saturating_add(LEEWAY_SECONDS));
        let is_accepted = left.unsigned_abs() < LEEWAY_SECONDS;
        Some(match is_accepted {
            true => format!("{text}, accepted until {until}"),
            false => text,
        })
    }

    /// All lines but the expiry, as pairs of name and text.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let (algorithm, claims) = match self {
            Self::Opaque { characters } => {
                let kind =
                    format!("opaque, {characters} characters: only the relay knows what it allows");
                return vec![("kind", kind)];
            }
            Self::Jwt {
                algorithm, claims, ..
            } => (algorithm.as_deref().unwrap_or("nothing"), claims),
        };
        let kind = format!("JWT, signed with {algorithm}; the signature was NOT checked");
        let mut lines = vec![("kind", kind)];
        for (name, claim) in [
            ("subject", "sub"),
            ("issuer", "iss"),
            ("audience", "aud"),
            ("id", "jti"),
        ] {
            if let Some(value) = claims.get(claim) {
                lines.push((name, words(value)));
            }
        }
        let or = |claim: &str, absent: &str| match claims.get(claim) {
            Some(value) => words(value),
            None => absent.to_owned(),
        };
        lines.push(("scope", or("scope", "agent, caller (the default)")));
        lines.push(("tunnels", or("tunnels", "any")));
        lines.push(("dcc", or("allowed_dcc", "any")));
        lines.push(("groups", or("groups", "none")));
        lines.push((
            "reach",
            or("reach", "tunnels of its subject and groups only"),
        ));
        let is_shared = claims.get("shared").and_then(Value::as_bool) == Some(true);
        let shared = match is_shared {
            true => "its agents may serve one name together",
            false => "no: one agent for each name",
        };
        lines.push(("shared", shared.to_owned()));
        for (name, claim) in [("issued", "iat"), ("from", "nbf")] {
            if let Some(seconds) = claims.get(claim).and_then(date_claim_seconds) {
                lines.push((name, Date(seconds).to_string()));
            }
        }
        lines
    }
}

/// A claim in words: the items of a list or text, separated by commas.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.split_whitespace().collect::<Vec<_>>().join(", "),
        Value::Array(list) if list.is_empty() => "none".to_owned(),
        Value::Array(list) => list.iter().map(words).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn shown(claims: &str) -> Shown {
        let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        let token = format!(
            "{}.{}.c2lnbmF0dXJl",
            part(r#"{"alg":"HS256"}"#),
            part(claims)
        );
        Shown::of(&token, NOW)
    }

    fn line(shown: &Shown, name: &str) -> String {
        let lines = shown.lines();
        let found = lines.into_iter().find(|(found, _)| *found == name);
        found.map(|(_, text)| text).unwrap_or_default()
    }

    #[test]
    fn claims_are_read_and_said_to_be_unchecked() {
        let shown = shown(
            r#"{"sub":"ada","exp":1800011520,"scope":"agent caller","tunnels":["maya-*"],"allowed_dcc":[]}"#,
        );
        assert!(line(&shown, "kind").contains("HS256; the signature was NOT checked"));
        assert_eq!(line(&shown, "subject"), "ada");
        assert_eq!(line(&shown, "scope"), "agent, caller");
        assert_eq!(line(&shown, "tunnels"), "maya-*");
        assert_eq!(line(&shown, "dcc"), "none");
        let expiry = shown.expiry().unwrap();
        assert_eq!(expiry, "in 3 h 12 min (2027-01-15 11:12:00 UTC)");
        assert_eq!(shown.state(), TokenState::Valid);
    }

    #[test]
    fn what_is_absent_is_told_as_the_relay_takes_it() {
        let shown = shown(r#"{"sub":"ada"}"#);
        assert_eq!(line(&shown, "tunnels"), "any");
        assert!(line(&shown, "scope").starts_with("agent, caller"));
        assert_eq!(shown.state(), TokenState::Unknown);
        assert!(!shown.ends_within(60));
    }

    #[test]
    fn every_claim_that_decides_something_is_shown() {
        let shown = shown(
            r#"{"sub":"ada","iss":"studio","aud":["relay"],"jti":"7","scope":"agent","tunnels":["a-*"],
            "allowed_dcc":["maya"],"groups":["fx","td"],"reach":["farm-*"],"shared":true,"nbf":1}"#,
        );
        let lines = shown.lines();
        for text in [
            "ada", "studio", "relay", "agent", "a-*", "maya", "fx, td", "farm-*",
        ] {
            assert!(
                lines.iter().any(|(_, line)| line == text),
                "{text}: {lines:?}"
            );
        }
        assert!(line(&shown, "shared").contains("together"));
        let bare = self::shown(r#"{"sub":"ada","shared":false}"#);
        assert_eq!(line(&bare, "groups"), "none");
        assert!(line(&bare, "reach").contains("only"));
        assert!(line(&bare, "shared").starts_with("no"));
    }

    #[test]
    fn an_end_within_the_leeway_says_until_when_relays_accept_it() {
        let ended = |seconds: u64| {
            shown(&format!(r#"{{"exp":{}}}"#, NOW - seconds))
                .expiry()
                .unwrap()
        };
        let text = ended(17);
        assert!(text.starts_with("17 s ago ("), "{text}");
        assert!(
            text.ends_with("accepted until 2027-01-15 08:00:43 UTC"),
            "{text}"
        );
        assert!(ended(0).starts_with("now ("), "{}", ended(0));
        assert!(ended(59).contains("accepted until"));
        assert!(!ended(60).contains("accepted until"));
    }

    #[test]
    fn times_decide_the_state() {
        for (claims, state) in [
            (r#"{"exp":1800000000}"#, TokenState::Expired),
            (r#"{"exp":1799999999.9}"#, TokenState::Expired),
            (r#"{"exp":-5}"#, TokenState::Expired),
            (r#"{"exp":18446744073709551615}"#, TokenState::Valid),
            (r#"{"exp":1e300}"#, TokenState::Valid),
            (
                r#"{"exp":1900000000,"nbf":1850000000}"#,
                TokenState::NotYetValid,
            ),
            (r#"{"exp":"soon"}"#, TokenState::Unknown),
        ] {
            let shown = shown(claims);
            assert_eq!(shown.state(), state, "{claims}");
            // Any number can be put into words.
            let _ = shown.expiry();
        }
        assert!(shown(r#"{"exp":1800000059}"#).ends_within(60));
        assert_eq!(
            shown(r#"{"exp":1799996400}"#).expiry().unwrap(),
            "1 h ago (2027-01-15 07:00:00 UTC)"
        );
    }

    #[test]
    fn other_texts_are_opaque() {
        for token in [
            "secret",
            "a.b.c",
            "a.b",
            "e30.e30",
            "e30.W10.x",
            "e30.e30.x.y",
            "",
        ] {
            assert!(
                matches!(Shown::of(token, NOW), Shown::Opaque { .. }),
                "{token}"
            );
        }
    }

    #[test]
    fn no_form_holds_the_token() {
        let shown = shown(r#"{"sub":"ada","exp":1900000000}"#);
        let all = format!(
            "{:?} {}",
            shown.lines(),
            serde_json::to_string(&shown).unwrap()
        );
        assert!(!all.contains("c2lnbmF0dXJl"), "{all}");
        let shown = Shown::of("opaque-secret", NOW);
        let all = format!(
            "{:?} {}",
            shown.lines(),
            serde_json::to_string(&shown).unwrap()
        );
        assert!(!all.contains("opaque-secret"), "{all}");
    }
}
