//! Tests of `tieline service` on Linux, with a `systemctl` that records its calls.

#![cfg(target_os = "linux")]
// Clippy allows `unwrap` in test functions, but not in functions that they call.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

const SERVE: [&str; 5] = ["--", "--relay", "tcp://r:1", "--to", "127.0.0.1:1"];

/// A user's home folder, with a `systemctl` in it that runs the given shell command.
struct Home {
    dir: TempDir,
}

impl Home {
    fn new(systemctl: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("systemctl");
        let log = dir.path().join("log");
        let script = format!(
            "#!/bin/sh\necho \"$*\" >> '{}'\n{systemctl}\n",
            log.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn unit(&self) -> PathBuf {
        self.dir.path().join(".config/systemd/user/tieline.service")
    }

    fn run(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let path = format!("{}:/usr/bin:/bin", self.dir.path().display());
        let Output {
            status,
            stdout,
            stderr,
        } = Command::new(env!("CARGO_BIN_EXE_tieline"))
            .arg("service")
            .args(args)
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.dir.path())
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code(), text(stdout), text(stderr))
    }

    fn called(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn a_service_is_installed_shown_and_removed() {
    let home = Home::new("echo active");
    let (code, out, err) = home.run(&[&["install"], &SERVE[..]].concat());
    assert_eq!(code, Some(0), "{err}");
    assert!(out.starts_with("written "), "{out}");
    let unit = fs::read_to_string(home.unit()).unwrap();
    let exec = unit
        .lines()
        .find(|line| line.starts_with("ExecStart="))
        .unwrap();
    assert!(
        exec.contains("tieline\" \"serve\" \"--stand-by\" \"--relay\" \"tcp://r:1\""),
        "{exec}"
    );
    assert_eq!(
        home.called(),
        [
            "--user daemon-reload",
            "--user enable tieline.service",
            "--user restart tieline.service"
        ]
    );
    let (code, out, _) = home.run(&["status"]);
    assert_eq!(code, Some(0));
    assert!(out.starts_with("active "), "{out}");
    let (_, out, _) = home.run(&[&["install", "--json"], &SERVE[..]].concat());
    assert!(out.starts_with("{\"event\":\"replaced\""), "{out}");
    let (code, _, err) = home.run(&["uninstall"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(!home.unit().exists());
    let (code, out, _) = home.run(&["status"]);
    assert_eq!(code, Some(1));
    assert!(out.starts_with("not installed"), "{out}");
    let (code, _, err) = home.run(&["uninstall"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("not installed"), "{err}");
}

#[test]
fn a_dry_run_shows_all_and_does_nothing() {
    let home = Home::new("exit 1");
    let (code, out, err) = home.run(&[&["install", "--dry-run"], &SERVE[..]].concat());
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(
        out.contains("\nExecStart=") && out.contains("# then: systemctl"),
        "{out}"
    );
    assert!(!home.unit().exists());
    assert!(home.called().is_empty());
}

#[test]
fn flags_that_serve_would_refuse_are_refused_before_anything_is_written() {
    let home = Home::new("exit 0");
    for args in [
        &["install", "--", "--relay", "tcp://r:1", "--no-such-flag"][..],
        &["install"],
        &["install", "--", "--relay", "tcp://r:1", "--to", "no-port"],
        &[
            "install",
            "--name",
            "../x",
            "--",
            "--relay",
            "tcp://r:1",
            "--to",
            "h:1",
        ],
    ] {
        let (code, _, err) = home.run(args);
        assert_eq!(code, Some(2), "{args:?}: {err}");
    }
    assert!(!home.dir.path().join(".config").exists());
}

#[test]
fn settings_may_come_from_the_folders_file() {
    let home = Home::new("exit 0");
    let text = "relay = \"tcp://r:1\"\nto = \"127.0.0.1:1\"\n";
    fs::write(home.dir.path().join("tieline.toml"), text).unwrap();
    let (code, _, err) = home.run(&["install"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("tieline.toml"), "{err}");
    let unit = fs::read_to_string(home.unit()).unwrap();
    assert!(
        unit.contains("tieline\" \"serve\" \"--stand-by\"\n"),
        "{unit}"
    );
    let folder = format!("\nWorkingDirectory={}\n", home.dir.path().display());
    assert!(unit.contains(&folder), "{unit}");
}

#[test]
fn a_unit_of_somebody_else_is_left_alone() {
    let home = Home::new("exit 0");
    fs::create_dir_all(home.unit().parent().unwrap()).unwrap();
    fs::write(home.unit(), "[Unit]\n").unwrap();
    for args in [&[&["install"], &SERVE[..]].concat()[..], &["uninstall"]] {
        let (code, _, err) = home.run(args);
        assert_eq!(code, Some(1));
        assert!(err.contains("--name"), "{err}");
    }
    assert_eq!(fs::read_to_string(home.unit()).unwrap(), "[Unit]\n");
    assert!(home.called().is_empty());
}

#[test]
fn what_systemd_refuses_is_told_in_its_words() {
    let home = Home::new("echo 'Failed to connect to bus' >&2; exit 1");
    let (code, _, err) = home.run(&[&["install"], &SERVE[..]].concat());
    assert_eq!(code, Some(1));
    assert!(err.contains("Failed to connect to bus"), "{err}");
    assert!(
        home.unit().exists(),
        "the unit file stays, so that it can be started later"
    );
}

#[test]
fn a_folder_or_user_that_would_add_lines_to_the_unit_is_refused() {
    let home = Home::new("exit 0");
    let folder = home.dir.path().join("x\nExecStartPre=+/bin/true");
    fs::create_dir_all(&folder).unwrap();
    let program = env!("CARGO_BIN_EXE_tieline");
    let run = |folder: &std::path::Path, user: &[&str], variable: &str| {
        let output = Command::new(program)
            .args(["service", "install", "--dry-run", "--system"])
            .args(user)
            .args(SERVE)
            .env_clear()
            .env("HOME", home.dir.path())
            .env("SUDO_USER", variable)
            .current_dir(folder)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let evil = "root\nExecStartPre=+/bin/true";
    let plain = home.dir.path();
    for (folder, user, variable) in [
        (&*folder, &[][..], "nobody"),
        (plain, &["--user", evil][..], "nobody"),
        (plain, &[][..], evil),
    ] {
        let (code, out) = run(folder, user, variable);
        assert_eq!(code, Some(2), "{out}");
        assert!(!out.contains("ExecStartPre"), "{out}");
    }
    let (code, out) = run(plain, &[], "nobody");
    assert_eq!(code, Some(0));
    assert!(out.contains("\nUser=nobody\n"), "{out}");
}

#[test]
fn a_user_that_the_machine_lacks_is_refused_before_anything_is_written() {
    let home = Home::new("exit 0");
    let user = ["--system", "--dry-run", "--user", "no-such-user-here"];
    let (code, out, err) = home.run(&[&["install"], &user[..], &SERVE[..]].concat());
    assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
    assert!(
        err.contains("no-such-user-here") && err.contains("--user"),
        "{err}"
    );
    assert!(home.called().is_empty());
}

/// Checks the units with `systemd-analyze`, if it is installed.
#[test]
fn systemd_calls_a_units_exposure_ok() {
    let home = Home::new("exit 0");
    for (args, level_max) in [(&["--system"][..], 5.0), (&[], 7.0)] {
        let dry = [&["install", "--dry-run", "--json"], args, &SERVE[..]].concat();
        let (code, out, err) = home.run(&dry);
        assert_eq!(code, Some(0), "{err}");
        let line: serde_json::Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
        let unit = home.dir.path().join("tieline.service");
        fs::write(&unit, line["content"].as_str().unwrap()).unwrap();
        let asked = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(&unit)
            .output();
        let Ok(answer) = asked else {
            eprintln!("systemd-analyze is not installed: units not checked");
            return;
        };
        let text = String::from_utf8(answer.stdout).unwrap();
        let Some((_, rest)) = text.rsplit_once("tieline.service: ") else {
            eprintln!("this systemd-analyze cannot check a unit file: units not checked");
            return;
        };
        let level: f64 = rest.split(' ').next().unwrap().parse().unwrap();
        assert!(level < level_max, "{args:?}: {level}\n{text}");
    }
}

#[test]
fn without_a_manager_of_the_user_the_remedy_is_told() {
    let bus = "echo 'Failed to connect to bus: No medium found' >&2; exit 1";
    let home = Home::new(bus);
    let (code, _, err) = home.run(&[&["install"], &SERVE[..]].concat());
    assert_eq!(code, Some(1), "{err}");
    for word in ["loginctl enable-linger", "XDG_RUNTIME_DIR", "uninstall"] {
        assert!(err.contains(word), "{err}");
    }
    let (_, out, _) = home.run(&["status"]);
    assert!(
        out.starts_with("unknown (Failed to connect to bus") && out.contains("enable-linger"),
        "{out}"
    );
}
