//! Checks that a target accepts connections and, if it is an HTTP target, speaks HTTP; or that its program is there.

use std::path::PathBuf;

use http::Method;

use super::check::Check;
use crate::outbound::failure::Failure;
use crate::outbound::request::Question;
use tieline_agent::TargetConfig;
use tieline_agent::socket::CloseMode;
use tieline_agent::targets::{CONNECT_TIMEOUT, ProgramError, Target, TargetFailure};

pub(super) async fn check(target: &TargetConfig) -> Check {
    match target.program() {
        Some(found) => of_program(target, found),
        None => look(&target.target).await,
    }
}

/// Checks what a start of a program needs, without starting it.
fn of_program(target: &TargetConfig, found: Result<PathBuf, ProgramError>) -> Check {
    let name = &target.target;
    let file = match found {
        Ok(file) => file,
        Err(problem) => {
            let advice = match problem {
                ProgramError::Directory(_) => "make the folder, or name another one with --cwd",
                _ => "install it, give its whole path, or a PATH that leads to it (--env PATH=…)",
            };
            return Check::failed("target", format!("{name}: {problem}"), advice);
        }
    };
    let found = format!("{name}: {} is there, and was not started", file.display());
    match &*target.stdio.unset_variables() {
        [] => Check::ok("target", found),
        unset => Check::warning(
            "target",
            found,
            format!("set {}, which it is to inherit", unset.join(", ")),
        ),
    }
}

async fn look(target: &Target) -> Check {
    let stream = match target
        .connect_within(CONNECT_TIMEOUT, CloseMode::Ends)
        .await
    {
        Ok(stream) => stream,
        Err((failure, error)) => {
            let advice = match failure {
                TargetFailure::Refused => "start the server, or give the port that it has",
                TargetFailure::Timeout => "is it busy, or behind a firewall?",
                TargetFailure::Unreachable | TargetFailure::Reset => {
                    "is its host right, and reachable from here?"
                }
            };
            return Check::failed("target", format!("{target}: {error}"), advice);
        }
    };
    if !target.is_http() {
        return Check::ok("target", format!("{target} takes connections"));
    }
    // A GET could open an event stream. OPTIONS changes nothing, and any HTTP answer to it will do.
    let path = match target.base_path() {
        "" => "/",
        path => path,
    };
    let authority = target.authority();
    let question = Question {
        method: Method::OPTIONS,
        authority: &authority,
        path,
        authorization: None,
    };
    let answer = question.ask(stream, false).await;
    match answer.map(|(head, _)| head.status) {
        Ok(status) if status.is_server_error() && status != 501 => Check::failed(
            "target",
            format!("{target} answers with {status}"),
            "look at the server's own log",
        ),
        Ok(status) if status == 404 => Check::ok(
            "target",
            format!("{target} speaks HTTP; if callers get 404 too, the path is wrong"),
        ),
        Ok(status) => Check::ok(
            "target",
            format!("{target} speaks HTTP (OPTIONS: {status})"),
        ),
        // A server for WebSockets alone need not answer any other request.
        Err(Failure::Closed(error)) => Check::warning(
            "target",
            format!("{target} takes connections, and ends them without an answer: {error}"),
            "fine for a server that speaks WebSocket alone; else, is it another kind of server (--to host:port), or one \
             that needs https?",
        ),
        Err(error) => Check::failed(
            "target",
            format!("{target} takes connections, but does not speak HTTP: {error}"),
            "is it another kind of server (--to host:port), or one that needs https?",
        ),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::check::Outcome;
    use super::*;

    async fn check(scheme: &str, answer: &'static str) -> Check {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let len = stream.read(&mut request).await.unwrap();
            let harmless = len == 0 || request.starts_with(b"OPTIONS /mcp HTTP/1.1\r\n");
            assert!(harmless);
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        let target = Target::parse(&format!(
            "{scheme}{address}{}",
            if scheme.is_empty() { "" } else { "/mcp" }
        ));
        look(&target.unwrap()).await
    }

    #[tokio::test]
    async fn any_answer_but_a_servers_own_failure_is_http() {
        for (status, outcome) in [
            ("204 No Content", Outcome::Ok),
            ("404 Not Found", Outcome::Ok),
            ("405 Method Not Allowed", Outcome::Ok),
            ("501 Not Implemented", Outcome::Ok),
            ("500 Broken", Outcome::Failed),
        ] {
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            let check = check("http://", Box::leak(answer.into_boxed_str())).await;
            assert_eq!(check.outcome, outcome, "{check}");
        }
        let check = check("http://", "SSH-2.0-x\r\n").await;
        assert_eq!(check.outcome, Outcome::Failed);
        assert!(check.detail.contains("does not speak HTTP"), "{check}");
    }

    #[tokio::test]
    async fn a_server_that_answers_no_plain_request_may_speak_websocket_alone() {
        let check = check("http://", "").await;
        assert_eq!(check.outcome, Outcome::Warning, "{check}");
        assert!(check.to_string().contains("WebSocket alone"), "{check}");
    }

    #[tokio::test]
    async fn a_program_is_looked_for_and_not_started() {
        let own = std::env::current_exe().unwrap().display().to_string();
        let own = TargetConfig::of(Target::of_command(&[own]).unwrap());
        let found = super::check(&own).await;
        assert_eq!(found.outcome, Outcome::Ok, "{found}");
        let options = tieline_agent::StdioOptions::default();
        let options = options.with_inherited("TIELINE_TEST_ABSENT").unwrap();
        let unset = super::check(&own.with_stdio(options)).await;
        assert_eq!(unset.outcome, Outcome::Warning, "{unset}");
        let absent = TargetConfig::new("stdio:tieline-absent").unwrap();
        let absent = super::check(&absent).await;
        assert_eq!(absent.outcome, Outcome::Failed);
        assert!(absent.to_string().contains("install it"), "{absent}");
    }

    #[tokio::test]
    async fn a_plain_target_has_to_take_a_connection_and_no_more() {
        assert_eq!(check("", "").await.outcome, Outcome::Ok);
        let port = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let closed = look(&Target::parse(&port.to_string()).unwrap()).await;
        assert_eq!(closed.outcome, Outcome::Failed);
        assert!(closed.to_string().contains("start the server"), "{closed}");
    }
}
