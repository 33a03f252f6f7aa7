//! Interface to systemd or another supervisor: reports readiness, and starts this program's successor on
//! request.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::thread;

use tracing::{error, info, warn};

/// Tells the supervisor that this process is the service's main process now, and ready (sd_notify(3)). A relay that it
/// took over from drains unsupervised.
pub(crate) fn ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
        return;
    };
    let state = format!("MAINPID={}\nREADY=1\n", std::process::id());
    if let Err(error) = notify(&path, state.as_bytes()) {
        warn!(%error, "the supervisor cannot be told that the relay is ready");
    }
}

fn notify(path: &OsStr, state: &[u8]) -> std::io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    socket.send_to_addr(state, &address).map(drop)
}

/// Starts this program again with the same arguments, to take over. `ended` gets the successor's exit status; it is
/// called while this process runs only if the successor could not take over.
pub(crate) fn start_successor(ended: impl FnOnce(String) + Send + 'static) -> Option<u32> {
    let mut arguments = std::env::args_os();
    let program = arguments.next()?;
    let arguments: Vec<_> = arguments.filter(|it| it != "--take-over").collect();
    let started = Command::new(program)
        .args(arguments)
        .arg("--take-over")
        .spawn();
    match started {
        Ok(mut successor) => {
            let process = successor.id();
            info!(process, "starts another relay to take over");
            let waits = thread::Builder::new().name("successor".to_owned());
            let waiting = waits.spawn(move || match successor.wait() {
                Ok(status) => ended(status.to_string()),
                Err(error) => ended(error.to_string()),
            });
            if let Err(error) = waiting {
                warn!(%error, "cannot wait for the other relay's end");
            }
            Some(process)
        }
        Err(error) => {
            error!(%error, "cannot start another relay to take over");
            None
        }
    }
}
