//! Shell scripts as stand-ins for relay and agent: they print the expected JSON lines and stay running.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

use crate::{pump, relay_by};

/// Saves the value of `--to`, atomically, before it prints the registration that callers wait for.
const AGENT: &str = r#"
while [ "$1" != --to ]; do shift; done
echo "$2" > FOLDER/new && mv FOLDER/new FOLDER/target
echo '{"event":"registered","tunnel":"maya-1"}'
exec sleep 600"#;

/// Writes a script to `folder`; FOLDER in its text is replaced with that path.
pub fn script(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    let text = text.replace("FOLDER", folder.to_str().unwrap());
    // The load generator runs `--help` to find default values for the report.
    let help = r#"case "$*" in *--help) echo "  --driver <D>  [default: auto]"; exit ;; esac"#;
    fs::write(&path, format!("#!/bin/sh\n{help}\n{text}\n")).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Stand-ins for relay and agent. Connections for `maya-1` or a fleet's tunnel reach the target, and each
/// start of the relay appends a line to FOLDER/started.
pub fn relay_and_agent(folder: &Path) -> (String, String) {
    relay_and_agent_with(folder, |_| {})
}

/// Stand-ins for relay and agent that pass HTTP answers through `change_down`.
pub fn relay_and_agent_with(folder: &Path, change_down: fn(&mut [u8])) -> (String, String) {
    let file = folder.join("target");
    let target = move || -> SocketAddr {
        let text = fs::read_to_string(&file).unwrap();
        let address = text.trim().trim_start_matches("http://");
        address.trim_end_matches("/mcp").parse().unwrap()
    };
    let http = forward(target.clone(), change_down);
    let route = move |name: &[u8]| -> Option<SocketAddr> {
        let known = name == b"maya-1" || name.starts_with(b"fleet-0000");
        known.then(&target)
    };
    let frontend = relay_by(route, |_| {}, |_| {});
    // No server listens on the admin port; the report then lacks the health facts.
    let nowhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let listeners: String = [
        ("agent", frontend),
        ("tcp", frontend),
        ("http", http),
        ("admin", nowhere),
    ]
    .map(|(kind, address)| {
        let event = r#"{"event":"listening","kind":"#;
        format!("echo '{event}\"{kind}\",\"address\":\"{address}\"}}'\n")
    })
    .concat();
    let text = format!(
        "echo \"$* variable=$TIELINE_RELAY_DRIVER.\" >> FOLDER/started\n{listeners}exec sleep 600"
    );
    (
        script(folder, "tieline-relay", &text),
        script(folder, "tieline", AGENT),
    )
}

/// A stand-in for the relay's HTTP front: copies bytes, because the target accepts any URL path.
fn forward(
    to: impl Fn() -> SocketAddr + Clone + Send + 'static,
    change_down: fn(&mut [u8]),
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for near in listener.incoming() {
            let near = near.unwrap();
            // The target is gone if the run has ended.
            let Ok(far) = TcpStream::connect(to()) else {
                continue;
            };
            for stream in [&near, &far] {
                stream.set_nodelay(true).unwrap();
            }
            let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
            thread::spawn(move || pump(back.0, back.1, change_down));
            thread::spawn(move || pump(near, far, |_| {}));
        }
    });
    address
}
