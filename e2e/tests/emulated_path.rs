//! Relay and agent on an emulated path, as the programs that users run: windows over real sockets, which transport an
//! agent ends up with, what a lossy or narrow path does to QUIC, and links on a path that changes or is blocked.
//!
//! `tieline-loadgen path` runs this program at both ends: relay and callers near, agent and target far, and between them
//! the path. The far end follows orders of the near one. Without root, TUN devices, `ip` or `nft` the tests are reported
//! as ignored; with `TIELINE_INTEROP=require` in the environment they fail instead. They measure times, so they run with
//! that variable only (`just emulated`).

#[path = "emulated_path/far.rs"]
mod far;
#[path = "emulated_path/moves.rs"]
mod moves;
#[path = "emulated_path/mtu.rs"]
mod mtu;
#[path = "emulated_path/near.rs"]
mod near;
#[path = "emulated_path/transports.rs"]
mod transports;
#[path = "emulated_path/windows.rs"]
mod windows;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Result;
use libtest_mimic::Arguments;
use tempfile::TempDir;
use tieline_e2e::behaviour::{TestCertificate, load_generator, programs};
use tieline_e2e::process::Process;
use tieline_e2e::trials::{self, Test};

/// Time limit of one test, and of the path within it.
const TEST_LIMIT: Duration = Duration::from_secs(150);
const PATH_LIMIT: Duration = Duration::from_secs(120);

/// Addresses of the near end, which the certificate names: without and with `--v6`.
const NEAR: &str = "10.77.0.1";
const NEAR_V6: &str = "fd77::1";

/// Kernel settings of both ends: buffers for a round trip of 300 ms, which hosts on such paths have as well.
const SYSCTLS: [&str; 2] = [
    "net.ipv4.tcp_rmem=4096 131072 67108864",
    "net.ipv4.tcp_wmem=4096 16384 67108864",
];

/// Programs that the tests need, with the Debian package of each.
const TOOLS: [(&str, &str); 2] = [("ip", "iproute2"), ("nft", "nftables")];

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["as", "far"] => return far::run().map(|()| ExitCode::SUCCESS),
        ["as", "near", ref check @ ..] => return near::run(check).map(|()| ExitCode::SUCCESS),
        _ => {}
    }
    let mut arguments = Arguments::from_args();
    // Two paths at a time would take each other's cores.
    arguments.test_threads.get_or_insert(1);
    let facts = [
        windows::facts(),
        transports::facts(),
        mtu::facts(),
        moves::facts(),
    ];
    let tests = facts.into_iter().flatten().map(|fact| {
        let missing = |setup: &Setup| setup.missing.clone();
        let name = fact.name.clone();
        Test::new(name, missing, move |setup: &Setup| fact.check(setup))
    });
    trials::run(
        "emulated path",
        &arguments,
        TEST_LIMIT,
        tests.collect(),
        Setup::prepare,
    )
}

/// What all tests need.
struct Setup {
    loadgen: PathBuf,
    /// Why the tests do not run.
    missing: Option<String>,
}

impl Setup {
    fn prepare() -> Result<Self> {
        if std::env::var_os("TIELINE_INTEROP").is_none_or(|value| value != "require") {
            return Ok(Self {
                loadgen: PathBuf::new(),
                missing: Some("measures times (just emulated)".to_owned()),
            });
        }
        // Built here, because the ends may have no network.
        programs()?;
        let loadgen = load_generator()?;
        let output = Command::new(&loadgen)
            .args(["path", "--near", "true"])
            .output()?;
        let no_path = (!output.status.success())
            .then(|| String::from_utf8_lossy(&output.stderr).into_owned());
        Ok(Self {
            loadgen,
            missing: no_path.or_else(missing_tool),
        })
    }
}

fn missing_tool() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &str| std::env::split_paths(&path).any(|it| it.join(name).is_file());
    let missing = TOOLS.iter().find(|(name, _)| !is_there(name));
    missing.map(|(name, package)| format!("{name} is missing (Debian: {package})"))
}

/// One test: a path, and the check that its near end runs there.
struct Fact {
    name: String,
    /// Flags of the path, separated by blanks.
    flags: String,
    /// Check of [`near::run`] with its arguments, separated by blanks.
    check: String,
}

impl Fact {
    fn new(name: impl Into<String>, flags: impl Into<String>, check: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            flags: flags.into(),
            check: check.into(),
        }
    }

    fn check(&self, setup: &Setup) -> Result<()> {
        let mut flags = self.flags.split_ascii_whitespace();
        let near = match flags.any(|flag| flag == "--v6") {
            true => NEAR_V6,
            false => NEAR,
        };
        let (folder, certificate) = (TempDir::new()?, TestCertificate::new(near)?);
        let files = certificate.files();
        let own = std::env::current_exe()?;
        let role = |role: &str| format!("exec '{}' as {role}", own.display());
        let mut command = Command::new(&setup.loadgen);
        command
            .arg("path")
            .args(self.flags.split_ascii_whitespace())
            .args(SYSCTLS.iter().flat_map(|sysctl| ["--sysctl", *sysctl]))
            .args(["--near", &role(&format!("near {}", self.check))])
            .args(["--far", &role("far")])
            .env(near::FOLDER, folder.path())
            .env(near::LOADGEN, &setup.loadgen)
            .env(near::CERT, files.cert)
            .env(near::KEY, files.key);
        let path = Process::spawn("path", &mut command)?;
        // What the near end has measured.
        print!("{}", path.finish(PATH_LIMIT)?);
        Ok(())
    }
}
