//! Runs the program that puts a TXT record into DNS and takes it out again.

use std::path::Path;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use std::{fmt, io};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, copy, sink};
use tokio::process::{Child, Command};
use tokio::time;
use tracing::{debug, info, warn};

use super::error::line;

/// Time for one run: DNS providers take up to some minutes until a record is everywhere.
pub(super) const TIMEOUT: Duration = Duration::from_secs(300);

/// Time for output behind the end of the program: what it has started and left behind may hold its pipes for ever.
const REST_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest beginning of one pipe's output that is kept for the log, in bytes.
const KEPT_BYTES_MAX: u64 = 4096;

/// Output of one pipe, in bytes, at which the program is killed: reading an endless one would cost half of a core until
/// [`TIMEOUT`].
const OUTPUT_BYTES_MAX: u64 = 1024 * 1024;

/// What the program is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// Puts the record into DNS; the program ends once it is there.
    Present,
    /// Takes the record out again.
    Cleanup,
}

impl Deed {
    const fn word(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Cleanup => "cleanup",
        }
    }
}

/// How a run of the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The program ended by itself.
    Exit(ExitStatus),
    /// The program was killed at the end of its time.
    Overdue,
    /// The program was killed because its output reached [`OUTPUT_BYTES_MAX`].
    Overflow,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(status) => write!(f, "{status}"),
            Self::Overdue => write!(f, "did not end within {TIMEOUT:?}"),
            Self::Overflow => write!(
                f,
                "was killed because its output reached the limit of {OUTPUT_BYTES_MAX} bytes"
            ),
        }
    }
}

/// The output of one pipe reached [`OUTPUT_BYTES_MAX`].
struct Overflow;

/// Runs `program` for the TXT record `name` with `value`, until it ends.
///
/// # Errors
/// The program cannot be run, fails, takes too long, or writes too much. The text has nothing of its output, which may hold secrets, such as
/// the token of a DNS provider; the log has the beginning of it.
pub(super) async fn run(program: &Path, deed: Deed, name: &str, value: &str) -> Result<(), String> {
    let limit = time::sleep(TIMEOUT);
    let what = format!("{} {} {name}", program.display(), deed.word());
    let ended = output(limit, program, deed, name, value).await;
    let (end, output) = ended.map_err(|error| format!("acme_dns_hook: {what}: {error}"))?;
    if matches!(end, End::Exit(status) if status.success()) {
        info!(record = name, "acme_dns_hook: {} done", deed.word());
        debug!(record = name, output, "output of acme_dns_hook");
        return Ok(());
    }
    warn!(
        record = name,
        output,
        "acme_dns_hook: {} failed",
        deed.word()
    );
    let hint = match output.is_empty() {
        true => "it has written nothing",
        false => "the log has its output",
    };
    Err(format!("acme_dns_hook: {what}: {end}; {hint}"))
}

/// Runs the program to take a record out; a failure is told and changes nothing else.
pub(super) async fn clean_up(program: &Path, name: &str, value: &str) {
    if let Err(error) = run(program, Deed::Cleanup, name, value).await {
        warn!("{error}; the record may still be in DNS");
    }
}

/// How the program ended, which is killed at the end of `limit`, and the beginning of its output in one line.
async fn output(
    limit: impl Future<Output = ()>,
    program: &Path,
    deed: Deed,
    name: &str,
    value: &str,
) -> io::Result<(End, String)> {
    let child = Command::new(program)
        .args([deed.word(), name, value])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let mut running = Running(child);
    let pipes = (running.0.stdout.take(), running.0.stderr.take());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let end = {
        let reading =
            async { tokio::try_join!(beginning(pipes.0, &mut out), beginning(pipes.1, &mut err)) };
        let mut reading = pin!(reading);
        let mut limit = pin!(limit);
        let mut is_read = false;
        let end = loop {
            tokio::select! {
                status = running.0.wait() => break End::Exit(status?),
                outcome = &mut reading, if !is_read => {
                    is_read = true;
                    if outcome.is_err() {
                        running.kill();
                        break End::Overflow;
                    }
                }
                () = &mut limit => {
                    running.kill();
                    break End::Overdue;
                }
            }
        };
        if !is_read {
            // The text so far is enough.
            let _ = time::timeout(REST_TIMEOUT, reading).await;
        }
        end
    };
    let text = [out, err].concat();
    Ok((end, line(&String::from_utf8_lossy(&text))))
}

/// A run of the program, which is killed if it is dropped before its end.
struct Running(Child);

impl Running {
    /// Kills the program with all that it has started, except what has left its process group.
    fn kill(&self) {
        // There is no id once the program has ended: others may have it by then.
        let id = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            // A group that is gone needs no end.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads the first [`KEPT_BYTES_MAX`] bytes of a pipe into `text`; the rest is read and dropped.
///
/// # Errors
/// [`Overflow`] as soon as [`OUTPUT_BYTES_MAX`] bytes were read.
async fn beginning(
    pipe: Option<impl AsyncRead + Unpin>,
    text: &mut Vec<u8>,
) -> Result<(), Overflow> {
    let Some(pipe) = pipe else {
        return Ok(());
    };
    let mut kept = pipe.take(KEPT_BYTES_MAX);
    // After a failed read the text so far is enough.
    let _ = kept.read_to_end(text).await;
    let mut rest = kept.into_inner().take(OUTPUT_BYTES_MAX - KEPT_BYTES_MAX);
    let _ = copy(&mut rest, &mut sink()).await;
    match rest.limit() {
        0 => Err(Overflow),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use rustix::process::kill_process;

    use super::*;

    fn program(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("hook");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn the_program_gets_the_record_and_its_output_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let seen = folder.path().join("seen");
        let hook = program(
            folder.path(),
            &format!(
                "echo \"$@\" > {}; head -c 1000000 /dev/zero",
                seen.display()
            ),
        );
        let record = ("_acme-challenge.relay.example", "value");
        run(&hook, Deed::Present, record.0, record.1).await.unwrap();
        let wanted = "present _acme-challenge.relay.example value\n";
        assert_eq!(fs::read_to_string(seen).unwrap(), wanted);
    }

    /// The process that the program has written the id of.
    async fn left_behind(file: &Path) -> Pid {
        loop {
            let text = fs::read_to_string(file).unwrap_or_default();
            if let Some(id) = text.strip_suffix('\n') {
                return Pid::from_raw(id.parse().unwrap()).unwrap();
            }
            time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn what_a_program_leaves_behind_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("id");
        let text = format!("sleep 600 &\necho $! > {}", file.display());
        let hook = program(folder.path(), &text);
        let running = run(&hook, Deed::Present, "name", "value");
        let outcome = time::timeout(TIMEOUT / 5, running).await;
        kill_process(left_behind(&file).await, Signal::KILL).unwrap();
        assert_eq!(outcome, Ok(Ok(())));
    }

    #[tokio::test]
    async fn a_run_that_is_cut_off_ends_with_all_that_it_has_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("id");
        let text = format!("sleep 600 &\necho $! > {}\nwait", file.display());
        let hook = program(folder.path(), &text);
        let id = tokio::select! {
            outcome = run(&hook, Deed::Present, "name", "value") => panic!("{outcome:?}"),
            id = left_behind(&file) => id,
        };
        let stat = format!("/proc/{}/stat", id.as_raw_nonzero());
        let gone = async {
            // A zombie has ended, too.
            while fs::read_to_string(&stat).is_ok_and(|it| !it.contains(") Z ")) {
                time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert_eq!(time::timeout(TIMEOUT / 5, gone).await, Ok(()));
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_killed_and_its_words_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("id");
        let text = format!(
            "echo words\necho more >&2\nsleep 600 &\necho $! > {}\nwait",
            file.display()
        );
        let hook = program(folder.path(), &text);
        let limit = async {
            left_behind(&file).await;
        };
        let running = output(limit, &hook, Deed::Present, "name", "value");
        let ended = time::timeout(TIMEOUT / 5, running).await;
        let (end, output) = ended.unwrap().unwrap();
        assert_eq!((end, &*output), (End::Overdue, "words more"));
    }

    #[tokio::test]
    async fn a_program_that_writes_without_end_is_killed_at_the_limit_of_its_output() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["exec yes", "exec yes >&2"] {
            let hook = program(folder.path(), text);
            let running = run(&hook, Deed::Present, "name", "value");
            let outcome = time::timeout(TIMEOUT / 5, running).await.unwrap();
            let error = outcome.unwrap_err();
            assert!(error.contains("the limit of 1048576 bytes"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_program_that_fails_is_told_without_its_words() {
        let folder = tempfile::tempdir().unwrap();
        for (text, words) in [
            ("echo key=secret >&2; exit 3", "exit status: 3; the log has"),
            ("exit 3", "exit status: 3; it has written nothing"),
        ] {
            let hook = program(folder.path(), text);
            let failed = run(&hook, Deed::Cleanup, "name", "value").await;
            let error = failed.unwrap_err();
            let is_named = error.contains("cleanup name") && error.contains(words);
            assert!(is_named && !error.contains("secret"), "{error}");
            assert_eq!(error.lines().count(), 1);
        }
        let absent = folder.path().join("absent");
        assert!(run(&absent, Deed::Present, "name", "value").await.is_err());
    }
}
