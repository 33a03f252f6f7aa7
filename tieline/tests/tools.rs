//! Tests of `tieline token show`, `completions` and `man`, run as commands.

// Clippy allows `unwrap` in test functions, but not in functions that they call.
#![allow(clippy::unwrap_used)]

mod program;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use tempfile::TempDir;

fn tieline(args: &[&str]) -> Command {
    let mut command = program::tieline();
    command.args(args);
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// A token that expires `left` seconds from now.
fn jwt(left: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let exp = i64::try_from(now.as_secs()).unwrap() + left;
    let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
    let claims = format!(r#"{{"sub":"ada","exp":{exp},"tunnels":["maya-*"]}}"#);
    format!("{}.{}.signature", part(r#"{"alg":"HS256"}"#), part(&claims))
}

fn file(token: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    fs::write(&path, token).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    (dir, path)
}

#[test]
fn a_token_is_shown_and_an_expired_one_is_code_1() {
    let (_dir, path) = file(&jwt(10 * 3600));
    let (code, out, err) = run(tieline(&["token", "show"]).env("TIELINE_TOKEN_FILE", &path));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("subject  ada\n"), "{out}");
    assert!(
        out.contains("expires  in 9 h 59 min (") || out.contains("expires  in 10 h ("),
        "{out}"
    );
    assert!(
        !out.contains("signature\n") && !out.contains("eyJ"),
        "{out}"
    );

    let (_dir, path) = file(&jwt(600));
    let (code, _, err) = run(tieline(&["token", "show"]).arg(&path));
    assert_eq!(code, Some(0));
    assert!(err.contains("expires soon"), "{err}");
    let by_flag = run(tieline(&["token", "show", "--token-file"]).arg(&path));
    assert_eq!(by_flag.0, Some(0), "{by_flag:?}");

    let (_dir, path) = file(&jwt(-60));
    let (code, out, err) = run(tieline(&["token", "show", "--json"]).arg(&path));
    assert_eq!(code, Some(1));
    assert!(err.contains("expired"), "{err}");
    let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(shown["kind"], "jwt");
    assert_eq!(shown["state"], "expired");
    assert_eq!(shown["verified"], false);
    assert_eq!(shown["claims"]["tunnels"][0], "maya-*");
}

#[test]
fn a_token_from_standard_input_is_never_printed() {
    for args in [
        &["token", "show", "-"][..],
        &["token", "show", "-", "--json"],
    ] {
        let mut child = tieline(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(b"my-opaque-secret\n")
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let all = [output.stdout, output.stderr].concat();
        let all = String::from_utf8(all).unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(all.contains("opaque") && !all.contains("secret"), "{all}");
    }
}

#[test]
fn a_token_file_that_cannot_be_read_is_one_line() {
    let (code, _, err) = run(tieline(&["token", "show", "/nonexistent"]).env("NO_COLOR", "1"));
    assert_eq!(code, Some(1));
    assert!(
        err.contains("/nonexistent") && err.lines().count() == 1,
        "{err}"
    );
    let (code, _, err) = run(&mut tieline(&["token", "show"]));
    assert_eq!(code, Some(2));
    assert!(err.contains("--token-file FILE"), "{err}");
}

#[test]
fn every_shell_gets_a_script_that_knows_the_commands() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let (code, out, err) = run(&mut tieline(&["completions", shell]));
        assert_eq!((code, err.as_str()), (Some(0), ""), "{shell}");
        for word in ["serve", "connect", "share-token-with-network"] {
            assert!(out.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn the_manual_is_one_page_or_one_for_each_command() {
    let (code, out, _) = run(&mut tieline(&["man"]));
    assert_eq!(code, Some(0));
    assert!(out.contains(".TH tieline 1"), "{out}");
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    let (code, _, err) = run(tieline(&["man", "--dir"]).arg(&pages));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    for page in [
        "tieline.1",
        "tieline-serve.1",
        "tieline-connect.1",
        "tieline-token-show.1",
    ] {
        assert!(pages.join(page).exists(), "{page}");
    }
}

#[test]
fn colours_are_for_terminals_and_those_who_ask() {
    let (_dir, path) = file(&jwt(-60));
    let shown = |variables: &[(&str, &str)]| {
        let mut command = tieline(&["token", "show"]);
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            command.env_remove(name);
        }
        let (_, out, err) = run(command.arg(&path).envs(variables.iter().copied()));
        (out + &err).contains('\u{1b}')
    };
    assert!(!shown(&[]), "no colours in a pipe");
    assert!(shown(&[("CLICOLOR_FORCE", "1")]));
    assert!(!shown(&[("NO_COLOR", "1")]));
}

#[test]
fn help_is_a_command_and_nonsense_is_told() {
    let (code, out, err) = run(&mut tieline(&["help", "serve"]));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("--token-file"), "{out}");
    let (code, _, err) = run(&mut tieline(&["help", "nonsense"]));
    assert_eq!(code, Some(2));
    assert!(err.contains("nonsense"), "{err}");
}

#[test]
fn a_variable_that_nothing_reads_stops_the_start() {
    let (code, _, err) = run(tieline(&["status"]).env("TIELINE_TOKEN_FLIE", "x"));
    assert_eq!(code, Some(2));
    assert!(
        err.contains("TIELINE_TOKEN_FLIE") && err.contains("TIELINE_TOKEN_FILE?"),
        "{err}"
    );
    assert_eq!(err.lines().count(), 1, "{err}");
    let both = [("TIELINE_RELAY_SHARDS", "2"), ("TIELINE_SERVICE_HOST", "h")];
    let state = tempfile::tempdir().unwrap();
    let mut status = tieline(&["status", "--state-dir"]);
    let (code, _, err) = run(status.arg(state.path()).envs(both));
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("no agent runs here"), "{err}");
}

#[test]
fn a_variable_with_a_wrong_value_is_named_and_stops_the_start() {
    let state = tempfile::tempdir().unwrap();
    let flags = [
        "serve",
        "--no-config",
        "--once",
        "--relay",
        "tcp://127.0.0.1:1",
    ];
    let flags = [
        &flags[..],
        &["--to", "http://127.0.0.1:1/mcp", "--state-dir"],
    ]
    .concat();
    let serve = |name: &str, value: &str, more: &[&str]| {
        let mut serve = tieline(&flags);
        run(serve.arg(state.path()).args(more).env(name, value))
    };
    for (name, value, word) in [
        ("TIELINE_EXPOSE_ALL", "flase", "not a boolean"),
        ("TIELINE_LINKS", "abc", "invalid digit"),
        ("TIELINE_DRAIN_TIMEOUT", "soon", "soon"),
    ] {
        let (code, _, err) = serve(name, value, &[]);
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains(&format!("the variable {name}")), "{err}");
        assert!(err.contains(value) && err.contains(word), "{err}");
    }
    // A wrong flag is not reported as a variable.
    let (code, _, err) = serve("TIELINE_LINKS", "abc", &["--links", "x"]);
    assert_eq!(code, Some(2));
    assert!(!err.contains("the variable"), "{err}");
    for value in ["false", "true", "1", "no"] {
        let (code, _, err) = serve("TIELINE_EXPOSE_ALL", value, &[]);
        // No relay listens there, so a valid value leads to code 1.
        assert_eq!(code, Some(1), "{value}: {err}");
    }
}

#[test]
fn a_pasted_token_is_never_echoed() {
    let state = tempfile::tempdir().unwrap();
    let token = jwt(600);
    let config = state.path().join("tieline.toml");
    let toml = format!("relay = \"tcp://r:1\"\nto = \"1\"\ntoken_file = \"{token}\"\n");
    fs::write(&config, toml).unwrap();
    let place = ["--relay", "tcp://127.0.0.1:1", "--to", "1"];
    let serve = |args: &[&str]| {
        let mut command = tieline(&["serve"]);
        command.args(args).current_dir(state.path());
        run(command.env("TIELINE_STATE_DIR", state.path()))
    };
    let config = config.to_str().unwrap();
    for (args, is_said) in [
        ([&place[..], &["--token-file", &token]].concat(), true),
        (vec!["--config", config], true),
        ([&place[..], &["--config", &token]].concat(), false),
        ([&place[..], &["--links", &token]].concat(), false),
        (vec![&token], false),
        (vec!["--relay", &token, "--to", "1"], false),
        (vec!["--relay", "tcp://r:1", "--to", &token], false),
    ] {
        let (code, out, err) = serve(&args);
        let all = out + &err;
        assert_eq!(code, Some(2), "{all}");
        assert!(!all.contains("eyJ") && !all.is_empty(), "{all}");
        assert!(!is_said || all.contains("looks like a token"), "{all}");
    }
    let install = ["service", "install", "--dry-run", "--", "--links", &token];
    let (code, out, err) = run(&mut tieline(&install));
    assert_eq!(code, Some(2));
    assert!(!(out + &err).contains("eyJ"), "{err}");
    let (code, out, _) = run(tieline(&["serve", "--help"]).env("TIELINE_TOKEN_FILE", &token));
    assert_eq!(code, Some(0));
    assert!(
        out.contains("--token-file") && !out.contains("eyJ"),
        "{out}"
    );
    let (code, _, err) = run(tieline(&["token", "show"]).env("TIELINE_TOKEN_FILE", &token));
    assert_eq!(code, Some(1));
    assert!(
        !err.contains("eyJ") && err.contains("looks like a token"),
        "{err}"
    );
}

#[test]
fn what_is_logged_into_a_file_has_no_escapes() {
    let state = tempfile::tempdir().unwrap();
    let mut serve = tieline(&[
        "serve",
        "--relay",
        "tcp://127.0.0.1:1",
        "--to",
        "1",
        "--once",
    ]);
    serve
        .env("TIELINE_STATE_DIR", state.path())
        .env("TIELINE_LOG", "debug");
    let (code, out, err) = run(serve.current_dir(state.path()));
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("DEBUG"), "{err}");
    assert!(!(out + &err).contains('\u{1b}'));
}

#[cfg(unix)]
#[test]
fn names_of_others_command_no_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let text = "{\n  \"mcpServers\": {\n    \"a\u{1b}]0;x\u{7}\u{202e}\": {}\n  }\n}\n";
    fs::write(dir.path().join(".mcp.json"), text).unwrap();
    let init = ["init", "--tunnel", "m", "--offline", "--dry-run", "--dir"];
    for flags in [&[][..], &["--json"]] {
        let mut init = tieline(&init);
        init.arg(dir.path()).args(flags).env("CLICOLOR_FORCE", "1");
        let (code, out, err) = run(&mut init);
        assert_eq!(code, Some(0), "{err}");
        assert!(
            !out.contains("\u{1b}]") && !out.contains('\u{202e}'),
            "{out}"
        );
        assert!(out.contains("202e"), "{out}");
    }
}
