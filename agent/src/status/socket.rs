//! The local socket that answers one status object per connection, and the client that reads it.
//!
//! On unix it is a socket file that only its owner may open; elsewhere a loopback port whose number and password are
//! in a file. Each process has a socket of its own: a dead agent leaves only a file that refuses connections, and
//! the next `tieline status` removes it.

use std::fs;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tieline_wire::InstanceId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::{AgentStatus, Board};
use crate::identity::host_tag;
use crate::identity::store::{check_folder, make_private_dir};

/// Subfolder of the state directory that holds the sockets.
const RUN_DIR: &str = "run";

/// Time limit for the other side of a status connection: longer than an agent takes to probe its targets.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Largest status that is read.
///
/// Room for the largest number of targets, with the longest URLs that a relay may give them.
const STATUS_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Length of the password of a loopback port, in characters.
const PASSWORD_CHARS: usize = 32;

/// A bound status socket; dropping it removes its file.
#[derive(Debug)]
pub(crate) struct Server {
    listener: Listener,
    path: PathBuf,
}

#[derive(Debug)]
enum Listener {
    #[cfg(unix)]
    Unix(UnixListener),
    #[cfg_attr(unix, allow(dead_code))]
    Loopback {
        listener: TcpListener,
        password: String,
    },
}

impl Server {
    /// Binds this process's socket under `state_dir`.
    pub(crate) fn bind(state_dir: &Path, instance: InstanceId) -> io::Result<Self> {
        let dir = state_dir.join(RUN_DIR);
        private_dir(&dir)?;
        let run = data_encoding::HEXLOWER.encode(&instance.as_bytes()[..4]);
        // Short: a socket's path has at most 107 bytes (unix(7)).
        let name = format!("{}-{}-{run}", host_tag(), std::process::id());
        #[cfg(unix)]
        {
            Self::bind_unix(dir.join(format!("{name}.sock")))
        }
        #[cfg(not(unix))]
        {
            Self::bind_loopback(dir.join(format!("{name}.port")))
        }
    }

    #[cfg(unix)]
    fn bind_unix(path: PathBuf) -> io::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let listener = UnixListener::bind(&path)?;
        let server = Self {
            listener: Listener::Unix(listener),
            path,
        };
        fs::set_permissions(&server.path, fs::Permissions::from_mode(0o600))?;
        Ok(server)
    }

    #[cfg(any(not(unix), test))]
    fn bind_loopback(path: PathBuf) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let mut secret = [0; PASSWORD_CHARS / 2];
        aws_lc_rs::rand::SecureRandom::fill(&aws_lc_rs::rand::SystemRandom::new(), &mut secret)
            .map_err(|_| io::Error::other("no random numbers"))?;
        let password = data_encoding::HEXLOWER.encode(&secret);
        fs::write(&path, format!("{port} {password}"))?;
        let listener = TcpListener::from_std(listener)?;
        Ok(Self {
            listener: Listener::Loopback { listener, password },
            path,
        })
    }

    /// Answers until dropped.
    pub(crate) async fn serve(self, board: Arc<Board>) {
        loop {
            // One connection at a time: a later connection finds the targets already probed.
            let answered = async {
                match &self.listener {
                    #[cfg(unix)]
                    Listener::Unix(listener) => {
                        answer(listener.accept().await?.0, None, &board).await
                    }
                    Listener::Loopback { listener, password } => {
                        answer(listener.accept().await?.0, Some(password), &board).await
                    }
                }
            };
            if let Err(error) = answered.await {
                tracing::debug!(%error, "the status socket failed");
                // Without free descriptors, accept fails at once, again and again.
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    password: Option<&String>,
    board: &Board,
) -> io::Result<()> {
    within(async {
        if let Some(password) = password {
            let mut given = [0; PASSWORD_CHARS];
            stream.read_exact(&mut given).await?;
            let differs = given
                .iter()
                .zip(password.bytes())
                .fold(0, |bits, (a, b)| bits | (a ^ b));
            if differs != 0 {
                return Ok(());
            }
        }
        board.probe().await;
        let mut line = serde_json::to_vec(&board.status())?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        stream.shutdown().await
    })
    .await
}

/// Makes the folder of the sockets. Earlier versions left the folder writable for a group if the umask allowed it.
/// Its parent folder is writable for the owner alone, so the mode is corrected without a warning.
fn private_dir(dir: &Path) -> io::Result<()> {
    let made = make_private_dir(dir);
    #[cfg(unix)]
    if let Err(crate::error::IdentityError::Folder { .. }) = made {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        return make_private_dir(dir).map_err(io::Error::other);
    }
    made.map_err(io::Error::other)
}

/// The status of every agent that runs on this host with this state directory.
///
/// # Errors
/// An error if the directory cannot be read; a missing directory holds no agents.
pub async fn list(state_dir: &Path) -> io::Result<Vec<AgentStatus>> {
    let silent = |path: &Path, error: &io::Error| {
        tracing::warn!(path = %path.display(), %error, "an agent does not answer");
    };
    list_telling(state_dir, silent).await
}

/// Like [`list`], for an agent that waits for another run to end: that run does not answer while it ends, so a
/// missing answer is not a warning.
pub(crate) async fn list_quietly(state_dir: &Path) -> io::Result<Vec<AgentStatus>> {
    let silent = |path: &Path, error: &io::Error| {
        tracing::debug!(path = %path.display(), %error, "an agent does not answer");
    };
    list_telling(state_dir, silent).await
}

async fn list_telling(
    state_dir: &Path,
    mut silent: impl FnMut(&Path, &io::Error),
) -> io::Result<Vec<AgentStatus>> {
    let dir = state_dir.join(RUN_DIR);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    // A file that another user put there says nothing about this user's agents.
    check_folder(&dir, &fs::metadata(&dir)?).map_err(io::Error::other)?;
    // Skips the sockets of other hosts in a shared home: they refuse connections from this host.
    let prefix = format!("{}-", host_tag());
    let mut agents = Vec::new();
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(&prefix) {
            continue;
        }
        match ask(&entry.path()).await {
            Ok(status) => agents.push(status),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let _ = fs::remove_file(entry.path());
            }
            // The agent ended after the folder was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => silent(&entry.path(), &error),
        }
    }
    agents.sort_by(|a, b| (&a.tunnel, a.pid).cmp(&(&b.tunnel, b.pid)));
    Ok(agents)
}

async fn ask(path: &Path) -> io::Result<AgentStatus> {
    within(async {
        #[cfg(unix)]
        if path
            .extension()
            .is_some_and(|extension| extension == "sock")
        {
            return read_status(UnixStream::connect(path).await?).await;
        }
        let text = fs::read_to_string(path)?;
        let (port, password) = text.split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
        let port: u16 = port.parse().map_err(io::Error::other)?;
        let mut stream = TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(password.as_bytes()).await?;
        read_status(stream).await
    })
    .await
}

async fn read_status(stream: impl AsyncRead + Unpin) -> io::Result<AgentStatus> {
    let mut text = Vec::new();
    stream.take(STATUS_BYTES_MAX).read_to_end(&mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(ANSWER_TIMEOUT, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::board;

    fn board() -> Arc<Board> {
        Arc::new(board::tests::board(&["127.0.0.1:2"]))
    }

    fn files(state_dir: &Path) -> usize {
        fs::read_dir(state_dir.join(RUN_DIR)).map_or(0, Iterator::count)
    }

    #[tokio::test]
    async fn every_agent_is_listed_and_a_stopped_one_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(list(dir.path()).await.unwrap().is_empty());
        let servers: Vec<_> = (0..3)
            .map(|run| {
                let server = Server::bind(dir.path(), InstanceId::new([run; 16])).unwrap();
                tokio::spawn(server.serve(board()))
            })
            .collect();
        let agents = list(dir.path()).await.unwrap();
        assert_eq!(agents.len(), 3);
        assert_eq!(agents[0].target, "127.0.0.1:2");
        for server in servers {
            server.abort();
            assert!(server.await.unwrap_err().is_cancelled());
        }
        assert_eq!(files(dir.path()), 0);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn the_socket_of_a_dead_process_is_removed_and_another_hosts_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join(RUN_DIR);
        make_private_dir(&run).unwrap();
        drop(UnixListener::bind(run.join(format!("{}-1-aa.sock", host_tag()))).unwrap());
        drop(UnixListener::bind(run.join("00000000-1-aa.sock")).unwrap());
        assert_eq!(files(dir.path()), 2);
        assert!(list(dir.path()).await.unwrap().is_empty());
        assert_eq!(files(dir.path()), 1);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn the_socket_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let server = Server::bind(dir.path(), InstanceId::new([1; 16])).unwrap();
        let mode = fs::metadata(&server.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_loopback_port_answers_only_its_password() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.port");
        let server = Server::bind_loopback(path.clone()).unwrap();
        let serving = tokio::spawn(server.serve(board()));
        assert_eq!(ask(&path).await.unwrap().relay, "tcp://127.0.0.1:1");
        let text = fs::read_to_string(&path).unwrap();
        let (port, _) = text.split_once(' ').unwrap();
        let wrong = dir.path().join("wrong.port");
        fs::write(&wrong, format!("{port} {}", "0".repeat(PASSWORD_CHARS))).unwrap();
        assert!(ask(&wrong).await.is_err());
        serving.abort();
    }
}
