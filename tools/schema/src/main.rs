//! Writes `wire/src/generated.rs` from `wire/schema/wire.fbs`, or only compares them with `--check`.
//!
//! The output is flatc's, with a head added, in the format of the workspace's rustfmt settings. Exit
//! codes: 0 written or current, 1 failed or out of date, 2 wrong usage.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};

const SCHEMA: &str = "wire/schema/wire.fbs";
const OUTPUT: &str = "wire/src/generated.rs";

/// Head of the output. It allows all lints: flatc's output is not edited, and its `unsafe` code is sound only
/// after the verifier, which `wire/src/message/` always runs first.
const HEAD: &str = "\
//! FlatBuffers code for `schema/wire.fbs`. Written by `just schema`; edits here are lost.

#![allow(
    clippy::all,
    clippy::cast_possible_truncation,
    clippy::manual_let_else,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::use_self,
    dead_code,
    elided_lifetimes_in_paths,
    explicit_outlives_requirements,
    mismatched_lifetime_syntaxes,
    missing_docs,
    non_camel_case_types,
    unreachable_pub,
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    unused_extern_crates,
    unused_imports,
    unused_lifetimes,
    unused_qualifications
)]

";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let check = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--check"] => true,
        _ => {
            eprintln!("usage: tieline-schema [--check]");
            return ExitCode::from(2);
        }
    };
    match run(check) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("schema: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(check: bool) -> Result<String> {
    // Two levels above this package, independent of the current folder.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .context("tools/schema is not inside the repository")?;
    let output = root.join(OUTPUT);
    let wanted = generate(root)?;
    if check {
        let found = fs::read_to_string(&output).with_context(|| format!("cannot read {OUTPUT}"))?;
        if let Some(line) = first_difference(&wanted, &found) {
            bail!("{OUTPUT}:{line} differs from what {SCHEMA} gives; run `just schema`");
        }
        return Ok(format!("{OUTPUT} is current"));
    }
    fs::write(&output, wanted).with_context(|| format!("cannot write {OUTPUT}"))?;
    Ok(format!("wrote {OUTPUT}"))
}

fn generate(root: &Path) -> Result<String> {
    let folder = Scratch::new()?;
    let status = Command::new(flatc_fork::flatc())
        .arg("--rust")
        .arg("-o")
        .arg(&folder.0)
        .arg(root.join(SCHEMA))
        .status()
        .context("cannot start flatc")?;
    ensure!(status.success(), "flatc did not accept {SCHEMA}");
    let body = fs::read_to_string(folder.0.join("wire_generated.rs"))
        .context("flatc wrote no wire_generated.rs")?;
    format(root, &format!("{HEAD}{body}"))
}

/// Formats the output, because `cargo fmt --check` reads the checked-in file, too.
fn format(root: &Path, source: &str) -> Result<String> {
    let mut rustfmt = Command::new("rustfmt")
        .args(["--edition", "2024", "--config-path"])
        .arg(root.join("rustfmt.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start rustfmt (rustup component add rustfmt)")?;
    // rustfmt reads all input before it writes, so this write cannot block on a full pipe.
    let mut input = rustfmt
        .stdin
        .take()
        .context("rustfmt has no standard input")?;
    input
        .write_all(source.as_bytes())
        .context("cannot write to rustfmt")?;
    drop(input);
    let result = rustfmt
        .wait_with_output()
        .context("cannot read from rustfmt")?;
    ensure!(result.status.success(), "rustfmt failed on flatc's output");
    String::from_utf8(result.stdout).context("rustfmt wrote something that is not text")
}

/// Number of the first line that differs, counted from 1.
fn first_difference(wanted: &str, found: &str) -> Option<usize> {
    if wanted == found {
        return None;
    }
    let same = wanted
        .lines()
        .zip(found.lines())
        .take_while(|(a, b)| a == b)
        .count();
    Some(same + 1)
}

/// A temporary folder that is removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("tieline-schema-{}", std::process::id()));
        fs::create_dir_all(&path)
            .with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Failure is ignored: a folder left in the temporary folder does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::first_difference;

    #[test]
    fn the_first_different_line_is_named() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), Some(2));
        assert_eq!(first_difference("a\nb\n", "a\n"), Some(2));
    }
}
