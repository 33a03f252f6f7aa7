//! Result of a check: a line for people, an object for programs.

use std::fmt;

use serde::Serialize;

use crate::paint::{BAD, GOOD, WARN, paint};
use tieline_agent::plain::Plain;

/// Outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Ok,
    /// The step works, but something about it needs attention.
    Warning,
    Failed,
    /// There was nothing to check.
    NotApplicable,
}

/// One check and its result.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    check: &'static str,
    pub(super) outcome: Outcome,
    /// What was found.
    pub(super) detail: String,
    /// What to do about the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Check {
    fn new(check: &'static str, outcome: Outcome, detail: impl fmt::Display) -> Self {
        Self {
            check,
            outcome,
            detail: detail.to_string(),
            advice: None,
        }
    }

    pub(super) fn ok(check: &'static str, detail: impl fmt::Display) -> Self {
        Self::new(check, Outcome::Ok, detail)
    }

    pub(super) fn not_applicable(check: &'static str, detail: impl fmt::Display) -> Self {
        Self::new(check, Outcome::NotApplicable, detail)
    }

    pub(super) fn warning(
        check: &'static str,
        detail: impl fmt::Display,
        advice: impl fmt::Display,
    ) -> Self {
        Self {
            advice: Some(advice.to_string()),
            ..Self::new(check, Outcome::Warning, detail)
        }
    }

    pub(super) fn failed(
        check: &'static str,
        detail: impl fmt::Display,
        advice: impl fmt::Display,
    ) -> Self {
        Self {
            advice: Some(advice.to_string()),
            ..Self::new(check, Outcome::Failed, detail)
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (style, word) = match self.outcome {
            Outcome::Ok => (GOOD, "ok"),
            Outcome::Warning => (WARN, "warning"),
            Outcome::Failed => (BAD, "failed"),
            Outcome::NotApplicable => (WARN, "not applicable"),
        };
        let outcome = paint(style, format_args!("{word}: "));
        write!(f, "{:<11}{outcome}{}", self.check, Plain(&self.detail))?;
        match &self.advice {
            Some(advice) => write!(f, "; {}", Plain(advice)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_one_line_that_commands_no_terminal() {
        let check = Check::failed("tcp", "refused\u{1b}[2J\n", "start it");
        let line = check.to_string();
        assert!(
            line.starts_with("tcp  ") && line.ends_with("refused\\u{1b}[2J\\n; start it"),
            "{line}"
        );
        assert_eq!(line.lines().count(), 1);
        let longest = Check::failed("clear_text", "no TLS", "use it").to_string();
        assert!(longest.starts_with("clear_text "), "{longest}");
    }

    #[test]
    fn programs_get_words_that_stay() {
        let check = |check: Check| serde_json::to_value(check).unwrap();
        let failed = check(Check::failed("dns", "no such host", "ask"));
        assert_eq!(failed["outcome"], "failed");
        assert_eq!(failed["advice"], "ask");
        let other = check(Check::not_applicable("dns", "a number"));
        assert_eq!(other["outcome"], "not_applicable");
        assert!(other.get("advice").is_none());
    }
}
