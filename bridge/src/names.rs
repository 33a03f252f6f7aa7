//! What the two eras of the protocol make of a method, and the levels of log messages.

/// The latest legacy version, which the bridge asks a child for.
pub(crate) const LEGACY_VERSION: &str = "2025-11-25";

/// Levels of log messages, lowest first (logging.mdx, Log Levels).
const LOG_LEVELS: [&str; 8] = [
    "debug",
    "info",
    "notice",
    "warning",
    "error",
    "critical",
    "alert",
    "emergency",
];

/// Requests that the modern era has removed, beside those of tasks, which became an extension (changelog.mdx).
const REMOVED: [&str; 5] = [
    "initialize",
    "ping",
    "logging/setLevel",
    "resources/subscribe",
    "resources/unsubscribe",
];

/// True if a modern caller must not send this request to a legacy child.
pub(crate) fn is_removed(method: &str) -> bool {
    REMOVED.contains(&method) || method.starts_with("tasks/")
}

/// True if the result of this request may ask the caller for input (mrtr.mdx, Supported Requests).
pub(crate) fn takes_input(method: &str) -> bool {
    matches!(method, "tools/call" | "prompts/get" | "resources/read")
}

/// True if the result of this request must say how long it may be cached (changelog.mdx, minor change 5).
pub(crate) fn is_cacheable(method: &str) -> bool {
    matches!(
        method,
        "tools/list"
            | "prompts/list"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read"
            | "server/discover"
    )
}

/// Rank of a log level given as JSON text, 0 for the lowest; `None` if it is unknown.
pub(crate) fn log_rank(level: &str) -> Option<usize> {
    let level = level.strip_prefix('"')?.strip_suffix('"')?;
    LOG_LEVELS.iter().position(|known| *known == level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_an_order() {
        assert!(log_rank("\"debug\"") < log_rank("\"error\""));
        assert_eq!(log_rank("\"loud\""), None);
        assert_eq!(log_rank("debug"), None);
    }

    #[test]
    fn removed_requests_are_known() {
        assert!(is_removed("ping") && is_removed("tasks/list"));
        assert!(!is_removed("tools/call"));
    }
}
