//! One request to a proxy. It goes on when the dial that made it has ended, because the answer to a login that was sent
//! must be known.

use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::heard::Said;
use super::logins::{Failure, Turn};
use super::proxy::Proxy;
use super::refusal::Problem;
use crate::address::HostPort;
use crate::error::{RefusedLogin, UnansweredLogin};

/// Least time that a proxy has for its answer: a dial that waited for others may end earlier.
///
/// A login that is slow and right must not count as unanswered for that. A second less than a dial has, so that a dial
/// whose connection to the proxy took less than that ends with its login.
const ANSWER_TIME_MIN: Duration = Duration::from_secs(9);

/// Time for which an answer is awaited after the login has counted as unanswered.
///
/// A proxy that does not reach the relay says so late: Squid after 60 s (`connect_timeout`), others when the kernel gives
/// up (127 s, tcp_syn_retries in tcp(7)). Then it was not the password, and the wait ends.
const LATE_ANSWER_TIME: Duration = Duration::from_secs(130);

/// A request to a proxy for a connection, before it is sent.
pub(super) struct Request {
    pub(super) proxy: Proxy,
    /// Where the connection is to lead.
    pub(super) to: HostPort,
    /// The connection to the proxy.
    pub(super) socket: TcpStream,
    pub(super) turn: Turn,
}

impl Request {
    /// Makes the request, and notes the answer to the login; returns the connection.
    ///
    /// # Errors
    /// What the proxy says, in words that name it; [`io::ErrorKind::TimedOut`] at `deadline`, with an
    /// [`UnansweredLogin`] in it if the proxy was sent the login and it does not count as refused.
    pub(super) async fn make(self, deadline: Instant) -> io::Result<TcpStream> {
        let (tell, told) = oneshot::channel();
        tokio::spawn(self.run(deadline, tell));
        let stopped = || io::Error::other("the task of a request to a proxy stopped");
        told.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Makes the request, and gives the connection to `tell`, or before `deadline` what is wrong.
    async fn run(self, deadline: Instant, tell: oneshot::Sender<io::Result<TcpStream>>) {
        let Self {
            proxy,
            to,
            mut socket,
            mut turn,
        } = self;
        let said = Said::default();
        let limit = deadline.max(Instant::now() + ANSWER_TIME_MIN);
        let mut tell = Some(tell);
        let opened = {
            let mut open = pin!(proxy.open(&mut socket, &to, &said));
            let mut opened = timeout_at(deadline, open.as_mut()).await.ok();
            if opened.is_none() && limit > deadline && !is_refused(&proxy.late(&said)) {
                give(&mut tell, Err(out_of_time(&proxy, &proxy.late(&said))));
                opened = timeout_at(limit, open.as_mut()).await.ok();
            }
            let Some(opened) = opened else {
                let late = proxy.late(&said);
                let refused = note(&mut turn, &proxy, &late);
                let error = refused.map_or_else(|| out_of_time(&proxy, &late), io::Error::from);
                give(&mut tell, Err(error));
                if matches!(late.login_failure(), Some((Failure::Unanswered, _))) {
                    hear_out(open, &mut turn, &proxy).await;
                }
                return;
            };
            opened
        };
        let result = match opened {
            Ok(()) => {
                turn.accepted();
                Ok(socket)
            }
            Err(problem) => {
                let refused = note(&mut turn, &proxy, &problem);
                let other = || io::Error::other(proxy.words(&problem.text()));
                Err(refused.map_or_else(other, io::Error::from))
            }
        };
        give(&mut tell, result);
    }
}

/// Gives `result` to the dial, if that still waits.
fn give(tell: &mut Option<oneshot::Sender<io::Result<TcpStream>>>, result: io::Result<TcpStream>) {
    if let Some(tell) = tell.take() {
        // A dial that has ended needs no result.
        let _ended = tell.send(result);
    }
}

/// The error of a dial that ends before the proxy's answer; `late` is the problem with what the proxy has said so far.
fn out_of_time(proxy: &Proxy, late: &Problem) -> io::Error {
    let text = proxy.words(&late.text());
    match late.login_failure() {
        Some((Failure::Unanswered, _)) => UnansweredLogin { text }.into(),
        Some((Failure::Refused, _)) | None => io::Error::new(io::ErrorKind::TimedOut, text),
    }
}

/// True if the proxy said that it refuses the login.
fn is_refused(problem: &Problem) -> bool {
    matches!(problem.login_failure(), Some((Failure::Refused, _)))
}

/// Notes what `problem` says about the login; returns the refusal, if the proxy must not be asked again yet.
fn note(turn: &mut Turn, proxy: &Proxy, problem: &Problem) -> Option<RefusedLogin> {
    if problem.accepts_login() {
        turn.accepted();
    }
    let (failure, text) = problem.login_failure()?;
    turn.failed(failure, proxy.words(&text))
}

/// Waits for the answer to a login that has counted as unanswered, and notes what it says about the password.
async fn hear_out(
    open: Pin<&mut impl Future<Output = Result<(), Problem>>>,
    turn: &mut Turn,
    proxy: &Proxy,
) {
    match timeout(LATE_ANSWER_TIME, open).await {
        Err(_) => {}
        Ok(Ok(())) => turn.accepted(),
        Ok(Err(problem)) => match problem.login_failure() {
            None if problem.accepts_login() => turn.accepted(),
            None => turn.answered_late(),
            Some((Failure::Refused, text)) => {
                turn.failed(Failure::Refused, proxy.words(&text));
            }
            Some((Failure::Unanswered, _)) => {}
        },
    }
}
