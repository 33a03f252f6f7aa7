//! Starts known peers with configurations of ours: two hops each, their own defaults otherwise.
//!
//! Every file is written to the run's own folder, every port is on 127.0.0.1 and free, and every
//! process is a child that ends with this program.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

pub(crate) use super::configuration::CONNECTIONS_MAX;
use super::configuration::{
    bore_arguments, haproxy_configuration, nginx_configuration, rathole_configurations,
    seen_from_here,
};
use crate::interrupt::Interrupt;
use crate::path::{PathKind, Role};
use crate::process::{Program, Running};

/// How long a peer may take until bytes come back through it.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks at a peer that starts.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// bore's server listens for its clients there and nowhere else.
const BORE_CONTROL_PORT: u16 = 7835;

/// A program that this one knows how to set up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Known {
    /// Its stream module.
    Nginx,
    /// TCP mode, with splice.
    HaProxy,
    /// Server and client.
    Rathole,
    /// Server and local.
    Bore,
}

/// What a reader of the numbers should know about a peer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PeerFacts {
    /// Its name in the report.
    pub(crate) name: String,
    /// What it says about its version.
    pub(crate) version: String,
    /// The configuration or the command line of each hop, the one next to the client first.
    pub(crate) hops: Vec<String>,
}

/// A peer that runs. Dropping it ends it, the hop next to the client first.
#[derive(Debug)]
pub(crate) struct RunningPeer {
    pub(super) hops: Vec<Running>,
    /// Where the client connects to.
    pub(crate) address: SocketAddr,
    /// For the report.
    pub(crate) facts: PeerFacts,
}

/// Folder, target and cores for a start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// Where the binaries are: `bin`, `usr/sbin` and so on below it.
    pub(crate) from: &'a Path,
    /// Where the path ends.
    pub(crate) target: SocketAddr,
    /// Cores of near and far hop.
    pub(crate) cores: (Option<usize>, Option<usize>),
    /// The run's own folder.
    pub(crate) directory: &'a Path,
}

impl Place<'_> {
    /// Libraries that came with the binaries.
    pub(super) fn libraries(&self) -> PathBuf {
        let folder = format!("{}-linux-gnu", std::env::consts::ARCH);
        self.from.join("usr/lib").join(folder)
    }
}

impl Known {
    /// All of them, in the order of the report.
    pub(crate) const ALL: [Self; 4] = [Self::Nginx, Self::HaProxy, Self::Rathole, Self::Bore];

    /// Its name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::HaProxy => "haproxy",
            Self::Rathole => "rathole",
            Self::Bore => "bore",
        }
    }

    /// Its path.
    pub(crate) fn kind(self) -> PathKind {
        PathKind::Peer(self.name())
    }

    /// In the folder, else installed on the machine.
    pub(super) fn binary(self, from: &Path) -> anyhow::Result<PathBuf> {
        let name = self.name();
        let places = [
            from.join("bin").join(name),
            from.join("usr/sbin").join(name),
            PathBuf::from("/usr/sbin").join(name),
        ];
        let found = places.into_iter().find(|path| path.is_file());
        found.with_context(|| {
            format!(
                "no {name} in {}: `just bench-peers` puts it there",
                from.display()
            )
        })
    }

    pub(super) fn version(self, binary: &Path, libraries: &Path) -> String {
        let flag = match self {
            Self::Nginx | Self::HaProxy => "-v",
            Self::Rathole | Self::Bore => "--version",
        };
        let output = Command::new(binary)
            .arg(flag)
            .env("LD_LIBRARY_PATH", libraries)
            .stdin(Stdio::null())
            .output();
        let Ok(output) = output else {
            return "unknown".to_owned();
        };
        // nginx says it on stderr.
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let has_number = |line: &&str| line.contains(char::is_numeric);
        // rathole tells the time at which it was built as well.
        let named = |line: &&str| line.to_lowercase().contains("version") && has_number(line);
        let line = text.lines().find(named).or(text.lines().find(has_number));
        let line = line.unwrap_or("unknown");
        // HAProxy adds its web site.
        let line = line.split_once(" - ").map_or(line, |(version, _)| version);
        let words: Vec<&str> = line.split_whitespace().collect();
        words.join(" ")
    }

    /// Starts both hops and waits until bytes come back from the target.
    pub(crate) fn start(
        self,
        place: &Place<'_>,
        interrupt: &Interrupt,
    ) -> anyhow::Result<RunningPeer> {
        let binary = self.binary(place.from)?;
        let libraries = place.libraries();
        let mut peer = RunningPeer {
            hops: Vec::new(),
            address: place.target,
            facts: PeerFacts {
                name: self.name().to_owned(),
                version: self.version(&binary, &libraries),
                hops: Vec::new(),
            },
        };
        let mut start = |hop: &str, core: Option<usize>, arguments: &[String], told: String| {
            let program = Program {
                name: format!("{}-{hop}", self.name()),
                path: binary.clone(),
                arguments: arguments.iter().map(OsString::from).collect(),
                environment: vec![(
                    "LD_LIBRARY_PATH".to_owned(),
                    libraries.clone().into_os_string(),
                )],
                cores: core.into_iter().collect(),
                in_front: Vec::new(),
            };
            peer.facts.hops.push(seen_from_here(&told));
            anyhow::Ok(Running::start(&program, place.directory)?)
        };
        let (near_core, far_core) = place.cores;
        let public = free_address()?;
        let write = |hop: &str, ending: &str, text: &str| {
            let file = place
                .directory
                .join(format!("{}-{hop}.{ending}", self.name()));
            std::fs::write(&file, text)
                .with_context(|| format!("cannot write {}", file.display()))?;
            anyhow::Ok(file.to_string_lossy().into_owned())
        };
        let (near, far) = match self {
            Self::Nginx | Self::HaProxy => {
                let middle = free_address()?;
                let mut hop = |name: &str, core, listen, to| {
                    let (text, arguments) = if self == Self::Nginx {
                        let module = stream_module(place.from);
                        let text = nginx_configuration(module.as_deref(), listen, to);
                        let file = write(name, "conf", &text)?;
                        let folder = place.directory.to_string_lossy().into_owned();
                        let arguments = ["-p", &folder, "-e", "stderr", "-c", &file];
                        (text, arguments.map(str::to_owned).to_vec())
                    } else {
                        let text = haproxy_configuration(listen, to);
                        let file = write(name, "cfg", &text)?;
                        (text, ["-db", "-f", &file].map(str::to_owned).to_vec())
                    };
                    start(name, core, &arguments, text)
                };
                (
                    hop("near", near_core, public, middle)?,
                    hop("far", far_core, middle, place.target)?,
                )
            }
            Self::Rathole => {
                let control = free_address()?;
                let (near_text, far_text) = rathole_configurations(control, public, place.target);
                let (near_file, far_file) = (
                    write("server", "toml", &near_text)?,
                    write("client", "toml", &far_text)?,
                );
                (
                    start("server", near_core, &[near_file], near_text)?,
                    start("client", far_core, &[far_file], far_text)?,
                )
            }
            Self::Bore => {
                if TcpListener::bind((Ipv4Addr::LOCALHOST, BORE_CONTROL_PORT)).is_err() {
                    bail!(
                        "port {BORE_CONTROL_PORT} is taken, and bore's server can use no other: \
                         is a bore server running?"
                    );
                }
                let (near, far) = bore_arguments(public.port(), place.target);
                let told = |arguments: &[String]| format!("bore {}", arguments.join(" "));
                let server = start("server", near_core, &near, told(&near))?;
                // Its client gives up at once if nobody listens.
                let control = SocketAddr::from((Ipv4Addr::LOCALHOST, BORE_CONTROL_PORT));
                wait_until(interrupt, || Ok(TcpStream::connect(control).is_ok()))
                    .context("bore's server does not listen")?;
                (server, start("local", far_core, &far, told(&far))?)
            }
        };
        peer.hops.extend([near, far]);
        peer.address = public;
        let is_there = || {
            let obituaries: Vec<String> = peer.obituaries().collect();
            anyhow::ensure!(obituaries.is_empty(), obituaries.join("\n"));
            Ok(echoes(public).unwrap_or(false))
        };
        wait_until(interrupt, is_there)
            .with_context(|| format!("{} brings nothing back", self.name()))?;
        Ok(peer)
    }
}

impl RunningPeer {
    /// Its processes.
    pub(crate) fn processes(&self) -> Vec<(Role, u32)> {
        std::iter::zip([Role::NearHop, Role::FarHop], &self.hops)
            .map(|(role, hop)| (role, hop.pid()))
            .collect()
    }

    /// What to say about hops that have ended although nobody asked them to.
    pub(crate) fn obituaries(&mut self) -> impl Iterator<Item = String> {
        self.hops.iter_mut().filter_map(Running::obituary)
    }
}

/// An address that nobody listens on now. Others may take it before the peer does; then the peer
/// ends with its own message.
pub(super) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

pub(super) fn wait_until(
    interrupt: &Interrupt,
    mut is_there: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_PATIENCE;
    while !is_there()? {
        if Instant::now() > deadline {
            bail!("nothing after {} s", START_PATIENCE.as_secs());
        }
        interrupt.pause(LOOK_INTERVAL)?;
    }
    Ok(())
}

/// Whether a byte comes back.
fn echoes(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"?")?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    Ok(byte == *b"?")
}

/// Debian builds the stream module as a file of its own.
fn stream_module(from: &Path) -> Option<PathBuf> {
    let module = Path::new("usr/lib/nginx/modules/ngx_stream_module.so");
    [from.join(module), Path::new("/").join(module)]
        .into_iter()
        .find_map(|path| path.canonicalize().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_not_there_says_how_to_get_it() {
        let error = Known::Rathole
            .binary(Path::new("/nonexistent"))
            .unwrap_err();
        assert!(error.to_string().contains("just bench-peers"), "{error}");
    }
}
