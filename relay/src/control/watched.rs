//! Files that are watched for changes while the relay runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::warn;

use crate::config::Stamp;
use crate::error::{ConfigError, FileProblem};

/// Time between two looks at watched files.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// State of the watched files, each `None` if it cannot be looked at.
type Stamps = Vec<Option<Stamp>>;

/// Reads the files: gets their last valid content, and returns the content that is in force now, and what is wrong with
/// files.
type Read<T> = dyn FnMut(&T) -> (T, Vec<FileProblem>) + Send + Sync;

/// Files that are read together, and their last valid content.
pub(super) struct Watched<T> {
    paths: Vec<PathBuf>,
    read: Box<Read<T>>,
    known: T,
    /// The files' state at the last look.
    seen: Stamps,
    /// The files' state when their content was last read.
    read_at: Stamps,
    /// The files' state when they could not be read, if they will be read once more.
    failed_at: Option<Stamps>,
    /// Problems that the last read found, each with the state of its file then: the log has them already.
    told: Vec<(String, Option<Stamp>)>,
    /// A problem that the log has since the start, until the first read.
    told_at_start: Option<String>,
    /// Whether the last look read the files, and will not repeat that.
    has_read: bool,
}

impl<T: Clone + PartialEq + 'static> Watched<T> {
    /// Watches one file.
    pub(super) fn new(path: &Path, known: T, read: fn(&Path) -> Result<T, ConfigError>) -> Self {
        let file = path.to_owned();
        let read = move |known: &T| match read(&file) {
            Ok(content) => (content, Vec::new()),
            Err(error) => (known.clone(), vec![FileProblem::of_changed(error)]),
        };
        Self::together(vec![path.to_owned()], known, read)
    }

    /// Watches several files, which `read` reads together; see [`Read`].
    pub(super) fn together(
        paths: Vec<PathBuf>,
        known: T,
        read: impl FnMut(&T) -> (T, Vec<FileProblem>) + Send + Sync + 'static,
    ) -> Self {
        let unknown = vec![None; paths.len()];
        Self {
            paths,
            read: Box::new(read),
            known,
            seen: unknown.clone(),
            // Unknown: read once more, since a file may have changed after the read at the start.
            read_at: unknown,
            failed_at: None,
            told: Vec::new(),
            told_at_start: None,
            has_read: false,
        }
    }

    /// Leaves `problem` out of what the first read tells: that read repeats the one of the start, and the log has it.
    pub(super) fn with_told(mut self, problem: Option<String>) -> Self {
        self.told_at_start = problem;
        self
    }

    /// The last valid content.
    pub(super) const fn known(&self) -> &T {
        &self.known
    }

    /// Whether the last look read the files to the end, be their content valid or not.
    pub(super) const fn has_read(&self) -> bool {
        self.has_read
    }

    /// Returns the content in force if it changed. Reads only once the files look the same at two looks in a row,
    /// because a file written in place is incomplete for a moment; with `now`, reads them in any case.
    pub(super) fn look(&mut self, now: bool) -> Option<T> {
        let stamps: Stamps = self.paths.iter().map(|path| Stamp::of(path)).collect();
        let is_still = self.seen == stamps;
        self.seen.clone_from(&stamps);
        self.has_read = false;
        if !now && (!is_still || self.read_at == stamps) {
            return None;
        }
        let (content, problems) = (self.read)(&self.known);
        let is_new_failure = !problems.is_empty() && self.failed_at.as_ref() != Some(&stamps);
        if is_new_failure && stamps.len() > 1 && !now {
            // One of several files may be exchanged after another: the next look reads them once more.
            self.failed_at = Some(stamps);
            return None;
        }
        self.read_at = stamps;
        self.has_read = true;
        self.tell(&problems);
        if content == self.known {
            return None;
        }
        self.known = content;
        Some(self.known.clone())
    }

    /// Makes the next read tell of all problems, also of those that the log has already.
    pub(super) fn tell_again(&mut self) {
        self.told.clear();
    }

    /// Tells of problems, but not a second time of one in a file that has not changed since.
    fn tell(&mut self, problems: &[FileProblem]) {
        let state = |problem: &FileProblem| {
            let path = problem.path()?;
            let place = self.paths.iter().position(|it| it == path)?;
            self.read_at.get(place).copied().flatten()
        };
        let found: Vec<_> = problems
            .iter()
            .map(|problem| (problem.to_string(), state(problem)))
            .collect();
        let at_start = self.told_at_start.take();
        for it in found.iter().filter(|it| !self.told.contains(*it)) {
            if at_start.as_ref() != Some(&it.0) {
                warn!("{}", it.0);
            }
        }
        self.told = found;
    }
}
