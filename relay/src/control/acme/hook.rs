//! Runs the program that puts a TXT record into DNS and takes it out again.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, copy, sink};
use tokio::process::Command;
use tokio::time;
use tracing::{info, warn};

use super::error::line;

/// Time for one run: DNS providers take up to some minutes until a record is everywhere.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Longest output that is looked at, in bytes.
const OUTPUT_BYTES_MAX: u64 = 4096;

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

/// Runs `program` for the TXT record `name` with `value`, until it ends.
///
/// # Errors
/// The program cannot be run, fails, or takes too long; the text has the beginning of its output.
pub(super) async fn run(program: &Path, deed: Deed, name: &str, value: &str) -> Result<(), String> {
    let running = output(program, deed, name, value);
    let ended = time::timeout(TIMEOUT, running).await;
    let what = format!("{} {} {name}", program.display(), deed.word());
    match ended {
        Ok(Ok((status, output))) if status.success() => {
            info!(record = name, output, "acme_dns_hook: {} done", deed.word());
            Ok(())
        }
        Ok(Ok((status, output))) => Err(format!("acme_dns_hook: {what}: {status}: {output}")),
        Ok(Err(error)) => Err(format!("acme_dns_hook: {what}: {error}")),
        Err(_) => Err(format!(
            "acme_dns_hook: {what}: did not end within {TIMEOUT:?}"
        )),
    }
}

/// Runs the program to take a record out; a failure is told and changes nothing else.
pub(super) async fn clean_up(program: &Path, name: &str, value: &str) {
    if let Err(error) = run(program, Deed::Cleanup, name, value).await {
        warn!("{error}; the record may still be in DNS");
    }
}

/// Exit status of the program, and the beginning of its output in one line.
async fn output(
    program: &Path,
    deed: Deed,
    name: &str,
    value: &str,
) -> io::Result<(ExitStatus, String)> {
    let mut child = Command::new(program)
        .args([deed.word(), name, value])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (status, out, err) = tokio::join!(child.wait(), beginning(out), beginning(err));
    let text = [out, err].concat();
    Ok((status?, line(&String::from_utf8_lossy(&text))))
}

/// The beginning of what comes out of a pipe, whose rest is read and dropped.
async fn beginning(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut text = Vec::new();
    if let Some(pipe) = pipe {
        let mut pipe = pipe.take(OUTPUT_BYTES_MAX);
        // After a failed read the text so far is enough.
        let _ = pipe.read_to_end(&mut text).await;
        let _ = copy(&mut pipe.into_inner(), &mut sink()).await;
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

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

    #[tokio::test]
    async fn a_program_that_fails_is_told_with_its_words() {
        let folder = tempfile::tempdir().unwrap();
        let hook = program(folder.path(), "echo no zone >&2; exit 3");
        let error = run(&hook, Deed::Cleanup, "name", "value")
            .await
            .unwrap_err();
        assert!(
            error.contains("no zone") && error.contains("cleanup name"),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1);
        let absent = folder.path().join("absent");
        assert!(run(&absent, Deed::Present, "name", "value").await.is_err());
    }
}
