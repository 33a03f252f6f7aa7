//! Tests of the binary: exit codes, output for programs, signals.
//! Long because every command of the binary is tested here.

use std::process::{Output, Stdio};

use serde_json::Value;
use tieline_wire::RefusalReason;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::rig::{Relay, soon};

pub(crate) fn tieline(state: &tempfile::TempDir) -> Command {
    let mut command = Command::from(crate::program::tieline());
    command
        .env("TIELINE_STATE_DIR", state.path())
        // The developer's own tieline.toml must not be found from here.
        .env("HOME", state.path())
        .current_dir(state.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

pub(crate) async fn output(command: &mut Command) -> Output {
    soon(command.output()).await.unwrap()
}

pub(crate) struct Serve {
    child: Child,
    pub(crate) lines: Lines<BufReader<ChildStdout>>,
}

impl Serve {
    pub(crate) fn start(state: &tempfile::TempDir, relay: &Relay, flags: &[&str]) -> Self {
        let mut command = tieline(state);
        command.args([
            "serve",
            "--relay",
            &relay.url(),
            "--to",
            "127.0.0.1:1",
            "--json",
        ]);
        Self::of(command.args(flags).stdout(Stdio::piped()).spawn().unwrap())
    }

    pub(crate) fn of(mut child: Child) -> Self {
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    pub(crate) async fn saw(&mut self, event: &str) -> Value {
        loop {
            let line = soon(self.lines.next_line())
                .await
                .unwrap()
                .expect("tieline has ended");
            let value: Value = serde_json::from_str(&line).unwrap();
            if value["event"] == event {
                return value;
            }
        }
    }

    pub(crate) async fn code(mut self) -> Option<i32> {
        soon(self.child.wait()).await.unwrap().code()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().unwrap().to_string();
        let killed = std::process::Command::new("kill")
            .args(["-s", signal, &pid])
            .status();
        assert!(killed.unwrap().success());
    }
}

#[tokio::test]
async fn usage_errors_are_one_line_and_code_2() {
    let state = tempfile::tempdir().unwrap();
    for (flags, word) in [
        (
            &[
                "--relay",
                "quic://r:1",
                "--to",
                "127.0.0.1:1",
                "--proxy",
                "http://proxy:3128",
            ][..],
            "write https:// in place of quic://",
        ),
        (
            &["--relay", "tcp://r:1", "--to", "https://h/mcp"],
            "not built yet",
        ),
        (
            &["--relay", "tcp://r:1", "--to", "stdio:server 'x"],
            "opens a quote",
        ),
        (
            &["--relay", "tcp://r:1", "--to", "h:1", "--env", "A=B"],
            "--env is for a program",
        ),
        (&["--relay", "r:1", "--to", "127.0.0.1:1"], "scheme"),
        (&["--relay", "tcp://r:1", "--to", "127.0.0.1"], "port"),
        (
            &["--relay", "tcp://r:1", "--to", "h:1", "--name", "a b"],
            "name",
        ),
        (
            &[
                "--relay",
                "tcp://r:1",
                "--to",
                "h:1",
                "--links",
                "2",
                "--once",
            ],
            "--once",
        ),
        (
            &[
                "--relay",
                "tcp://r:1",
                "--to",
                "h:1",
                "--token-file",
                "/nowhere",
            ],
            "/nowhere",
        ),
    ] {
        let output = output(tieline(&state).arg("serve").args(flags)).await;
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {text}");
        assert!(
            text.contains(word) && text.lines().count() == 1,
            "{flags:?}: {text}"
        );
    }
    for (flags, word) in [
        (&["--to", "h:1"][..], "--relay"),
        (&["--relay", "tcp://r:1"], "--to"),
        (&["--config", "/nowhere/at.toml"], "/nowhere/at.toml"),
    ] {
        let output = output(tieline(&state).arg("serve").args(flags)).await;
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {text}");
        assert!(
            text.contains(word) && text.lines().count() == 1,
            "{flags:?}: {text}"
        );
    }
}

#[tokio::test]
async fn a_file_above_the_current_folder_says_what_to_publish() {
    let state = tempfile::tempdir().unwrap();
    let relay = Relay::bind().await;
    let path = state.path().canonicalize().unwrap().join("tieline.toml");
    let text = format!(
        "relay = '{}'\nstate_dir = 'own'\n[[target]]\nto = '127.0.0.1:1'\nname = 'maya'\n",
        relay.url()
    );
    std::fs::write(&path, &text).unwrap();
    set_mode(&path, 0o644);
    let deep = state.path().join("show/shot");
    std::fs::create_dir_all(&deep).unwrap();
    let mut command = tieline(&state);
    command
        .env_remove("TIELINE_STATE_DIR")
        .current_dir(&deep)
        .args(["serve", "--json"]);
    let mut serve = Serve::of(command.stdout(Stdio::piped()).spawn().unwrap());
    assert_eq!(serve.saw("config").await["file"], path.to_str().unwrap());
    let mut link = relay.accept().await;
    let mut status = tieline(&state);
    status.env_remove("TIELINE_STATE_DIR").current_dir(&deep);
    let status = output(status.args(["status", "--json"])).await;
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["tunnels"][0]["name"], "maya");
    assert_eq!(status["tunnels"][0]["health"]["state"], "refused");
    assert_eq!(link.register().name.as_deref(), Some("maya"));
    link.refuse(RefusalReason::NameTaken).await;
    assert_eq!(serve.code().await, Some(3));
    // A file that another user may write is refused.
    set_mode(&path, 0o666);
    let refused = output(tieline(&state).arg("serve")).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("chmod go-w"));
    let flags = ["serve", "--no-config", "--to", "h:1"];
    let none = output(tieline(&state).args(flags)).await;
    assert!(String::from_utf8_lossy(&none.stderr).contains("--relay"));
    set_mode(&path, 0o600);
    std::fs::write(&path, text.replace("name", "nam")).unwrap();
    let wrong = output(tieline(&state).arg("serve")).await;
    let stderr = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert_eq!(wrong.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("tieline.toml:5: no setting is called `nam` here: did you mean `name`?"),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

fn set_mode(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn serve_tells_a_program_what_happens_and_status_finds_it() {
    let state = tempfile::tempdir().unwrap();
    let relay = Relay::bind().await;
    let mut serve = Serve::start(&state, &relay, &[]);
    let mut link = relay.accept_registered().await;
    let registered = serve.saw("registered").await;
    assert_eq!(registered["tunnel"], link.tunnel().as_str());
    assert_eq!(registered["generation"], "41");
    let status = output(tieline(&state).args(["status", "--json"])).await;
    assert_eq!(status.status.code(), Some(0));
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["state"], "registered");
    assert_eq!(status["url"], registered["url"]);
    assert_eq!(status["sessions"], 0);
    let people = output(tieline(&state).arg("status")).await;
    let people = String::from_utf8(people.stdout).unwrap();
    assert!(people.contains(link.tunnel().as_str()), "{people}");
    serve.signal("TERM");
    while soon(link.try_event()).await.is_some() {}
    serve.saw("stopped").await;
    assert_eq!(serve.code().await, Some(0));
    let status = output(tieline(&state).arg("status")).await;
    assert_eq!(status.status.code(), Some(1));
    assert!(
        String::from_utf8(status.stderr)
            .unwrap()
            .contains("no agent")
    );
}

#[tokio::test]
async fn a_killed_agent_leaves_nothing_that_status_stumbles_over() {
    let state = tempfile::tempdir().unwrap();
    let relay = Relay::bind().await;
    let mut serve = Serve::start(&state, &relay, &[]);
    let _link = relay.accept_registered().await;
    serve.saw("registered").await;
    serve.signal("KILL");
    assert_eq!(serve.code().await, None);
    assert_eq!(
        output(tieline(&state).arg("status")).await.status.code(),
        Some(1)
    );
    assert_eq!(
        std::fs::read_dir(state.path().join("run")).unwrap().count(),
        0
    );
}

#[tokio::test]
async fn a_refusal_for_good_is_code_3_and_a_lost_link_with_once_is_code_1() {
    let state = tempfile::tempdir().unwrap();
    let relay = Relay::bind().await;
    let mut serve = Serve::start(&state, &relay, &[]);
    relay.accept().await.refuse(RefusalReason::BadToken).await;
    assert_eq!(serve.saw("refused").await["reason"], "bad_token");
    assert_eq!(serve.code().await, Some(3));
    let mut serve = Serve::start(&state, &relay, &["--once"]);
    drop(relay.accept_registered().await);
    assert_eq!(serve.saw("failed").await["reason"], "link_lost");
    assert_eq!(serve.code().await, Some(1));
}

#[tokio::test]
async fn the_token_reaches_the_relay_and_no_output() {
    use std::os::unix::fs::OpenOptionsExt;
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("token");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .unwrap();
    std::io::Write::write_all(&mut file, b"very-secret\n").unwrap();
    let relay = Relay::bind().await;
    let child = tieline(&state)
        .args([
            "serve",
            "--relay",
            &relay.url(),
            "--to",
            "127.0.0.1:1",
            "--json",
        ])
        .args(["--token-file", path.to_str().unwrap()])
        .env("TIELINE_LOG", "trace")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut link = relay.accept().await;
    assert_eq!(link.register().token.reveal(), "very-secret");
    link.refuse(RefusalReason::BadToken).await;
    let output = soon(child.wait_with_output()).await.unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(
        text.contains("bad_token") && !text.contains("very-secret"),
        "{text}"
    );
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_demo_calls_its_server_through_its_own_tunnel() {
    let state = tempfile::tempdir().unwrap();
    let demo = output(tieline(&state).args(["demo", "--once", "--json"])).await;
    let text = String::from_utf8(demo.stdout).unwrap();
    assert_eq!(demo.status.code(), Some(0), "{text}");
    let methods: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["event"] == "call")
        .map(|event| event["method"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(methods, ["tools/list", "tools/call"]);
    assert!(
        !state.path().join("agent-key").exists(),
        "the demo keeps no key"
    );
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_demo_stays_up_until_it_is_interrupted() {
    let state = tempfile::tempdir().unwrap();
    let child = tieline(&state)
        .args(["demo", "--json"])
        .env("TMPDIR", state.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut demo = Serve::of(child);
    let ready = demo.saw("ready").await;
    let url = ready["url"]
        .as_str()
        .unwrap()
        .strip_prefix("http://")
        .unwrap();
    let (address, _) = url.split_once('/').unwrap();
    tokio::net::TcpStream::connect(address).await.unwrap();
    demo.signal("INT");
    assert_eq!(demo.code().await, Some(0));
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn an_empty_variable_counts_as_not_set() {
    let state = tempfile::tempdir().unwrap();
    let help = output(tieline(&state).args(["help", "serve"])).await;
    let help = String::from_utf8(help.stdout).unwrap();
    let mut variables: Vec<_> = help
        .split("[env: ")
        .skip(1)
        .filter_map(|rest| rest.split(['=', ']']).next())
        .collect();
    variables.extend([
        "TIELINE_CONNECT_RELAY",
        "TIELINE_CONNECT_LISTEN",
        "TIELINE_CA",
    ]);
    assert!(
        variables.len() > 10 && variables.contains(&"TIELINE_TO"),
        "{variables:?}"
    );
    let with_all_empty = |args: &'static [&'static str]| {
        let mut command = tieline(&state);
        command
            .envs(variables.iter().map(|name| (name, "")))
            .args(args);
        command.env("TIELINE_LOG", "");
        command
    };
    for (args, word) in [
        (
            &["serve", "--no-config", "--once"][..],
            "no relay: give --relay",
        ),
        (
            &[
                "serve",
                "--no-config",
                "--once",
                "--relay",
                "tcp://127.0.0.1:1",
            ],
            "no target: give --to",
        ),
        (
            &[
                "serve",
                "--no-config",
                "--once",
                "--relay",
                "tcp://127.0.0.1:1",
                "--to",
                "1",
            ],
            "cannot reach the relay",
        ),
        (
            &["list", "--relay", "http://127.0.0.1:1"],
            "http://127.0.0.1:1: ",
        ),
        (&["list"], "no relay: give its HTTP port"),
        (&["token", "show"], "which token?"),
    ] {
        let output = output(&mut with_all_empty(args)).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(word), "{args:?}: {stderr}");
    }
}

#[tokio::test]
async fn certificates_that_the_variable_names_do_not_stop_an_agent_without_tls() {
    let state = tempfile::tempdir().unwrap();
    let flags = [
        "--no-config",
        "--once",
        "--relay",
        "tcp://127.0.0.1:1",
        "--to",
        "1",
    ];
    let serve = || {
        let mut command = tieline(&state);
        command.arg("serve").args(flags);
        command
    };
    let ended = output(serve().env("TIELINE_CA", "/nonexistent")).await;
    let text = String::from_utf8(ended.stderr).unwrap();
    assert!(
        text.contains("TIELINE_CA is not used: tcp://127.0.0.1:1 has no TLS"),
        "{text}"
    );
    assert!(text.contains("cannot reach the relay"), "{text}");
    assert_eq!(ended.status.code(), Some(1), "{text}");
    // A flag without effect is an error.
    let ended = output(serve().args(["--ca", "/nonexistent"])).await;
    assert_eq!(ended.status.code(), Some(2));
}
