//! The token that the proxy sends for its callers; its file is read again after a change.

use std::cell::RefCell;
use std::fs::{self, Permissions};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use tieline_agent::TokenError;
use tokio::time::Instant;

use super::event::ConnectEvent;
use crate::outbound::{authorization, authorization_again};

/// Shortest time between two checks of the token file, and between two rereads after a refusal.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The value of `Authorization`, and the token file that it comes from.
#[derive(Debug)]
pub(crate) struct Credential {
    path: PathBuf,
    held: RefCell<CachedToken>,
}

#[derive(Debug)]
struct CachedToken {
    value: HeaderValue,
    /// Stamp of the file when it was read; `None` makes the next check read the file.
    stamp: Option<Stamp>,
    looked_at: Instant,
    refused_at: Option<Instant>,
    has_complained: bool,
}

/// Modification time, length and permissions of the token file.
type Stamp = (SystemTime, u64, Permissions);

impl Credential {
    pub(crate) fn read(path: &Path) -> Result<Self, TokenError> {
        // The stamp is read before the content, so that the next check sees a change in between.
        let stamp = stamp(path);
        let value = authorization(path)?;
        let held = CachedToken {
            value,
            stamp,
            looked_at: Instant::now(),
            refused_at: None,
            has_complained: false,
        };
        Ok(Self {
            path: path.to_owned(),
            held: RefCell::new(held),
        })
    }

    /// Returns the value to send now, and an event to report about the token file.
    pub(crate) fn current(&self) -> (HeaderValue, Option<ConnectEvent>) {
        let held = &mut *self.held.borrow_mut();
        let now = Instant::now();
        let mut event = None;
        if now.duration_since(held.looked_at) >= LOOK_INTERVAL {
            held.looked_at = now;
            event = held.look(&self.path);
        }
        (held.value.clone(), event)
    }

    /// Reads the file again after the relay refused the value: a change may have kept the stamp.
    pub(super) fn refused(&self) -> Option<ConnectEvent> {
        let held = &mut *self.held.borrow_mut();
        let now = Instant::now();
        let is_due = |at: Instant| now.duration_since(at) >= LOOK_INTERVAL;
        if !held.refused_at.is_none_or(is_due) {
            return None;
        }
        held.refused_at = Some(now);
        held.looked_at = now;
        held.stamp = None;
        held.look(&self.path)
    }
}

impl CachedToken {
    fn look(&mut self, path: &Path) -> Option<ConnectEvent> {
        let stamp = stamp(path);
        if stamp.is_some() && stamp == self.stamp {
            return None;
        }
        match authorization_again(path) {
            Ok(value) => {
                let is_new = value != self.value;
                (self.value, self.stamp, self.has_complained) = (value, stamp, false);
                is_new.then_some(ConnectEvent::TokenReloaded)
            }
            Err(error) => {
                self.stamp = None;
                let is_news = !std::mem::replace(&mut self.has_complained, true);
                is_news.then(|| ConnectEvent::TokenKept {
                    message: error.to_string(),
                })
            }
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((
        metadata.modified().ok()?,
        metadata.len(),
        metadata.permissions(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, content: &str) {
        fs::write(path, content).unwrap();
        mode(path, 0o600);
    }

    fn mode(path: &Path, mode: u32) {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        #[cfg(not(unix))]
        let _ = (path, mode);
    }

    async fn later() {
        tokio::time::advance(LOOK_INTERVAL).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_rotated_token_is_used_within_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        write(&path, "first");
        let credential = Credential::read(&path).unwrap();
        write(&path, "second-longer");
        assert_eq!(credential.current().0, "Bearer first");
        later().await;
        let (value, event) = credential.current();
        assert_eq!(
            (value.to_str().unwrap(), event),
            ("Bearer second-longer", Some(ConnectEvent::TokenReloaded))
        );
        later().await;
        assert_eq!(credential.current().1, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_reads_a_file_that_looks_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        write(&path, "first1");
        let credential = Credential::read(&path).unwrap();
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        write(&path, "second");
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(before).unwrap();
        later().await;
        assert_eq!(credential.current().0, "Bearer first1");
        assert_eq!(credential.refused(), Some(ConnectEvent::TokenReloaded));
        assert_eq!(credential.current().0, "Bearer second");
        assert_eq!(credential.refused(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_goes_bad_keeps_the_last_token_and_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        write(&path, "first");
        let credential = Credential::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        later().await;
        let (value, event) = credential.current();
        assert_eq!(value, "Bearer first");
        assert!(
            matches!(event, Some(ConnectEvent::TokenKept { .. })),
            "{event:?}"
        );
        later().await;
        assert_eq!(credential.current().1, None);
        write(&path, "first");
        later().await;
        assert_eq!(credential.current().1, None, "it is the same token");
        if cfg!(unix) {
            mode(&path, 0o644);
            later().await;
            let (value, event) = credential.current();
            assert_eq!(value, "Bearer first");
            assert!(
                matches!(event, Some(ConnectEvent::TokenKept { .. })),
                "{event:?}"
            );
            write(&path, "other-one");
            later().await;
            assert_eq!(credential.current().0, "Bearer other-one");
        }
        assert!(!format!("{credential:?}").contains("other-one"));
    }
}
