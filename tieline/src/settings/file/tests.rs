use tieline_agent::{StdioOptions, StdioShare};

use super::*;

fn parse(text: &str) -> Result<ConfigFile, ConfigError> {
    ConfigFile::parse(Path::new("/etc/show/tieline.toml"), text)
}

#[test]
fn every_key_is_read_and_paths_start_at_the_files_folder() {
    let file = parse(
        r#"
        relay = "tcp://relay.studio:9001"
        token_file = "ada.token"
        ca = "studio-ca.pem"
        client_cert = "agent.pem"
        client_key = "agent.key"
        links = 2
        drain_timeout = "90s"
        machine = "seat-12"
        state_dir = "/var/lib/tieline"
        capabilities = ["gpu"]
        dcc = "maya"

        [[target]]
        to = "http://127.0.0.1:8765/mcp"
        name = "maya"

        [[target]]
        to = "http://127.0.0.1:8188"
        dcc = "comfy"
        label = "images"
        capabilities = ["images", "gpu"]
        expose_all = true
        "#,
    )
    .unwrap();
    assert_eq!(file.relay.as_deref(), Some("tcp://relay.studio:9001"));
    let path = |path: &Option<PathBuf>| path.as_ref().unwrap().display().to_string();
    assert_eq!(path(&file.token_file), "/etc/show/ada.token");
    assert_eq!(path(&file.ca), "/etc/show/studio-ca.pem");
    assert_eq!(path(&file.client_cert), "/etc/show/agent.pem");
    assert_eq!(path(&file.client_key), "/etc/show/agent.key");
    assert_eq!(path(&file.state_dir), "/var/lib/tieline");
    assert_eq!(file.drain_timeout, Some(Duration::from_secs(90)));
    assert_eq!(
        (file.links, file.machine.as_deref()),
        (Some(2), Some("seat-12"))
    );
    let [maya, comfy] = &file.targets[..] else {
        panic!("two targets: {file:?}");
    };
    assert_eq!(maya.target.name.as_ref().unwrap().as_str(), "maya");
    assert_eq!((&maya.dcc, maya.target.expose_all), (&None, false));
    assert_eq!(comfy.target.label.as_deref(), Some("images"));
    assert_eq!(comfy.dcc.as_deref(), Some("comfy"));
    assert!(comfy.target.expose_all);
    assert_eq!(comfy.capabilities.as_ref().unwrap().len(), 2);
    let single = parse("to = '127.0.0.1:1'\nname = 'maya'").unwrap();
    assert_eq!(single.targets.len(), 1);
    assert!(parse("").unwrap().targets.is_empty());
}

#[test]
fn the_documents_examples_are_files() {
    let document = include_str!("../../../../docs/SERVE.md");
    let mut examples = document.split("```toml\n").skip(1);
    let mut next = || parse(examples.next().unwrap().split("```").next().unwrap()).unwrap();
    let (whole, programs) = (next(), next());
    assert_eq!(whole.targets.len(), 2);
    assert!(whole.relay.is_some() && whole.dcc.is_some() && whole.machine.is_some());
    let mut programs = programs.targets.iter();
    assert!(programs.all(|it| it.target.target.is_stdio()));
}

#[test]
fn a_program_has_its_keys_and_its_folder_starts_at_the_files() {
    let file = parse(
        r#"
        [[target]]
        command = ["npx", "-y", "a b", "$HOME"]
        env = { KEY = "hunter2", OTHER = "" }
        inherit = ["TIELINE_TEST_ABSENT"]
        cwd = "server"
        stdio_share = "always"
        stdio_max = 4
        stdio_idle = "1h"

        [[target]]
        to = "stdio:uvx blender-mcp"
        name = "blender"
        [target.env]
        KEY = "hunter3"
        "#,
    )
    .unwrap();
    let [npx, uvx] = &file.targets[..] else {
        panic!("two targets: {file:?}");
    };
    let shown = npx.target.target.to_string();
    assert_eq!(shown, "stdio:npx -y 'a b' '$HOME'");
    let stdio = &npx.target.stdio;
    let folder = Path::new("/etc/show/server");
    assert_eq!(stdio.directory.as_deref(), Some(folder));
    assert_eq!(stdio.share, Some(StdioShare::Always));
    assert_eq!(
        (stdio.children_max, stdio.idle),
        (4, Duration::from_secs(3600))
    );
    assert_eq!(stdio.unset_variables(), ["TIELINE_TEST_ABSENT"]);
    assert_eq!(uvx.target.target.to_string(), "stdio:uvx blender-mcp");
    assert_eq!(uvx.target.name.as_ref().unwrap().as_str(), "blender");
    assert_ne!(uvx.target.stdio, StdioOptions::default());
    assert!(!format!("{file:?}").contains("hunter"), "{file:?}");
    assert_eq!(parse("to = 'stdio:server'").unwrap().targets.len(), 1);
}

#[test]
fn what_is_wrong_is_one_line_with_file_line_and_key() {
    for (text, line, word) in [
        ("relai = 'x'", 1, "did you mean `relay`?"),
        ("dcc = 'maya'\nrelay = 'gopher://r'", 2, "quic://"),
        ("relay = 'r:1'", 1, "scheme"),
        ("links = 0", 1, "links"),
        (
            "\n\nlinks = 'two'",
            3,
            "`links` must be a number without quotes",
        ),
        ("links = 100000", 1, "1 to 64, and it is 100000"),
        ("links = 99999999999999999999", 1, "`links`"),
        ("links = -1", 1, "1 to 64, and it is -1"),
        ("links = 1.5", 1, "and it is the number 1.5"),
        (
            "relay = 5",
            1,
            "`relay` must be text in quotes, as in relay = \"…\", and it is the number 5",
        ),
        ("\ntoken_file = true", 2, "`token_file` must be text"),
        ("dcc = ['maya']", 1, "and it is a list"),
        (
            "capabilities = 'gpu'",
            1,
            "`capabilities` must be a list of texts",
        ),
        (
            "capabilities = [\n'gpu', 5]",
            2,
            "and one entry is the number 5",
        ),
        ("machine = 2020-01-01", 1, "and it is the time 2020-01-01"),
        ("[[target]]\nto = 8765", 2, "`to` must be text in quotes"),
        (
            "[[target]]\nto = 'h:2'\nexpose_all = 'yes'",
            3,
            "`expose_all` must be true or false",
        ),
        ("target = ['h:1']", 1, "[[target]]"),
        (
            "frobnicate = 1",
            1,
            "the settings here are relay, token_file",
        ),
        ("dcc = maya", 1, "this is not TOML: text needs quotes"),
        (
            "links = 1\nrelay = tcp://x:1",
            2,
            "text needs quotes, as in relay = \"…\"",
        ),
        ("token_file = ~/t", 1, "text needs quotes"),
        ("dcc = 'a' 'b'", 1, "this is not TOML"),
        (
            "to = 'h:1'\nexpose_all = true",
            2,
            "`expose_all` belongs into [[target]]",
        ),
        (
            "label = 'x'\n[[target]]\nto = 'h:1'",
            1,
            "`label` belongs into [[target]]",
        ),
        ("drain_timeout = '30'", 1, "30s"),
        ("to = '127.0.0.1'", 1, "port"),
        ("to = 'h:1'\nname = 'a b'", 2, "name"),
        ("name = 'maya'", 1, "`to`"),
        ("to = 'h:1'\n[[target]]\nto = 'h:2'", 1, "[[target]]"),
        ("name = 'x'\n[[target]]\nto = 'h:2'", 1, "[[target]]"),
        ("[[target]]\nname = 'x'", 1, "`to`"),
        (
            "[[target]]\nto = 'h:2'\nnam = 'x'",
            3,
            "did you mean `name`?",
        ),
        ("[[target]]\nto = 'h:2'\nexpose_all = true", 2, "no paths"),
        ("[target]\nto = 'h:2'", 1, "written as [[target]]"),
        ("[[target]]\nto = 'stdio:'", 2, "the command is missing"),
        ("[[target]]\ncommand = []", 2, "the command is missing"),
        (
            "[[target]]\ncommand = 'npx -y x'",
            2,
            "`command` must be a list",
        ),
        (
            "[[target]]\nto = 'h:2'\ncommand = ['x']",
            3,
            "two targets: write a [[target]] for each",
        ),
        (
            "[[target]]\nto = 'h:2'\ncwd = 'x'",
            2,
            "is a server at an address",
        ),
        (
            "[[target]]\ncommand = ['x']\nenv = 'A=secret'",
            3,
            "`env` must be names",
        ),
        (
            "[[target]]\ncommand = ['x']\nenv = { A = 5 }",
            3,
            "`A` in `env` must be a text",
        ),
        (
            "[[target]]\ncommand = ['x']\ninherit = ['A=secret']",
            3,
            "has no `=`",
        ),
        (
            "[[target]]\ncommand = ['x']\nstdio_max = 0",
            3,
            "`stdio_max` must be 1 to 1024",
        ),
        (
            "[[target]]\ncommand = ['x']\nstdio_share = 'all'",
            3,
            "never, caller or always",
        ),
        (
            "[[target]]\ncommand = ['x']\nstdio_idle = '5'",
            3,
            "is not a time",
        ),
        (
            "[[target]]\ncommand = ['x']\nexpose_all = true",
            2,
            "single path",
        ),
        ("env = { A = 'x' }", 1, "`env` belongs into [[target]]"),
        ("dcc = \n", 1, ""),
    ] {
        let error = parse(text).unwrap_err().to_string();
        let place = format!("/etc/show/tieline.toml:{line}: ");
        assert!(error.starts_with(&place), "{text:?}: {error}");
        assert!(error.contains(word), "{text:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        for rusty in ["invalid type", "u16", "sequence", "unknown field"] {
            assert!(!error.contains(rusty), "{error}");
        }
    }
}

#[test]
fn the_nearest_file_is_found_and_none_above_home() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let (home, deep) = (root.join("home"), root.join("home/show/shot"));
    fs::create_dir_all(&deep).unwrap();
    fs::write(root.join(FILE_NAME), "").unwrap();
    assert_eq!(ConfigFile::find(&deep, Some(&home)), None);
    assert_eq!(ConfigFile::find(&deep, None), Some(root.join(FILE_NAME)));
    fs::write(home.join(FILE_NAME), "").unwrap();
    assert_eq!(
        ConfigFile::find(&deep, Some(&home)),
        Some(home.join(FILE_NAME))
    );
    fs::create_dir(deep.join(FILE_NAME)).unwrap();
    assert_eq!(
        ConfigFile::find(&deep, Some(&home)),
        Some(home.join(FILE_NAME))
    );
    fs::write(home.join("show").join(FILE_NAME), "").unwrap();
    assert_eq!(
        ConfigFile::find(&deep, Some(&home)),
        Some(home.join("show").join(FILE_NAME))
    );
}

#[cfg(unix)]
#[test]
fn a_found_file_that_others_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    fs::write(&path, "dcc = 'maya'").unwrap();
    for (mode, fine) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let read = ConfigFile::read_found(&path);
        assert_eq!(read.is_ok(), fine, "{mode:o}: {read:?}");
        if let Err(error) = read {
            let text = error.to_string();
            assert!(
                text.contains("chmod go-w") && text.contains("--config"),
                "{text}"
            );
        }
        assert!(
            ConfigFile::read(&path).is_ok(),
            "a file that the user named may be writable by others"
        );
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = ConfigFile::read(Path::new("/nowhere/tieline.toml")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("/nowhere/tieline.toml: cannot read it")
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.toml");
    fs::write(&path, "#".repeat(1024 * 1024 + 1)).unwrap();
    let error = ConfigFile::read(&path).unwrap_err();
    assert!(error.to_string().contains("more than"), "{error}");
}
