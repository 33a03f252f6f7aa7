//! Finds the programs under test, and builds them if their sources have changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};

/// Path of `tieline-relay`, rebuilt if its sources have changed.
pub(super) fn tieline_relay() -> Result<PathBuf> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = PROGRAM.get_or_init(|| {
        find("tieline-relay", "tieline-relay").map_err(|error| format!("{error:#}"))
    });
    found.clone().map_err(anyhow::Error::msg)
}

/// Folder with up-to-date builds of `tieline-relay` and `tieline`.
///
/// # Errors
/// A program cannot be built.
pub fn programs() -> Result<PathBuf> {
    find("tieline", "tieline")?;
    let relay = tieline_relay()?;
    Ok(relay.parent().context("no folder")?.to_owned())
}

/// Path of `tieline-loadgen`, rebuilt if its sources have changed.
///
/// # Errors
/// It cannot be built.
pub fn load_generator() -> Result<PathBuf> {
    find("tieline-loadgen", "tieline-loadgen")
}

/// Path of the binary `name` of `package`, built if necessary: `cargo test --workspace` builds the
/// binaries too, but a narrower cargo command may not.
fn find(package: &str, name: &str) -> Result<PathBuf> {
    let tests = std::env::current_exe()?;
    let profile = tests.parent().and_then(Path::parent).context("no target")?;
    let program = profile.join(name);
    if is_fresh(&program) {
        return Ok(program);
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--package", package, "--bin", name]);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let output = build.output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!(
            "cannot build {name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    ensure!(
        program.exists(),
        "cargo did not build {}",
        program.display()
    );
    Ok(program)
}

/// Whether the program is newer than every source in cargo's dep-info file.
fn is_fresh(program: &Path) -> bool {
    let changed = |path: &Path| -> Option<SystemTime> { fs::metadata(path).ok()?.modified().ok() };
    let Ok(sources) = fs::read_to_string(program.with_extension("d")) else {
        return false;
    };
    let Some((_, sources)) = sources.split_once(": ") else {
        return false;
    };
    let built = changed(program);
    // A path with a space is split here and not found; then the program counts as outdated.
    sources
        .split_whitespace()
        .all(|source| changed(Path::new(source)).is_some_and(|it| Some(it) <= built))
}
