use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use bytes::Bytes;

use super::input::InputError;
use super::*;
use crate::stdio::Command;

/// Longest wait for an event that does come; a test that waits longer has failed.
const SOON: Duration = Duration::from_secs(30);

/// Waits of an end in which each step may take as long as a slow machine needs.
const PATIENT: Patience = Patience {
    closed: SOON,
    terminated: SOON,
    killed: SOON,
};

/// A command that runs a script.
pub(super) fn shell(script: &str) -> Command {
    let words = shlex::try_join(["/bin/sh", "-c", script]).unwrap();
    Command::parse(&words).unwrap()
}

pub(super) async fn soon<T>(event: impl Future<Output = T>) -> T {
    timeout(SOON, event).await.unwrap()
}

/// What the child writes up to the end of a line.
pub(super) async fn line(output: &mut Output) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\n") {
        let piece = soon(output.read()).await.unwrap();
        text.extend_from_slice(&piece.unwrap());
    }
    String::from_utf8(text).unwrap()
}

/// What the child writes until no process has the pipe any more.
async fn rest(output: &mut Output) -> Vec<u8> {
    let mut text = Vec::new();
    while let Some(piece) = soon(output.read()).await.unwrap() {
        text.extend_from_slice(&piece);
    }
    text
}

async fn started(script: &str) -> Process {
    Process::start(&shell(script), None).await.unwrap()
}

fn file(folder: &Path, text: &str, mode: u32) -> Command {
    let path = folder.join("program");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    Command::parse(path.to_str().unwrap()).unwrap()
}

async fn refused(command: &Command) -> StartError {
    Process::start(command, None).await.unwrap_err()
}

#[tokio::test]
async fn a_child_that_cannot_be_started_is_reported_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let name = Command::parse("no-such-program-1b7f --flag").unwrap();
    let error = refused(&name).await;
    assert!(matches!(error, StartError::NotFound { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("no-such-program-1b7f") && text.contains("PATH"));
    let path = Command::parse("/nonexistent/program").unwrap();
    let text = refused(&path).await.to_string();
    assert!(text.contains("no such file"), "{text}");
    let plain = file(folder.path(), "text\n", 0o600);
    let error = refused(&plain).await;
    assert!(
        matches!(error, StartError::NotExecutable { .. }),
        "{error:?}"
    );
    let script = file(folder.path(), "#!/nonexistent/interpreter\n", 0o700);
    let error = refused(&script).await;
    assert!(matches!(error, StartError::Interpreter { .. }), "{error:?}");
    let elsewhere = shell("true").with_directory(folder.path().join("absent"));
    let error = refused(&elsewhere).await;
    assert!(matches!(error, StartError::Directory(_)), "{error:?}");
}

#[tokio::test]
async fn a_child_that_exits_leaves_its_status_and_last_words() {
    let mut process = started("echo answer; echo broken >&2; exit 3").await;
    let status = soon(process.life.ended()).await.unwrap();
    assert_eq!(words(status), "ended with exit code 3");
    assert_eq!(process.log.last_line().as_deref(), Some("broken"));
    assert_eq!(process.life.id(), None);
    // The output can still be read, and the end asked for again.
    assert_eq!(rest(&mut process.output).await, b"answer\n");
    assert_eq!(process.life.end().await.unwrap(), status);
}

#[tokio::test]
async fn a_child_that_a_signal_ends_is_reported_with_its_name() {
    let mut process = started("kill -HUP $$").await;
    let status = soon(process.life.ended()).await.unwrap();
    assert_eq!(words(status), "was ended by signal 1 (SIGHUP)");
}

#[tokio::test]
async fn a_wait_for_the_end_can_be_given_up() {
    let mut process = started("read line; exit 4").await;
    let waited = timeout(Duration::ZERO, process.life.ended()).await;
    assert!(waited.is_err() && process.life.id().is_some());
    drop(process.input);
    let status = soon(process.life.ended()).await.unwrap();
    assert_eq!(status.code(), Some(4));
}

#[tokio::test]
async fn a_child_that_floods_its_standard_error_goes_on() {
    let script = "yes 'a line of noise' | head -c 20000000 >&2; echo last >&2; echo done";
    let mut process = started(script).await;
    assert_eq!(line(&mut process.output).await, "done\n");
    soon(process.life.ended()).await.unwrap();
    assert_eq!(process.log.last_line().as_deref(), Some("last"));
    let kept = process.log.lines().concat();
    let expected = 10_000..100_000;
    assert!(expected.contains(&kept.len()), "{}", kept.len());
}

#[tokio::test]
async fn a_child_that_closes_its_output_lives_on() {
    let mut process = started("exec >&-; read line; exit 7").await;
    assert_eq!(rest(&mut process.output).await, b"");
    assert!(process.life.id().is_some());
    drop(process.input);
    let status = soon(process.life.end_within(PATIENT)).await.unwrap();
    assert_eq!(status.code(), Some(7));
}

#[tokio::test]
async fn a_child_that_reads_no_more_fails_the_writer() {
    let mut process = started("exec <&-; echo closed; sleep 600").await;
    assert_eq!(line(&mut process.output).await, "closed\n");
    // Another test's child has the pipe for a moment, if it was started at the same time.
    let writing = async {
        loop {
            let line = vec![Bytes::from_static(b"{}")];
            if let Err(error) = process.input.write(line).await {
                break error;
            }
        }
    };
    let error = soon(writing).await;
    assert!(matches!(error, InputError::Ended), "{error:?}");
}

#[tokio::test]
async fn a_child_whose_input_is_closed_may_end_by_itself() {
    let process = Process::start(&Command::parse("/bin/cat").unwrap(), None).await;
    let mut process = process.unwrap();
    drop(process.input);
    let status = soon(process.life.end_within(PATIENT)).await.unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn a_child_that_ignores_the_end_of_its_input_is_asked_to_terminate() {
    let mut process = started("trap 'exit 5' TERM; echo ready; while :; do sleep 600; done").await;
    assert_eq!(line(&mut process.output).await, "ready\n");
    drop(process.input);
    let patience = Patience {
        closed: Duration::ZERO,
        ..PATIENT
    };
    let status = soon(process.life.end_within(patience)).await.unwrap();
    assert_eq!(status.code(), Some(5));
}

#[tokio::test]
async fn a_child_that_ignores_sigterm_is_killed() {
    let mut process = started("trap '' TERM; echo ready; while :; do sleep 600; done").await;
    assert_eq!(line(&mut process.output).await, "ready\n");
    drop(process.input);
    let patience = Patience {
        closed: Duration::ZERO,
        terminated: Duration::ZERO,
        killed: SOON,
    };
    let status = soon(process.life.end_within(patience)).await.unwrap();
    assert_eq!(status.signal(), Some(9));
    assert_eq!(words(status), "was ended by signal 9 (SIGKILL)");
    assert_eq!(rest(&mut process.output).await, b"");
}

#[tokio::test]
async fn grandchildren_are_gone_after_the_end_of_a_child() {
    // The grandchild has the child's standard output, which ends with the last process that has it.
    let mut process = started("sleep 600 & echo started; exit 0").await;
    assert_eq!(line(&mut process.output).await, "started\n");
    assert!(soon(process.life.ended()).await.unwrap().success());
    assert_eq!(rest(&mut process.output).await, b"");
}

#[tokio::test]
async fn grandchildren_are_gone_after_an_end_that_was_asked_for() {
    let mut process = started("sleep 600 & echo started; cat").await;
    assert_eq!(line(&mut process.output).await, "started\n");
    drop(process.input);
    let status = soon(process.life.end_within(PATIENT)).await.unwrap();
    assert!(status.success());
    assert_eq!(rest(&mut process.output).await, b"");
}

#[tokio::test]
async fn a_dropped_child_is_killed_with_its_grandchildren() {
    let mut process = started("sleep 600 & echo started; wait").await;
    assert_eq!(line(&mut process.output).await, "started\n");
    drop(process.life);
    assert_eq!(rest(&mut process.output).await, b"");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_process_that_has_left_the_group_does_not_hold_up_the_end() {
    use std::os::fd::AsRawFd;
    // It keeps the child's standard error open until its own input ends, which is a pipe of this test.
    let (kept, input) = io::pipe().unwrap();
    let (own, number) = (std::process::id(), kept.as_raw_fd());
    let pipe = format!("/proc/{own}/fd/{number}");
    let script = format!("setsid sh -c 'echo started; read line' < {pipe} & wait");
    let mut process = started(&script).await;
    assert_eq!(line(&mut process.output).await, "started\n");
    process.life.group.kill();
    let status = soon(process.life.ended()).await.unwrap();
    assert_eq!(status.signal(), Some(9));
    drop(input);
    assert_eq!(rest(&mut process.output).await, b"");
}

#[tokio::test]
async fn a_line_of_many_pieces_comes_back_as_it_went_in() {
    let process = Process::start(&Command::parse("/bin/cat").unwrap(), None).await;
    let Process {
        mut input,
        mut output,
        mut life,
        ..
    } = process.unwrap();
    let piece = |number: usize| Bytes::from(vec![b'a' + number.to_le_bytes()[0] % 26; number]);
    let pieces: Vec<Bytes> = (0..2_000).map(piece).collect();
    let mut expected: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
    expected.extend_from_slice(b"\nshort\n");
    let writing = async {
        input.write(pieces).await.unwrap();
        let short = vec![Bytes::from_static(b"sh"), Bytes::from_static(b"ort")];
        input.write(short).await.unwrap();
        drop(input);
    };
    let ((), seen) = tokio::join!(soon(writing), rest(&mut output));
    assert!(seen == expected);
    assert!(soon(life.ended()).await.unwrap().success());
}

#[tokio::test]
async fn no_line_follows_one_that_was_given_up() {
    let mut process = started("echo started; sleep 600").await;
    assert_eq!(line(&mut process.output).await, "started\n");
    let long = vec![Bytes::from(vec![b'x'; 4 * 1024 * 1024])];
    let written = timeout(Duration::ZERO, process.input.write(long)).await;
    assert!(written.is_err());
    let error = process.input.write(Vec::new()).await.unwrap_err();
    assert!(matches!(error, InputError::Torn), "{error:?}");
}

#[tokio::test]
async fn a_child_gets_its_folder_and_a_clean_environment() {
    let folder = tempfile::tempdir().unwrap();
    let command = Command::parse("env")
        .and_then(|command| command.with_variable("GREETING", "hello world"))
        .unwrap()
        .with_directory(folder.path());
    let mut process = Process::start(&command, None).await.unwrap();
    let text = String::from_utf8(rest(&mut process.output).await).unwrap();
    assert!(text.lines().any(|line| line == "GREETING=hello world"));
    // Cargo sets it for tests.
    assert!(!text.contains("CARGO_MANIFEST_DIR"), "{text}");
    let pwd = Command::parse("/bin/pwd").unwrap();
    let pwd = pwd.with_directory(folder.path());
    let mut process = Process::start(&pwd, None).await.unwrap();
    let text = line(&mut process.output).await;
    let expected = fs::canonicalize(folder.path()).unwrap();
    assert_eq!(Path::new(text.trim_end()), expected);
}
