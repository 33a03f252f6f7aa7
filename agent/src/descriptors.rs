//! The limit of open files. A session takes one, a caller of `tieline connect` two.

/// What this process keeps open besides: its output, its runtime, its links, a name lookup, a token file.
const OWN: u64 = 24;

/// Raises the soft limit as far as it goes.
///
/// Programs that use select(2) fail with high descriptors, which is why the soft limit is low; nothing here does.
#[cfg(unix)]
pub(crate) fn raise() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    /// macOS takes no more, though its hard limit is without end (`OPEN_MAX`, setrlimit(2)).
    const MACOS_MAX: u64 = 10_240;

    let limit = getrlimit(Resource::Nofile);
    let raised = match limit.maximum {
        None if cfg!(target_os = "macos") => Some(MACOS_MAX),
        maximum => maximum,
    };
    let raised = Rlimit {
        current: raised,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Nothing: the system has no such limit.
#[cfg(not(unix))]
pub(crate) fn raise() {}

/// How many descriptors are left for sessions and callers; `None` if nothing limits them.
pub(crate) fn free() -> Option<u64> {
    limit().map(|limit| limit.saturating_sub(OWN))
}

#[cfg(unix)]
fn limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

#[cfg(not(unix))]
fn limit() -> Option<u64> {
    None
}
