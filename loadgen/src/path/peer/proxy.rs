//! nginx as a plain reverse proxy in front of running forwarders: the setup an operator would put in
//! front of a manually forwarded port.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context;

use super::configuration::{proxy_configuration, seen_from_here};
use super::known::{PeerFacts, PeerKind, PeerSetup, RunningPeer, free_address, wait_until};
use crate::exchange::{self, RequestKind};
use crate::interrupt::Interrupt;
use crate::process::{Program, Running};
use crate::socket::{Socket, Wrap};

/// Timeout of one attempt to get an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// First bytes of an answer that comes from the target.
const ACCEPTED: &[u8] = b"HTTP/1.1 200 ";

/// Starts nginx in front of `place.target` and waits until an answer comes through.
pub(crate) fn start(
    name: &str,
    place: &PeerSetup<'_>,
    interrupt: &Interrupt,
) -> anyhow::Result<RunningPeer> {
    let known = PeerKind::Nginx;
    let binary = known.binary(place.from)?;
    let libraries = place.libraries();
    let address = free_address()?;
    let websockets = place.wrapped.caller.is_websocket();
    let text = proxy_configuration(address, place.target, place.directory, websockets);
    let file = place.directory.join(format!("{name}.conf"));
    std::fs::write(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    let folder = place.directory.to_string_lossy().into_owned();
    let arguments = ["-p", &folder, "-e", "stderr", "-c", &file.to_string_lossy()];
    let program = Program {
        name: format!("{name}-proxy"),
        path: binary.clone(),
        arguments: arguments.iter().map(OsString::from).collect(),
        environment: vec![(
            "LD_LIBRARY_PATH".to_owned(),
            libraries.clone().into_os_string(),
        )],
        cores: place.cores.0.into_iter().collect(),
        in_front: Vec::new(),
    };
    let told = text.replace(&format!("{folder}/"), "");
    let version = known.version(&binary, &libraries);
    let mut peer = RunningPeer {
        hops: vec![Running::start(&program, place.directory)?],
        address,
        facts: PeerFacts {
            name: name.to_owned(),
            version: format!("{version}, a reverse proxy in front of two bare forwarders"),
            hops: vec![seen_from_here(&told)],
        },
    };
    let is_there = || {
        let obituaries: Vec<String> = peer.obituaries().collect();
        anyhow::ensure!(obituaries.is_empty(), obituaries.join("\n"));
        Ok(answers(address, websockets).unwrap_or(false))
    };
    wait_until(interrupt, is_there).with_context(|| format!("no answer through {name}"))?;
    Ok(peer)
}

/// Whether a call, or a request for a WebSocket, gets an answer from the target.
fn answers(address: SocketAddr, websockets: bool) -> std::io::Result<bool> {
    if websockets {
        let wrap = Wrap {
            tls: None,
            is_websocket: true,
            is_quic: false,
        };
        return Socket::open(address, &wrap, "/", ANSWER_TIMEOUT).map(|_| true);
    }
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let mut request = Vec::new();
    let host = address.to_string();
    exchange::request(RequestKind::Call, (&host, "/"), 0, "?", &mut request);
    stream.write_all(&request)?;
    let mut first = [0; ACCEPTED.len()];
    stream.read_exact(&mut first)?;
    Ok(first == *ACCEPTED)
}
