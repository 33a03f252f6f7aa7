//! Starts known peers as two hops, with our configurations and their own defaults otherwise.
//!
//! Every file is written to the run's own folder, every port is a free one on 127.0.0.1, and every
//! process is a child that ends with this program.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

pub(crate) use super::configuration::CONNECTIONS_MAX;
use super::configuration::{
    Hop, Identity, bore_arguments, haproxy_configuration, nginx_configuration,
    rathole_configurations, seen_from_here, wstunnel_arguments,
};
use crate::interrupt::Interrupt;
use crate::path::{PathKind, Role, Wrapped};
use crate::process::{Program, Running};
use crate::socket::{BUFFER_BYTES_MIN, Certificate, Socket, Wrap};

/// How long a peer may take until bytes come back through it.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Interval between two checks whether a peer is ready.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Control port of bore's server; bore cannot use another port.
const BORE_CONTROL_PORT: u16 = 7835;

/// A program that this one can configure and start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PeerKind {
    /// nginx with its stream module.
    Nginx,
    /// HAProxy in TCP mode, with splice.
    HaProxy,
    /// rathole, as server and client.
    Rathole,
    /// bore, as server and local client.
    Bore,
    /// wstunnel, as client and server; with TLS only.
    Wstunnel,
}

/// Facts about a peer for the report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PeerFacts {
    /// Name in the report.
    pub(crate) name: String,
    /// Version, as the program prints it.
    pub(crate) version: String,
    /// Configuration or command line of each hop, the hop next to the client first.
    pub(crate) hops: Vec<String>,
}

/// A running peer. Dropping it ends its processes, the hop next to the client first.
#[derive(Debug)]
pub(crate) struct RunningPeer {
    pub(super) hops: Vec<Running>,
    /// Address that the client connects to.
    pub(crate) address: SocketAddr,
    /// Facts for the report.
    pub(crate) facts: PeerFacts,
}

/// Folders, target and cores for starting a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerSetup<'a> {
    /// Folder with the binaries, in `bin` and `usr/sbin` below it.
    pub(crate) from: &'a Path,
    /// Target that the peer forwards to.
    pub(crate) target: SocketAddr,
    /// Cores of the near and the far hop.
    pub(crate) cores: (Option<usize>, Option<usize>),
    /// Folder of this run, for configurations and logs.
    pub(crate) directory: &'a Path,
    /// What wraps the hops.
    pub(crate) wrapped: Wrapped,
    /// Certificate of hops with TLS.
    pub(crate) certificate: Option<&'a Certificate>,
}

impl PeerSetup<'_> {
    /// Folder of shared libraries that were installed with the binaries.
    pub(super) fn libraries(&self) -> PathBuf {
        let folder = format!("{}-linux-gnu", std::env::consts::ARCH);
        self.from.join("usr/lib").join(folder)
    }
}

impl PeerKind {
    /// Peers that can run without any wrapping, in the order of the report.
    pub(crate) const ALL: [Self; 4] = [Self::Nginx, Self::HaProxy, Self::Rathole, Self::Bore];

    /// Name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::HaProxy => "haproxy",
            Self::Rathole => "rathole",
            Self::Bore => "bore",
            Self::Wstunnel => "wstunnel",
        }
    }

    /// Kind of the path through this peer with this wrapping of its hops.
    pub(crate) fn kind_over(self, wrapped: Wrapped) -> PathKind {
        if wrapped == Wrapped::PLAIN {
            PathKind::Peer(self.name())
        } else {
            PathKind::PeerOver(self.name(), wrapped)
        }
    }

    /// Path of the program's binary: in the folder `from`, else installed in `/usr/sbin` or a folder of `PATH`.
    pub(super) fn binary(self, from: &Path) -> anyhow::Result<PathBuf> {
        let name = self.name();
        let places = [
            from.join("bin").join(name),
            from.join("usr/sbin").join(name),
            PathBuf::from("/usr/sbin").join(name),
        ];
        let path = std::env::var_os("PATH").unwrap_or_default();
        let on_path = std::env::split_paths(&path).map(|folder| folder.join(name));
        let mut all = places.into_iter().chain(on_path);
        all.find(|path| path.is_file()).with_context(|| {
            let remedy = match self {
                Self::Wstunnel => "put it into bin there, or on PATH",
                _ => "`just bench-peers` installs it",
            };
            format!("no {name} in {}: {remedy}", from.display())
        })
    }

    pub(super) fn version(self, binary: &Path, libraries: &Path) -> String {
        let flag = match self {
            Self::Nginx | Self::HaProxy => "-v",
            Self::Rathole | Self::Bore | Self::Wstunnel => "--version",
        };
        let output = Command::new(binary)
            .arg(flag)
            .env("LD_LIBRARY_PATH", libraries)
            .stdin(Stdio::null())
            .output();
        let Ok(output) = output else {
            return "unknown".to_owned();
        };
        // nginx prints its version to stderr.
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let has_number = |line: &&str| line.contains(char::is_numeric);
        // rathole also prints its build time.
        let named = |line: &&str| line.to_lowercase().contains("version") && has_number(line);
        let line = text.lines().find(named).or(text.lines().find(has_number));
        let line = line.unwrap_or("unknown");
        // HAProxy appends its web site.
        let line = line.split_once(" - ").map_or(line, |(version, _)| version);
        let words: Vec<&str> = line.split_whitespace().collect();
        words.join(" ")
    }

    /// Starts both hops and waits until bytes from the target arrive through them.
    pub(crate) fn start(
        self,
        place: &PeerSetup<'_>,
        interrupt: &Interrupt,
    ) -> anyhow::Result<RunningPeer> {
        let binary = self.binary(place.from)?;
        let libraries = place.libraries();
        let peer = RunningPeer {
            hops: Vec::new(),
            address: free_address()?,
            facts: PeerFacts {
                name: self.kind_over(place.wrapped).to_string(),
                version: self.version(&binary, &libraries),
                hops: Vec::new(),
            },
        };
        let mut starting = Starting {
            known: self,
            place,
            binary,
            libraries,
            peer,
        };
        match self {
            Self::Nginx | Self::HaProxy => starting.chain()?,
            Self::Rathole => starting.rathole()?,
            Self::Bore => starting.bore(interrupt)?,
            Self::Wstunnel => starting.wstunnel()?,
        }
        let mut peer = starting.peer;
        let public = peer.address;
        let wrap = place.wrapped.caller.wrap(place.certificate);
        let is_there = || {
            let obituaries: Vec<String> = peer.obituaries().collect();
            anyhow::ensure!(obituaries.is_empty(), obituaries.join("\n"));
            Ok(echoes(public, &wrap).unwrap_or(false))
        };
        wait_until(interrupt, is_there)
            .with_context(|| format!("no answer through {}", peer.facts.name))?;
        Ok(peer)
    }
}

/// A peer whose hops are being started, the hop next to the client first.
struct Starting<'a> {
    known: PeerKind,
    place: &'a PeerSetup<'a>,
    binary: PathBuf,
    libraries: PathBuf,
    peer: RunningPeer,
}

impl Starting<'_> {
    /// nginx or HAProxy, twice: the near hop forwards to the far hop, and that to the target.
    fn chain(&mut self) -> anyhow::Result<()> {
        let (near_core, far_core) = self.place.cores;
        let middle = free_address()?;
        let Wrapped { caller, link } = self.place.wrapped;
        let near = Hop {
            listen: self.peer.address,
            to: middle,
            ends_tls: caller.is_tls(),
            begins_tls: link.is_tls(),
        };
        let far = Hop {
            listen: middle,
            to: self.place.target,
            ends_tls: link.is_tls(),
            begins_tls: false,
        };
        self.forwarder("near", near_core, &near)?;
        self.forwarder("far", far_core, &far)
    }

    /// One nginx or HAProxy.
    fn forwarder(&mut self, hop: &str, core: Option<usize>, ends: &Hop) -> anyhow::Result<()> {
        let certificate = self.place.certificate;
        let (text, arguments) = if self.known == PeerKind::Nginx {
            let module = stream_module(self.place.from);
            let text = nginx_configuration(module.as_deref(), ends, certificate);
            let file = self.write(hop, "conf", &text)?;
            let folder = self.place.directory.to_string_lossy().into_owned();
            let arguments = ["-p", &folder, "-e", "stderr", "-c", &file];
            (text, arguments.map(str::to_owned).to_vec())
        } else {
            let text = haproxy_configuration(ends, certificate);
            let file = self.write(hop, "cfg", &text)?;
            (text, ["-db", "-f", &file].map(str::to_owned).to_vec())
        };
        self.start(hop, core, &arguments, &text)
    }

    /// rathole's server and client.
    fn rathole(&mut self) -> anyhow::Result<()> {
        let (near_core, far_core) = self.place.cores;
        let control = free_address()?;
        let identity = match self.place.certificate {
            Some(certificate) if self.place.wrapped.link.is_tls() => Some(Identity {
                pkcs12: self.pkcs12(certificate)?,
                trusted: certificate.cert.clone(),
            }),
            _ => None,
        };
        let (near_text, far_text) = rathole_configurations(
            control,
            self.peer.address,
            self.place.target,
            identity.as_ref(),
        );
        let near_file = self.write("server", "toml", &near_text)?;
        let far_file = self.write("client", "toml", &far_text)?;
        self.start("server", near_core, &[near_file], &near_text)?;
        self.start("client", far_core, &[far_file], &far_text)
    }

    /// The certificate in the only format that rathole reads.
    fn pkcs12(&self, certificate: &Certificate) -> anyhow::Result<PathBuf> {
        let file = self.place.directory.join("identity.pfx");
        let output = Command::new("openssl")
            .args(["pkcs12", "-export", "-passout", "pass:bench"])
            // Old ciphers for the file, which every TLS library can read.
            .args(["-certpbe", "PBE-SHA1-3DES", "-keypbe", "PBE-SHA1-3DES"])
            .args(["-macalg", "SHA1", "-inkey"])
            .arg(&certificate.key)
            .arg("-in")
            .arg(&certificate.cert)
            .arg("-out")
            .arg(&file)
            .stdin(Stdio::null())
            .output()
            .context("rathole's certificate is made by openssl, which cannot be started")?;
        let told = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "openssl: {}", told.trim());
        Ok(file)
    }

    /// wstunnel's client, which accepts the connections, and its server next to the target.
    fn wstunnel(&mut self) -> anyhow::Result<()> {
        let (near_core, far_core) = self.place.cores;
        let certificate = self.place.certificate.context("no certificate was made")?;
        let (near, far) = wstunnel_arguments(
            free_address()?,
            self.peer.address,
            self.place.target,
            certificate,
        );
        let told = |arguments: &[String]| format!("wstunnel {}", arguments.join(" "));
        self.start("client", near_core, &near, &told(&near))?;
        self.start("server", far_core, &far, &told(&far))
    }

    /// bore's server and local client.
    fn bore(&mut self, interrupt: &Interrupt) -> anyhow::Result<()> {
        let (near_core, far_core) = self.place.cores;
        let control = SocketAddr::from((Ipv4Addr::LOCALHOST, BORE_CONTROL_PORT));
        if TcpListener::bind(control).is_err() {
            bail!(
                "port {BORE_CONTROL_PORT} is in use, and bore's server cannot use another port: \
                 is a bore server running?"
            );
        }
        let (near, far) = bore_arguments(self.peer.address.port(), self.place.target);
        let told = |arguments: &[String]| format!("bore {}", arguments.join(" "));
        self.start("server", near_core, &near, &told(&near))?;
        // bore's client exits at once if its server is not listening yet.
        wait_until(interrupt, || Ok(TcpStream::connect(control).is_ok()))
            .context("bore's server is not listening")?;
        self.start("local", far_core, &far, &told(&far))
    }

    /// Writes a configuration into the run's folder; returns its path.
    fn write(&self, hop: &str, ending: &str, text: &str) -> anyhow::Result<String> {
        let name = format!("{}-{hop}.{ending}", self.peer.facts.name);
        let file = self.place.directory.join(name);
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file.to_string_lossy().into_owned())
    }

    /// Starts one hop; the report shows `told` as its configuration.
    fn start(
        &mut self,
        hop: &str,
        core: Option<usize>,
        arguments: &[String],
        told: &str,
    ) -> anyhow::Result<()> {
        let libraries = self.libraries.clone().into_os_string();
        let program = Program {
            name: format!("{}-{hop}", self.peer.facts.name),
            path: self.binary.clone(),
            arguments: arguments.iter().map(OsString::from).collect(),
            environment: vec![("LD_LIBRARY_PATH".to_owned(), libraries)],
            cores: core.into_iter().collect(),
            in_front: Vec::new(),
        };
        let folder = format!("{}/", self.place.directory.display());
        let told = seen_from_here(&told.replace(&folder, ""));
        self.peer.facts.hops.push(told);
        let running = Running::start(&program, self.place.directory)?;
        self.peer.hops.push(running);
        Ok(())
    }
}

impl RunningPeer {
    /// Role and process id of each hop.
    pub(crate) fn processes(&self) -> Vec<(Role, u32)> {
        std::iter::zip([Role::NearHop, Role::FarHop], &self.hops)
            .map(|(role, hop)| (role, hop.pid()))
            .collect()
    }

    /// Messages about hops that have ended unexpectedly.
    pub(crate) fn obituaries(&mut self) -> impl Iterator<Item = String> {
        self.hops.iter_mut().filter_map(Running::obituary)
    }
}

/// A free address. Another process may take it before the peer does; the peer then exits with an error
/// message of its own.
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
            bail!("not ready within {} s", START_PATIENCE.as_secs());
        }
        interrupt.pause(LOOK_INTERVAL)?;
    }
    Ok(())
}

/// Whether the path echoes one byte.
fn echoes(address: SocketAddr, wrap: &Wrap) -> std::io::Result<bool> {
    let mut socket = Socket::open(address, wrap, "/", Duration::from_secs(1))?;
    socket.write_all(b"?")?;
    let mut buffer = vec![0; BUFFER_BYTES_MIN];
    let len = socket.read(&mut buffer)?;
    Ok(buffer[..len] == *b"?")
}

/// Path of nginx's stream module, which Debian builds as a separate file.
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
        let error = PeerKind::Rathole
            .binary(Path::new("/nonexistent"))
            .unwrap_err();
        assert!(error.to_string().contains("just bench-peers"), "{error}");
    }
}
