//! The journal of names and of operators' decisions: lines are appended, and the file is rewritten when most of them
//! are out of date.
//!
//! The last line may be incomplete, if the relay was killed or the disk was full. Reading skips it, and writing never
//! continues it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tieline_wire::TunnelId;
use tracing::warn;

use super::binding::{Binding, Note};
use super::decision::{Decision, Decisions};
use super::folder::{open_own, replace};
use super::now_seconds;

/// Longest line that is read, in bytes; in a long line, the groups of a token are the largest part.
const LINE_BYTES_MAX: u64 = 256 * 1024;

/// Growth beyond twice its size after the last rewrite, in bytes, at which the file is rewritten.
const GROWTH_BYTES: u64 = 4 * 1024 * 1024;

/// The journal file, open for appending.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    names_max: usize,
    /// `None` after an error, until the next attempt.
    file: Option<File>,
    bytes: u64,
    /// File size at which the file is rewritten.
    rewrite_at: u64,
    /// Whether the last write may have left an incomplete line.
    is_torn: bool,
}

impl Journal {
    /// Opens and rewrites the file; returns its content, at most `names_max` names.
    ///
    /// # Errors
    /// The file exists and cannot be read, or it cannot be opened for writing.
    pub(super) fn open(path: &Path, names_max: usize) -> io::Result<(Self, Content)> {
        let (mut journal, content) = Self::open_as_it_is(path, names_max)?;
        if let Err(error) = journal.rewrite(&content) {
            // A full disk must not stop the relay: the old file has the same content.
            warn!(path = %path.display(), %error, "cannot rewrite the journal; lines are appended to the old file");
        }
        Ok((journal, content))
    }

    /// Opens the file without a rewrite, while the relay that is taken over may go on writing it; the first lines that
    /// are added cause the rewrite.
    ///
    /// # Errors
    /// The file exists and cannot be read, or it cannot be opened for writing.
    pub(super) fn open_as_it_is(path: &Path, names_max: usize) -> io::Result<(Self, Content)> {
        let content = read(path, names_max)?;
        let mut journal = Self {
            path: path.to_owned(),
            names_max,
            file: None,
            bytes: 0,
            rewrite_at: 0,
            is_torn: true,
        };
        journal.file()?;
        Ok((journal, content))
    }

    /// Appends whole lines and syncs them to the disk.
    ///
    /// # Errors
    /// The disk does not take the lines; they may be added again.
    pub(super) fn add(&mut self, lines: &[u8]) -> io::Result<()> {
        let outcome = self.try_add(lines);
        if outcome.is_err() {
            (self.file, self.is_torn) = (None, true);
        }
        outcome
    }

    fn try_add(&mut self, lines: &[u8]) -> io::Result<()> {
        let is_torn = self.is_torn;
        let file = self.file()?;
        if is_torn {
            // An empty line has no meaning, and ends an incomplete one.
            file.write_all(b"\n")?;
        }
        file.write_all(lines)?;
        file.sync_data()?;
        self.is_torn = false;
        self.bytes += lines.len() as u64;
        if self.bytes > self.rewrite_at {
            // After a failed rewrite, the next attempt waits until the file has grown.
            self.rewrite_at = self.bytes + GROWTH_BYTES;
            let now = read(&self.path, self.names_max);
            if let Err(error) = now.and_then(|now| self.rewrite(&now)) {
                warn!(path = %self.path.display(), %error, "cannot rewrite the journal; outdated lines stay in it");
            }
        }
        Ok(())
    }

    fn rewrite(&mut self, content: &Content) -> io::Result<()> {
        let mut bytes = 0;
        replace(&self.path, |file| {
            let mut out = BufWriter::new(file);
            let mut line = Vec::new();
            for binding in content.bindings.values() {
                line.clear();
                Note::bound(binding.clone()).write(&mut line);
                bytes += line.len() as u64;
                out.write_all(&line)?;
            }
            line.clear();
            for decision in content.decisions.iter() {
                decision.write(&mut line);
            }
            bytes += line.len() as u64;
            out.write_all(&line)?;
            out.flush()
        })?;
        (self.file, self.is_torn) = (None, false);
        (self.bytes, self.rewrite_at) = (bytes, 2 * bytes + GROWTH_BYTES);
        self.file()?;
        Ok(())
    }

    fn file(&mut self) -> io::Result<&mut File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let file = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(0o600)
                    .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
                    .open(&self.path)?;
                self.bytes = file.metadata()?.len();
                file
            }
        };
        Ok(self.file.insert(file))
    }
}

/// The state that the lines of the file result in.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) bindings: HashMap<TunnelId, Binding>,
    pub(super) decisions: Decisions,
}

fn read(path: &Path, names_max: usize) -> io::Result<Content> {
    let mut content = Content::default();
    let file = match open_own(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(content),
        Err(error) => return Err(error),
    };
    let (bindings, decisions) = (&mut content.bindings, &mut content.decisions);
    let mut reader = BufReader::new(file);
    let (mut line, mut unread, mut too_many) = (Vec::new(), 0_usize, 0_usize);
    loop {
        line.clear();
        let mut limited = Read::by_ref(&mut reader).take(LINE_BYTES_MAX);
        if limited.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        match Note::read(&line) {
            Some(Note::Bound(binding)) => {
                if bindings.len() < names_max || bindings.contains_key(&binding.tunnel) {
                    bindings.insert(binding.tunnel.clone(), *binding);
                } else {
                    too_many += 1;
                }
            }
            Some(Note::Forgotten(tunnel)) => drop(bindings.remove(&tunnel)),
            None if line == b"\n" => {}
            None => match Decision::read(&line) {
                Some(decision) => decisions.add(decision),
                None => unread += 1,
            },
        }
    }
    decisions.forget(now_seconds());
    if unread > 0 || too_many > 0 {
        let file = path.display();
        warn!(%file, unread, too_many, "lines of the journal were skipped");
    }
    Ok(content)
}
