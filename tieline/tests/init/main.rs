//! Tests of what `tieline init` does to files: modes, links, other content, and all or nothing.
//! Long because it also tests what the relay is asked.

// Clippy allows `unwrap` in test functions, but not in functions that they call.
#![allow(clippy::unwrap_used)]

#[path = "../program/mod.rs"]
mod program;

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

fn init(dir: &Path, flags: &[&str]) -> Output {
    run(dir, &["--tunnel", "maya-1", "--offline"], flags)
}

fn run(dir: &Path, what: &[&str], flags: &[&str]) -> Output {
    program::tieline()
        .arg("init")
        .args(what)
        .arg("--dir")
        .arg(dir)
        .args(flags)
        .output()
        .unwrap()
}

fn project() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

const URL: &str = "http://localhost:51822/w/maya-1/mcp";

#[test]
fn an_empty_project_gets_a_file_for_claude_code() {
    let dir = project();
    let output = init(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(out(&output).starts_with("created"), "{}", out(&output));
    assert_eq!(
        read(&dir.path().join(".mcp.json")),
        serde_json::json!({ "mcpServers": { "maya-1": { "type": "http", "url": URL } } })
    );
    let again = init(dir.path(), &[]);
    assert!(out(&again).starts_with("unchanged"), "{}", out(&again));
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "no temporary file is left behind"
    );
}

#[test]
fn each_client_gets_its_own_form() {
    let dir = project();
    let output = init(
        dir.path(),
        &[
            "--client",
            "claude-code,cursor,vscode,claude-desktop",
            "--json",
        ],
    );
    let lines: Vec<Value> = out(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let events: Vec<_> = lines
        .iter()
        .map(|line| line["event"].as_str().unwrap())
        .collect();
    assert_eq!(events, ["created", "created", "created", "block"]);
    let desktop = &lines[3]["config"]["mcpServers"]["maya-1"];
    assert_eq!(
        desktop["args"],
        serde_json::json!(["-y", "mcp-remote", URL])
    );
    let cursor = read(&dir.path().join(".cursor/mcp.json"));
    assert_eq!(
        cursor["mcpServers"]["maya-1"],
        serde_json::json!({ "url": URL })
    );
    let vscode = read(&dir.path().join(".vscode/mcp.json"));
    assert_eq!(
        vscode["servers"]["maya-1"],
        serde_json::json!({ "type": "http", "url": URL })
    );
}

#[test]
fn a_dry_run_shows_the_change_and_writes_nothing() {
    let dir = project();
    let path = dir.path().join(".mcp.json");
    let text = "{\n  // mine\n  \"mcpServers\": {}\n}\n";
    fs::write(&path, text).unwrap();
    let output = init(dir.path(), &["--dry-run"]);
    let diff = out(&output);
    assert!(diff.contains("\n-  \"mcpServers\": {}\n"), "{diff}");
    assert!(diff.contains("\n+    \"maya-1\": {\n"), "{diff}");
    assert!(diff.contains("\n   // mine\n"), "{diff}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn an_entry_that_differs_stays_until_it_is_forced() {
    let dir = project();
    let path = dir.path().join(".mcp.json");
    let text = "{\"mcpServers\": {\"maya-1\": {\"command\": \"maya\"}}}\n";
    fs::write(&path, text).unwrap();
    let output = init(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("--force"), "{}", err(&output));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    let output = init(dir.path(), &["--force"]);
    assert!(out(&output).starts_with("replaced"), "{}", out(&output));
    assert_eq!(read(&path)["mcpServers"]["maya-1"]["url"], URL);
}

#[test]
fn one_file_that_cannot_be_read_leaves_all_as_they_are() {
    let dir = project();
    fs::create_dir(dir.path().join(".vscode")).unwrap();
    let broken = dir.path().join(".vscode/mcp.json");
    fs::write(&broken, "{\n  \"servers\": oops\n}\n").unwrap();
    let output = init(dir.path(), &["--client", "claude-code,vscode"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("line 2, column 14"),
        "{}",
        err(&output)
    );
    assert!(!dir.path().join(".mcp.json").exists());
    fs::write(&broken, [0xff, 0xfe]).unwrap();
    let output = init(dir.path(), &["--client", "vscode"]);
    assert!(err(&output).contains("UTF-8"), "{}", err(&output));
}

#[test]
fn a_wrong_flag_is_code_2() {
    let dir = project();
    let output = init(dir.path(), &["--name", "a b"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(err(&output).lines().count(), 1);
}

#[cfg(unix)]
#[test]
fn a_link_stays_a_link_and_a_mode_stays_a_mode() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let dir = project();
    let real = dir.path().join("dotfiles.json");
    fs::write(&real, "{}\n").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    let link = dir.path().join(".mcp.json");
    symlink("dotfiles.json", &link).unwrap();
    let output = init(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(link.is_symlink());
    assert_eq!(read(&real)["mcpServers"]["maya-1"]["url"], URL);
    assert_eq!(
        fs::metadata(&real).unwrap().permissions().mode() & 0o777,
        0o640
    );

    fs::remove_file(&real).unwrap();
    let output = init(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("link to nothing"), "{}", err(&output));
}

#[cfg(unix)]
#[test]
fn a_folder_that_takes_no_file_is_told_and_the_old_text_stays() {
    let dir = project();
    // A folder in the file's place stops every user, root included.
    fs::create_dir(dir.path().join(".mcp.json")).unwrap();
    let output = init(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains(".mcp.json"), "{}", err(&output));
}

#[cfg(unix)]
#[test]
fn a_link_out_of_the_project_is_shown_and_followed_only_when_told() {
    use std::os::unix::fs::symlink;

    let (dir, elsewhere) = (project(), project());
    let real = elsewhere.path().join("shared.json");
    fs::write(&real, "{}\n").unwrap();
    symlink(&real, dir.path().join(".mcp.json")).unwrap();
    // A linked folder leads out of the project as well, even if the file does not exist yet.
    symlink(elsewhere.path(), dir.path().join(".cursor")).unwrap();
    for client in ["claude-code", "cursor"] {
        let output = init(dir.path(), &["--client", client]);
        assert_eq!(output.status.code(), Some(1), "{client}");
        let stderr = err(&output);
        let shown = fs::canonicalize(elsewhere.path()).unwrap();
        assert!(stderr.contains(shown.to_str().unwrap()), "{stderr}");
        assert!(stderr.contains("--force"), "{stderr}");
    }
    assert_eq!(fs::read_to_string(&real).unwrap(), "{}\n");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    let output = init(dir.path(), &["--client", "claude-code,cursor", "--force"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(dir.path().join(".mcp.json").is_symlink());
    assert_eq!(read(&real)["mcpServers"]["maya-1"]["url"], URL);
    assert!(elsewhere.path().join("mcp.json").exists());
}

#[cfg(unix)]
#[test]
fn only_regular_files_are_read_and_nothing_is_waited_for() {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    let dir = project();
    let place = dir.path().join(".mcp.json");
    let pipe = || {
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&place)
                .status()
                .unwrap()
                .success()
        )
    };
    let socket = || drop(UnixListener::bind(&place).unwrap());
    let device = || symlink("/dev/null", &place).unwrap();
    for make in [&pipe as &dyn Fn(), &socket, &device] {
        make();
        let output = init(dir.path(), &["--force"]);
        assert_eq!(output.status.code(), Some(1));
        let stderr = err(&output);
        assert!(stderr.contains("not a regular file"), "{stderr}");
        fs::remove_file(&place).unwrap();
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[cfg(unix)]
#[test]
fn a_file_with_two_names_is_parted_only_when_told() {
    let dir = project();
    let (one, other) = (dir.path().join(".mcp.json"), dir.path().join("kept.json"));
    fs::write(&one, "{}\n").unwrap();
    fs::hard_link(&one, &other).unwrap();
    let output = init(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("hard links"), "{}", err(&output));
    let output = init(dir.path(), &["--force"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(fs::read_to_string(&other).unwrap(), "{}\n");
}

const RAW_AND_SSE: &str = r#"{"tunnels":[
    {"tunnel_id":"raw","dcc":"","capabilities":[],"online":true,"path":"/w/raw","target_scheme":"tcp"},
    {"tunnel_id":"old","dcc":"","capabilities":[],"online":true,"path":"/w/old/sse","target_scheme":"http"}
    ],"next":null}"#;

#[test]
fn what_the_relay_knows_of_a_tunnel_is_written() {
    let dir = project();
    let relay = relay(RAW_AND_SSE);
    let flags = ["--tunnel", "old", "--relay", &relay];
    let output = run(dir.path(), &flags, &["--client", "claude-code,vscode"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let entry = serde_json::json!({ "type": "sse", "url": format!("{relay}/w/old/sse") });
    assert_eq!(
        read(&dir.path().join(".mcp.json"))["mcpServers"]["old"],
        entry
    );
    assert_eq!(
        read(&dir.path().join(".vscode/mcp.json"))["servers"]["old"],
        entry
    );
}

#[test]
fn a_tunnel_of_raw_tcp_is_not_written_and_the_way_to_it_is_told() {
    let dir = project();
    let relay = relay(RAW_AND_SSE);
    let by_url = format!("{relay}/w/raw/mcp");
    for what in [
        &["--tunnel", "raw", "--relay", &relay][..],
        &["--url", &by_url],
    ] {
        let output = run(dir.path(), what, &[]);
        assert_eq!(output.status.code(), Some(1), "{}", err(&output));
        let stderr = err(&output);
        for word in [
            "raw TCP",
            "9002",
            "docs/OPERATIONS.md",
            "--to http://",
            "--force",
        ] {
            assert!(stderr.contains(word), "{stderr}");
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let by_url = ["--url", by_url.as_str()];
    let output = run(dir.path(), &by_url, &["--force"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(
        err(&output).contains("only if its target speaks HTTP"),
        "{}",
        err(&output)
    );
    let document = include_str!("../../../docs/OPERATIONS.md");
    assert!(
        document.contains("\n## Callers\n"),
        "the section that the message names exists"
    );
}

#[test]
fn without_a_tunnel_it_tells_how_to_choose_one() {
    let dir = project();
    let relay = relay(RAW_AND_SSE);
    let output = run(dir.path(), &["--relay", &relay], &[]);
    assert_eq!(output.status.code(), Some(2));
    let stderr = err(&output);
    for word in [
        "--tunnel NAME",
        "--url URL",
        &format!("{relay} lists raw, old"),
    ] {
        assert!(stderr.contains(word), "{stderr}");
    }
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let stderr = err(&run(dir.path(), &["--relay", &closed], &[]));
    for word in ["--tunnel NAME", "tieline list --relay", &closed] {
        assert!(stderr.contains(word), "{stderr}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Starts a relay that answers each request with the list of tunnels `rows`; returns its URL.
fn relay(rows: &'static str) -> String {
    answering(rows, false)
}

/// Starts a relay that gives the list only to callers with a token; returns its URL.
fn guarded(rows: &'static str) -> String {
    answering(rows, true)
}

fn answering(rows: &'static str, wants_token: bool) -> String {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut request = [0; 1024];
            let len = stream.read(&mut request).unwrap_or_default();
            let request = String::from_utf8_lossy(&request[..len]).to_ascii_lowercase();
            let (status, body) = match wants_token && !request.contains("authorization: bearer") {
                true => (
                    "401 U",
                    r#"{"error":"unauthorized","message":"this relay wants a token"}"#,
                ),
                false => ("200 OK", rows),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all((head + body).as_bytes());
        }
    });
    format!("http://{address}")
}

#[test]
fn a_tunnel_that_the_relay_does_not_know_is_not_written_unless_told() {
    let dir = project();
    let relay = relay(
        r#"{"tunnels":[{"tunnel_id":"maya-1","dcc":"","capabilities":[],"online":false,
            "path":"/w/maya-1/mcp","target_scheme":"http"}],"next":null}"#,
    );
    let with =
        |tunnel, flags: &[&str]| run(dir.path(), &["--tunnel", tunnel, "--relay", &relay], flags);
    let output = with("nuke-7", &[]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = err(&output);
    for word in ["nuke-7", "maya-1", &relay, "--force"] {
        assert!(stderr.contains(word), "{stderr}");
    }
    assert!(!dir.path().join(".mcp.json").exists());
    let by_url = format!("{relay}/w/nuke-7/mcp");
    let output = run(dir.path(), &["--url", &by_url], &[]);
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    assert_eq!(with("maya-1", &[]).status.code(), Some(0));
    assert_eq!(with("nuke-7", &["--offline"]).status.code(), Some(0));
    assert_eq!(with("nuke-8", &["--force"]).status.code(), Some(0));
}

#[test]
fn a_relay_out_of_reach_is_told_and_does_not_stop_anything() {
    let dir = project();
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let relay = format!("http://{closed}");
    let output = run(dir.path(), &["--tunnel", "maya-1", "--relay", &relay], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let stderr = err(&output);
    assert!(
        stderr.contains("not checked") && stderr.contains(&relay),
        "{stderr}"
    );
    assert!(dir.path().join(".mcp.json").exists());

    // Without --relay, the program that is missing is tieline connect.
    let by_connect = ["--tunnel", "maya-1", "--connect", &relay];
    let stderr = err(&run(dir.path(), &by_connect, &[]));
    assert!(
        stderr.contains("start tieline connect") && !stderr.contains("is the relay up"),
        "{stderr}"
    );
}

/// --connect takes the URL that `tieline connect` prints.
#[test]
fn the_url_of_connect_leads_to_it() {
    let dir = project();
    let connect = relay(RAW_AND_SSE);
    let output = run(dir.path(), &["--tunnel", "old", "--connect", &connect], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let url = &read(&dir.path().join(".mcp.json"))["mcpServers"]["old"]["url"];
    assert!(url.as_str().unwrap().starts_with(&connect), "{url}");
}

/// A token file typed beside --url is used to ask that relay; a token file of the variable is not.
#[test]
fn the_token_beside_a_url_asks_its_relay() {
    let dir = project();
    let token = dir.path().join("token");
    fs::write(&token, "my-secret").unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let token = token.to_str().unwrap();
    let url = format!("{}/w/raw/mcp", guarded(RAW_AND_SSE));
    let output = run(dir.path(), &["--url", &url, "--token-file", token], &[]);
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    assert!(err(&output).contains("raw TCP"), "{}", err(&output));

    let mut command = program::tieline();
    command
        .args(["init", "--url", &url, "--dir"])
        .arg(dir.path());
    let output = command.env("TIELINE_TOKEN_FILE", token).output().unwrap();
    assert!(err(&output).contains("not checked"), "{}", err(&output));
}

#[test]
fn a_variable_that_names_an_unusable_proxy_is_wrong_usage() {
    let dir = project();
    for value in ["socks://proxy.test", "http://ada:a/b@proxy.test"] {
        let mut command = program::tieline();
        for name in ["HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        let relay = ["--tunnel", "maya-1", "--relay", "http://relay.invalid:9080"];
        command.arg("init").args(relay).arg("--dir").arg(dir.path());
        let output = command.env("all_proxy", value).output().unwrap();
        let stderr = err(&output);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("all_proxy"), "{stderr}");
        assert!(!stderr.contains("ALL_PROXY"), "{stderr}");
        assert!(!dir.path().join(".mcp.json").exists());
    }
}
