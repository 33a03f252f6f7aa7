//! Tests of the program's messages and exit codes after wrong usage or a wrong configuration.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tieline_relay::config::{TokenHash, read_secret, read_tokens};
use tieline_token::{Expected, KeySet, Scope, verify};

fn relay(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tieline-relay"));
    command.args(words).env_remove("RUST_LOG");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIELINE_RELAY_") {
            command.env_remove(name);
        }
    }
    command
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Asserts exit code 2, an empty stdout and one line on stderr; returns that line.
fn one_line(mut command: Command) -> String {
    let output = command.output().expect("the program runs");
    let (stdout, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(
        (stdout.as_str(), stderr.lines().count()),
        ("", 1),
        "{stderr}"
    );
    stderr
}

/// Writes a file that other users cannot change, whatever the test's umask is.
fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("the file is written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("the mode is set");
}

#[test]
fn an_unknown_key_a_bad_address_and_a_missing_file_are_one_line_and_exit_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.toml");
    let file = path.to_str().unwrap();

    write(&path, "shrads = 1\n");
    let line = one_line(relay(&["--config", file]));
    assert!(
        line.starts_with(&format!("tieline-relay: `shrads` in {file}: unknown")),
        "{line}"
    );

    write(&path, "tcp_listen = [\"localhost\"]\n");
    let mut command = relay(&[]);
    command.env("TIELINE_RELAY_CONFIG", file);
    let line = one_line(command);
    assert!(
        line.contains(&format!("`tcp_listen` in {file}: \"localhost\" is not")),
        "{line}"
    );

    fs::remove_file(&path).unwrap();
    let line = one_line(relay(&["--config", file]));
    assert!(
        line.starts_with(&format!("tieline-relay: cannot read {file}: ")),
        "{line}"
    );

    let mut command = relay(&[]);
    command.env("TIELINE_RELAY_SHARDS", "none");
    let line = one_line(command);
    assert!(
        line.starts_with("tieline-relay: TIELINE_RELAY_SHARDS: \"none\" is not"),
        "{line}"
    );

    let line = one_line(relay(&["--log", "info,=,"]));
    assert!(line.contains("log filter"), "{line}");
    let line = one_line(relay(&["--auth", "tokens"]));
    assert_eq!(
        line,
        "tieline-relay: auth tokens wants a file of tokens: --auth-tokens-file FILE\n"
    );
    let words = "--http-listen tls://127.0.0.1:0 --tls-cert absent --tls-key absent";
    let line = one_line(relay(&words.split(' ').collect::<Vec<_>>()));
    assert!(
        line.starts_with("tieline-relay: cannot read absent: "),
        "{line}"
    );
}

#[test]
fn an_unknown_flag_is_exit_2_and_help_is_exit_0() {
    let output = relay(&["--shrads", "1"]).output().unwrap();
    let (stdout, stderr) = texts(&output);
    assert_eq!((output.status.code(), stdout.as_str()), (Some(2), ""));
    assert!(
        stderr.contains("--shrads") && stderr.contains("--shards"),
        "{stderr}"
    );
    let output = relay(&["--help"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(texts(&output).0.contains("--stale-timeout <TIME>"));
}

#[test]
fn an_issued_token_is_alone_on_stdout_and_good_for_what_was_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    fs::write(&path, "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let file = path.to_str().unwrap();
    let words = "token issue --sub ada --dcc maya --tunnel maya-* --scope agent --ttl 8h --issuer s \
                 --audience r --group lighting --group fx --reach farm-* --shared";
    let mut command = relay(&words.split(' ').collect::<Vec<_>>());
    let output = command.args(["--jwt-secret-file", file]).output().unwrap();
    let (stdout, stderr) = texts(&output);
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""));

    let token = stdout.strip_suffix('\n').unwrap();
    let keys = KeySet::from(read_secret(&path).unwrap());
    let expected = Expected {
        issuer: Some("s"),
        audience: &["r".to_owned()],
    };
    let iat = verify(token, &keys, 0, &expected).unwrap().iat.unwrap();
    let claims = verify(token, &keys, iat, &expected).unwrap();
    assert_eq!((claims.sub.as_str(), claims.exp), ("ada", iat + 8 * 3600));
    assert!(claims.allows_dcc("maya") && !claims.allows_dcc("nuke"));
    assert!(claims.allows_tunnel("maya-1") && !claims.allows_tunnel("nuke-1"));
    assert!(claims.allows_scope(Scope::Agent) && !claims.allows_scope(Scope::Caller));
    assert_eq!(claims.jti.map(|number| number.len()), Some(32));
    assert_eq!(claims.groups, ["lighting", "fx"]);
    assert_eq!(
        (claims.reach, claims.shared),
        (vec!["farm-*".to_owned()], true)
    );

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    for ttl in ["8h", "8", "0s"] {
        let mut command = relay(&["token", "issue", "--sub", "ada", "--ttl", ttl]);
        command.args(["--jwt-secret-file", file]);
        let line = one_line(command);
        assert!(
            line.contains(if ttl == "8h" { "chmod 600" } else { "--ttl" }),
            "{line}"
        );
    }
}

#[test]
fn a_taken_port_is_one_line_with_its_likely_cause_and_exit_1() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    for kind in ["agent", "tcp", "http", "admin"] {
        let mut command = relay(&["--shards", "1"]);
        for listener in ["agent", "tcp", "http", "admin"] {
            let address = if listener == kind {
                taken.as_str()
            } else {
                free
            };
            command.args([&format!("--{listener}-listen"), address]);
        }
        let output = command.args(["--log", "off"]).output().unwrap();
        let (_, line) = texts(&output);
        assert_eq!(
            (output.status.code(), line.lines().count()),
            (Some(1), 1),
            "{line}"
        );
        let start =
            format!("tieline-relay: cannot listen on {taken} ({kind}): Address already in use");
        assert!(
            line.starts_with(&start) && line.contains("ss -ltnp"),
            "{line}"
        );
        assert_eq!(line.matches("Address already in use").count(), 1, "{line}");
    }
}

#[test]
fn a_new_token_comes_with_the_entry_that_knows_it() {
    let words = "token new --sub ada --dcc maya --tunnel maya-* --scope agent --ttl 8h \
                 --group lighting --reach farm-* --shared";
    let output = relay(&words.split(' ').collect::<Vec<_>>())
        .output()
        .unwrap();
    let (stdout, stderr) = texts(&output);
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""));
    let (token, entry) = stdout.split_once("\n\n").unwrap();
    // 256 bits in base 64 without padding.
    assert_eq!(token.strip_prefix("tieline_").map(str::len), Some(43));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    fs::write(&path, entry).unwrap();
    let table = read_tokens(&path).unwrap();
    let known = table.find(&TokenHash::of(token)).unwrap();
    let claims = &known.claims;
    assert!(claims.allows_dcc("maya") && !claims.allows_dcc("nuke"));
    assert!(claims.allows_tunnel("maya-1") && !claims.allows_tunnel("nuke-1"));
    assert!(claims.allows_scope(Scope::Agent) && !claims.allows_scope(Scope::Caller));
    assert_eq!((claims.sub.as_str(), claims.shared), ("ada", true));
    assert_eq!(
        (&claims.groups[0], &claims.reach[0]),
        (&"lighting".to_owned(), &"farm-*".to_owned())
    );
    assert!(known.expires_at_seconds > Some(1_700_000_000));

    let plain = relay(&["token", "new", "--sub", "b"]).output().unwrap();
    let (stdout, _) = texts(&plain);
    let (other, entry) = stdout.split_once("\n\n").unwrap();
    assert_eq!(entry.trim_end().lines().count(), 3, "{entry}");
    assert_ne!(other, token);
    for bad in ["", "a\nb"] {
        let line = one_line(relay(&["token", "new", "--sub", bad]));
        assert!(line.contains("`sub`"), "{line}");
    }
}

#[test]
fn a_hang_up_has_files_read_again_and_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("denied.toml");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let free = "127.0.0.1:0";
    let mut command = relay(&[
        "--shards",
        "1",
        "--tcp-listen",
        "off",
        "--http-listen",
        "off",
    ]);
    command.args(["--agent-listen", free, "--admin-listen", "off"]);
    command.args(["--auth-denylist", path.to_str().unwrap()]);
    let mut program = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let id = Pid::from_raw(i32::try_from(program.id()).unwrap()).unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("ready")));
    let mut log = BufReader::new(program.stderr.take().unwrap()).lines();

    fs::write(&path, "sub = [\"eve\"]").unwrap();
    kill_process(id, Signal::HUP).unwrap();
    assert!(log.any(|line| line.unwrap().contains("the denylist has changed")));
    kill_process(id, Signal::TERM).unwrap();
    assert!(lines.any(|line| line.unwrap().starts_with("stopping   SIGTERM")));
    assert_eq!(program.wait().unwrap().code(), Some(0));
}
