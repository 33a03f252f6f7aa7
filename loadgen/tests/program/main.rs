//! Runs the program as a user does, with real sockets and real processes.

// Clippy's exemption for tests does not cover the helper functions of these tests.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod drivers;
mod http;
mod peers;
mod reports;
mod rtt;
mod scaling;
mod scenarios;
mod stand_in;
mod wrapped;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use serde_json::Value;

pub const FAST: [&str; 6] = ["--rounds", "2", "--duration", "100ms", "--warm-up", "20ms"];

pub fn loadgen(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tieline-loadgen"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs one scenario with two short rounds.
pub fn run(command: &[&str], arguments: &[&str]) -> Output {
    loadgen(command)
        .args(FAST)
        .args(arguments)
        .output()
        .unwrap()
}

/// Parses the report; asserts that the run succeeded.
pub fn report(output: &Output) -> Value {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

pub fn path<'a>(report: &'a Value, name: &str) -> &'a Value {
    let paths = report["scenarios"][0]["paths"].as_array().unwrap();
    paths
        .iter()
        .find(|path| path["path"] == name)
        .unwrap_or_else(|| panic!("no {name}: {report}"))
}

pub fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("not a number: {value}"))
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A target in a child process, killed when the test ends.
pub struct Target {
    pub child: Child,
    pub address: SocketAddr,
}

impl Target {
    pub fn start(kind: &str) -> Self {
        let mut child = loadgen(&["target", kind])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        let expected = match kind {
            "any" => "target",
            "http" => "http-target",
            other => other,
        };
        assert_eq!(
            (&line["event"], &line["kind"]),
            (&"listening".into(), &expected.into())
        );
        Self {
            child,
            address: line["address"].as_str().unwrap().parse().unwrap(),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A stand-in for a relay's raw TCP listener: forwards connections for `tunnel` to `to`. The bytes pass
/// through `change_up` and `change_down`.
pub fn relay_in_small(
    tunnel: &'static str,
    to: SocketAddr,
    change_up: fn(&mut [u8]),
    change_down: fn(&mut [u8]),
) -> SocketAddr {
    let route = move |name: &[u8]| (name == tunnel.as_bytes()).then_some(to);
    relay_by(route, change_up, change_down)
}

/// A stand-in for a relay that looks up the target of each tunnel when a caller connects.
pub fn relay_by(
    route: impl Fn(&[u8]) -> Option<SocketAddr> + Clone + Send + 'static,
    change_up: fn(&mut [u8]),
    change_down: fn(&mut [u8]),
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for near in listener.incoming() {
            let mut near = near.unwrap();
            let route = route.clone();
            thread::spawn(move || {
                let mut length = [0; 2];
                near.read_exact(&mut length).unwrap();
                let mut name = vec![0; usize::from(u16::from_be_bytes(length))];
                near.read_exact(&mut name).unwrap();
                let Some(to) = route(&name) else { return };
                near.set_nodelay(true).unwrap();
                let far = TcpStream::connect(to).unwrap();
                far.set_nodelay(true).unwrap();
                let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
                thread::spawn(move || pump(back.0, back.1, change_down));
                pump(near, far, change_up);
            });
        }
    });
    address
}

pub fn pump(mut from: TcpStream, mut to: TcpStream, change: fn(&mut [u8])) {
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        change(&mut buffer[..len]);
        if to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
