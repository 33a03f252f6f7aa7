//! The limit on open files. A session needs one descriptor, a caller of `tieline connect` two.

/// Raises the soft limit to the hard limit.
///
/// The soft limit is low for programs that use select(2), which fails with high descriptors; this program does not.
#[cfg(unix)]
pub(crate) fn raise() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    /// Largest limit that macOS accepts, though its hard limit is infinite (`OPEN_MAX`, setrlimit(2)).
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
        tracing::debug!(%error, "cannot raise the limit on open files");
    }
}

/// Does nothing: this system has no limit on open files.
#[cfg(not(unix))]
pub(crate) fn raise() {}

/// Number of descriptors left for sessions and callers; `None` without a limit.
#[cfg(unix)]
pub(crate) fn free() -> Option<u64> {
    /// Descriptors for the process itself: its output, its runtime, its links, a name lookup, a token file.
    const OWN: u64 = 24;

    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map(|limit| limit.saturating_sub(OWN))
}

#[cfg(not(unix))]
pub(crate) fn free() -> Option<u64> {
    None
}
