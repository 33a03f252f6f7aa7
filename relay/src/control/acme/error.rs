//! Why there is no certificate, in one line for the log and for operators.

/// Longest text about a failure, in characters: a CA's words are not trusted to be short.
const TEXT_CHARS_MAX: usize = 500;

/// Beginning of the types of a CA's errors (RFC 8555, section 6.7).
const TYPE_PREFIX: &str = "urn:ietf:params:acme:error:";

/// Why an order failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum AcmeError {
    /// The CA refuses, or is not reached.
    #[error("{0}")]
    Ca(#[from] instant_acme::Error),
    /// The CA has checked the names and refuses some: each with the CA's words.
    #[error("{0}")]
    Refused(String),
    /// This machine or its hook fails, or the CA's answer is not fit for use.
    #[error("{0}")]
    Here(String),
}

impl AcmeError {
    /// The failure in one line, with a remedy where there is one.
    pub(super) fn line(&self) -> String {
        let text = line(&self.to_string());
        match self.is_of_type("externalAccountRequired") {
            true => text + "; set acme_eab_kid and acme_eab_key_file, which this CA gives out",
            false => text,
        }
    }

    /// Whether the CA has checked a name, and did not find what it looks for.
    pub(super) fn is_refusal(&self) -> bool {
        let types = [
            "caa",
            "dns",
            "incorrectResponse",
            "malformed",
            "unauthorized",
        ];
        matches!(self, Self::Refused(_)) || types.iter().any(|name| self.is_of_type(name))
    }

    /// Whether the CA does not know the account any more.
    pub(super) fn is_account_gone(&self) -> bool {
        self.is_of_type("accountDoesNotExist")
    }

    /// Whether an order fails only because it says which certificate it replaces: another order has replaced that
    /// already, or the CA does not know what it means.
    pub(super) fn is_about_replacing(&self) -> bool {
        let is_ignored = match self {
            // The ACME client's words for an answer that does not repeat what is replaced.
            Self::Ca(instant_acme::Error::Other(error)) => {
                error.to_string().starts_with("replaces")
            }
            _ => false,
        };
        is_ignored || self.is_unsupported() || self.is_of_type("alreadyReplaced")
    }

    /// Whether the order would have failed just as well without saying which certificate it replaces: the CA is busy,
    /// or has taken the order and checked its names.
    pub(super) fn is_about_other_than_replacing(&self) -> bool {
        matches!(self, Self::Refused(_)) || self.is_of_type("rateLimited")
    }

    /// Whether the CA has no such service.
    pub(super) const fn is_unsupported(&self) -> bool {
        matches!(self, Self::Ca(instant_acme::Error::Unsupported(_)))
    }

    fn is_of_type(&self, name: &str) -> bool {
        let Self::Ca(instant_acme::Error::Api(problem)) = self else {
            return false;
        };
        let kind = problem.r#type.as_deref();
        kind.and_then(|it| it.strip_prefix(TYPE_PREFIX)) == Some(name)
    }
}

/// A foreign text as one line of limited length.
pub(super) fn line(text: &str) -> String {
    let chars = text.trim().chars().take(TEXT_CHARS_MAX);
    chars
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use instant_acme::Problem;

    use super::*;

    #[test]
    fn the_words_of_a_ca_are_one_line_of_limited_length() {
        let problem = |kind: &str| {
            AcmeError::Ca(instant_acme::Error::Api(Problem {
                r#type: Some(format!("{TYPE_PREFIX}{kind}")),
                detail: Some("one\ntwo\u{1b}[31m".to_owned() + &"x".repeat(5000)),
                status: Some(403),
                subproblems: Vec::new(),
            }))
        };
        let text = problem("unauthorized").line();
        assert_eq!(text.chars().count(), TEXT_CHARS_MAX);
        assert!(text.contains("one two") && !text.contains(char::is_control));
        assert!(problem("accountDoesNotExist").is_account_gone());
        assert!(!problem("unauthorized").is_account_gone());
        assert!(problem("unauthorized").is_refusal() && !problem("rateLimited").is_refusal());
        assert!(AcmeError::Refused("x".to_owned()).is_refusal());
        assert!(!AcmeError::Here("x".to_owned()).is_refusal());
        assert!(problem("alreadyReplaced").is_about_replacing());
        for (kind, is_about_other) in [("rateLimited", true), ("malformed", false)] {
            let error = problem(kind);
            assert_eq!(error.is_about_other_than_replacing(), is_about_other);
            assert!(!error.is_about_replacing());
        }
        assert!(AcmeError::Refused("x".to_owned()).is_about_other_than_replacing());
        let text = problem("externalAccountRequired").line();
        assert!(text.contains("acme_eab_kid"), "{text}");
    }
}
