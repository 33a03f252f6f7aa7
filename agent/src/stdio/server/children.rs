//! The task of one child: it starts the process, moves lines between its pipes and the bridge, and sees to its end.
//!
//! A child that fails is reported at once, and gets its orderly end afterwards: its callers do not wait for it.

use std::convert::Infallible;
use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tieline_bridge::{ChildEnd, ChildId, Lines};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

use super::inbox::{End, Inbox};
use super::queue::Queue;
use super::state::Shared;
use crate::stdio::{Input, Life, Log, Output, Process, StartError, words};

/// Time between the failure of a child and its report: for its exit status, the rest of its output and its last words.
/// Calls under way must fail within 50 ms.
const REPORT_TIMEOUT: Duration = Duration::from_millis(40);

/// Most bytes that are read after a child has failed: what a pipe can hold (pipe(7), /proc/sys/fs/pipe-max-size).
const REST_BYTES_MAX: usize = 1024 * 1024;

/// Time for the last lines to a child that is told to end; one that reads takes them at once.
const LAST_LINES_TIMEOUT: Duration = Duration::from_millis(200);

/// Runs a child from its start until nothing of it is left.
pub(super) async fn run(shared: Arc<Shared>, child: ChildId, inbox: Arc<Inbox>) {
    let begun = tokio::select! {
        _ = inbox.ended() => None,
        begun = begin(&shared) => Some(begun),
    };
    match begun {
        None => {
            inbox.shut();
            shared.child_not_started(child);
            shared.child_gone(child, None);
        }
        Some((_, Err(error))) => {
            inbox.shut();
            let end = ChildEnd {
                status: error.to_string(),
                last_words: None,
            };
            shared.child_ended(child, &end, false);
            shared.child_gone(child, None);
        }
        Some((process_permit, Ok(process))) => {
            live(&shared, child, &inbox, process).await;
            drop(process_permit);
        }
    }
}

/// Starts the process once there is room for another one.
async fn begin(shared: &Shared) -> (OwnedSemaphorePermit, Result<Process, StartError>) {
    let permit = Arc::clone(&shared.processes).acquire_owned().await;
    let permit = permit.expect("the semaphore is never closed");
    let process = Process::start(&shared.command, shared.guard.as_ref()).await;
    (permit, process)
}

/// Runs a child whose process was started.
async fn live(shared: &Shared, child: ChildId, inbox: &Inbox, process: Process) {
    let Process {
        input,
        output,
        log,
        mut life,
    } = process;
    shared.child_started(child, life.id(), &log);
    let mut reader = Reader {
        output,
        lines: Lines::new(),
    };
    let mut writer = Writer(input);
    let fault = tokio::select! {
        _ = inbox.ended() => "does not read its standard input",
        _ = life.exited() => "ended",
        () = reader.run(shared, child) => "closed its standard output",
        () = writer.run(inbox) => "closed its standard input",
    };
    match inbox.end() {
        Some(End::Asked) => {
            let last_lines = timeout(LAST_LINES_TIMEOUT, writer.run(inbox));
            let _ = reader.discard_while(last_lines).await;
            // Closes the child's input, which is the first request to end.
            drop(writer);
            let ended = reader.discard_while(life.end()).await;
            let end = ChildEnd {
                status: how(ended),
                last_words: log.last_line(),
            };
            shared.child_ended(child, &end, true);
        }
        _ => {
            inbox.shut();
            report(shared, child, fault, &mut reader, &mut life, &log).await;
            // Not before: a child that ends because of it would be reported with another reason.
            drop(writer);
            // Returns at once if the child has ended.
            if let Err(error) = reader.discard_while(life.end()).await {
                tracing::debug!(%child, %error, "a child that has failed does not end");
            }
        }
    }
    // Kills what is left of it.
    drop(life);
    shared.child_gone(child, Some(&log));
}

/// Reports a child that has failed by itself, with all that it has left behind.
async fn report(
    shared: &Shared,
    child: ChildId,
    fault: &str,
    reader: &mut Reader,
    life: &mut Life,
    log: &Log,
) {
    let deadline = Instant::now() + REPORT_TIMEOUT;
    let exited = timeout_at(deadline, life.exited());
    let (exited, ()) = tokio::join!(exited, reader.drain(shared, child, deadline));
    let status = match exited {
        Ok(exited) => {
            // Completes the log. A process that has left the child's group may keep it open.
            let _ = timeout_at(deadline, life.ended()).await;
            how(exited)
        }
        Err(_) => fault.to_owned(),
    };
    reader.finish(shared, child);
    let end = ChildEnd {
        status,
        last_words: log.last_line(),
    };
    shared.child_ended(child, &end, false);
}

/// How a child has ended, as the end of a sentence about it.
fn how(ended: io::Result<ExitStatus>) -> String {
    match ended {
        Ok(status) => words(status),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            "does not end, though it was killed".to_owned()
        }
        Err(error) => format!("ended, and the system does not tell how: {error}"),
    }
}

/// Moves lines from the inbox to the child's input.
struct Writer(Input);

impl Writer {
    /// Writes lines until none will follow, or until the child takes no more. It may be given up and called again.
    async fn run(&mut self, inbox: &Inbox) {
        while let Some(entry) = inbox.next().await {
            let written = self.0.write(entry.line.into_pieces()).await;
            // The bytes are gone, so that another request may have their room.
            drop(entry.place);
            if let Err(error) = written {
                tracing::debug!(%error, "a line for a child is lost");
                return;
            }
        }
    }
}

/// Moves lines from the child's output to the bridge.
struct Reader {
    output: Output,
    lines: Lines,
}

impl Reader {
    /// Reads to the end of the output, as fast as the callers take their answers. It may be given up at any moment.
    async fn run(&mut self, shared: &Shared, child: ChildId) {
        loop {
            while let Some(fed) = self.next_line(shared, child) {
                for queue in fed {
                    queue.drained().await;
                }
            }
            match self.output.read().await {
                Ok(Some(bytes)) => self.lines.push(bytes),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Reads what is left of the output of a child that has failed, and does not wait for callers.
    async fn drain(&mut self, shared: &Shared, child: ChildId, deadline: Instant) {
        let mut left = REST_BYTES_MAX;
        loop {
            while self.next_line(shared, child).is_some() {}
            match timeout_at(deadline, self.output.read()).await {
                Ok(Ok(Some(bytes))) if bytes.len() <= left => {
                    left -= bytes.len();
                    self.lines.push(bytes);
                }
                _ => return,
            }
        }
    }

    /// Hands the next line that is complete to the bridge; returns the answers that got bytes from it.
    fn next_line(&mut self, shared: &Shared, child: ChildId) -> Option<Vec<Arc<Queue>>> {
        Some(match self.lines.next_line()? {
            Ok(line) => shared.line(child, line),
            Err(error) => {
                shared.stray(child, error.to_string().as_bytes());
                Vec::new()
            }
        })
    }

    /// Reports a line that has no end, and will get none.
    fn finish(&mut self, shared: &Shared, child: ChildId) {
        if let Some(line) = self.lines.finish() {
            shared.stray(child, &line);
        }
    }

    /// Waits for `event`, and drops what the child writes meanwhile, which would otherwise wait for its reader.
    async fn discard_while<T>(&mut self, event: impl Future<Output = T>) -> T {
        tokio::select! {
            outcome = event => outcome,
            never = self.discard() => match never {},
        }
    }

    async fn discard(&mut self) -> Infallible {
        while let Ok(Some(_)) = self.output.read().await {}
        std::future::pending().await
    }
}
