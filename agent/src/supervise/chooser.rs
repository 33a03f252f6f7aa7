//! Which transport the relay is dialled over, if its URL leaves that open: the dial that races, and what is remembered of
//! earlier ones. The observations are kept in the state folder.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::Agent;
use super::outlook::{Losses, Outlook, Verdict};
use super::race::{Attempt, race};
use crate::error::{Error, IdentityError};
use crate::identity::store;
use crate::network::local_network;
use crate::transport::{Connection, Dialler, QuicError, RelayUrl};

/// File in the state folder.
const FILE: &str = "transports.json";

/// What all links of an agent know of the transports to their relay.
#[derive(Debug)]
pub(super) struct Chooser(Arc<Memory>);

/// What is known, and the file that keeps it.
#[derive(Debug)]
struct Memory {
    relay: String,
    path: PathBuf,
    known: Mutex<Known>,
    /// Held while the file is written.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    outlook: Outlook,
    losses: Losses,
}

impl Chooser {
    /// Reads what earlier runs have observed; a file that cannot be used is told, and the next observation replaces it.
    /// Blocks.
    pub(super) fn load(state_dir: &Path, relay: &RelayUrl) -> Self {
        let path = state_dir.join(FILE);
        let outlook = read(&path).unwrap_or_else(|problem| {
            tracing::warn!(
                path = %path.display(),
                %problem,
                "what earlier runs have observed of QUIC cannot be used, and will be replaced"
            );
            Outlook::default()
        });
        Self(Arc::new(Memory {
            relay: relay.name(),
            path,
            known: Mutex::new(Known {
                outlook,
                losses: Losses::default(),
            }),
            writing: Mutex::default(),
        }))
    }

    /// True if a dial from `network` begins with QUIC.
    pub(super) fn races(&self, dialler: &Dialler, network: &str) -> bool {
        self.0.verdict(network) != Some(Verdict::Dead) && dialler.tries_quic().is_ok()
    }

    /// Notes whether QUIC gets through from `network`.
    pub(super) fn learn(&self, network: &str, quic: Verdict) {
        if !self.0.note(network, quic) {
            return;
        }
        tracing::debug!(quic = ?quic, network, "it was observed whether QUIC gets through");
        let (memory, network) = (Arc::clone(&self.0), network.to_owned());
        // Not waited for: what is not written is tried again.
        drop(spawn_blocking(move || memory.keep(&network)));
    }

    /// Notes that a dial over QUIC from `network` has failed while a WebSocket gets through: the path is to blame, unless
    /// `error` shows that it carries packets both ways, or that none was sent.
    pub(super) fn failed(&self, network: &str, error: &Error) {
        if blames_path(error) {
            self.learn(network, Verdict::Dead);
        }
    }

    /// Notes that a link over QUIC from `network` was lost soon after it came up.
    pub(super) fn lost(&self, network: &str) {
        let is_dead = self.0.known().losses.lost(network, Instant::now());
        if is_dead {
            self.learn(network, Verdict::Dead);
        }
    }

    /// Notes that a link over QUIC has lasted.
    pub(super) fn lasted(&self) {
        self.0.known().losses.lasted();
    }
}

impl Memory {
    /// What is known of `network` now.
    fn verdict(&self, network: &str) -> Option<Verdict> {
        self.known().outlook.verdict(&self.relay, network, now_s())
    }

    /// Notes an observation; true if it is worth to be written.
    fn note(&self, network: &str, quic: Verdict) -> bool {
        let mut known = self.known();
        known.outlook.note(&self.relay, network, quic, now_s())
    }

    /// Writes to the file what is known of `network` now: calls of two observations may come in any order. Blocks.
    fn keep(&self, network: &str) {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(quic) = self.verdict(network) else {
            return;
        };
        let path = &self.path;
        // Other agents of this folder write their observations, too.
        let mut outlook = read(path).unwrap_or_default();
        if outlook.note(&self.relay, network, quic, now_s())
            && let Err(error) = store::replace_private(path, &outlook.encode())
        {
            tracing::debug!(%error, path = %path.display(), "what was observed is not kept");
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection to the relay, and what the dial has shown of the other transport.
pub(super) struct Raced {
    pub(super) connection: Connection,
    /// The attempt over the other transport, which may still get through.
    pub(super) rival: Option<Attempt<Connection>>,
    /// The local network that the race began in; `None` without a race.
    pub(super) network: Option<String>,
}

impl Raced {
    /// A connection without a rival; `network` is that of the race which has brought it, if there was one.
    pub(super) const fn of(connection: Connection, network: Option<String>) -> Self {
        Self {
            connection,
            rival: None,
            network,
        }
    }
}

/// Dials the relay: over the transport that its URL names, or over QUIC and a WebSocket in a race.
///
/// # Errors
/// As [`Dialler::dial`].
pub(super) async fn dial(agent: Arc<Agent>) -> Result<Raced, Error> {
    let network = agent.dialler.relay().chooses().then(local_network);
    let raced = network.filter(|it| agent.chooser.races(&agent.dialler, it));
    let Some(network) = raced else {
        let connection = agent.dialler.dial().await?;
        return Ok(Raced::of(connection, None));
    };
    let (over_quic, over_tcp) = (Arc::clone(&agent), Arc::clone(&agent));
    let won = race(
        async move { over_quic.dialler.dial_quic().await },
        async move { over_tcp.dialler.dial().await },
    );
    let won = won.await?;
    if let Some(error) = &won.quic_error {
        agent.chooser.failed(&network, error);
    }
    Ok(Raced {
        connection: won.connection,
        rival: won.rival,
        network: Some(network),
    })
}

/// True for the error of a dial over QUIC that the path may have caused. A port that no program has, or a relay that ends
/// the handshake, shows that packets come back: the relay may be about to start or to stop. Such a dial fails at once, so
/// trying it again costs little, also at a relay without QUIC.
fn blames_path(error: &Error) -> bool {
    match error {
        Error::Dial { source, .. } => {
            let inner = source
                .get_ref()
                .and_then(|it| it.downcast_ref::<QuicError>());
            // Errors of the system have none: no packet was sent.
            inner.is_some_and(|it| match it {
                QuicError::NoAnswer { .. }
                | QuicError::Unfinished { .. }
                | QuicError::Version
                | QuicError::Ended(_) => true,
                QuicError::NothingListens { .. } | QuicError::Busy | QuicError::Closed(_) => false,
            })
        }
        _ => true,
    }
}

/// What the file holds; nothing if there is none.
///
/// # Errors
/// Why the file cannot be used.
fn read(path: &Path) -> Result<Outlook, String> {
    match store::read_private(path) {
        Ok(text) => Outlook::parse(&text).ok_or_else(|| "it is damaged".to_owned()),
        Err(IdentityError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(Outlook::default())
        }
        Err(IdentityError::File { source, .. }) => Err(source.to_string()),
        Err(IdentityError::Owner { .. }) => Err("it belongs to another user".to_owned()),
        Err(IdentityError::Mode { .. }) => Err("it may be read by others".to_owned()),
        // The texts of the rest are about keys.
        Err(_) => Err("it is not a regular file".to_owned()),
    }
}

fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Proxies;
    use crate::transport::tests::Server;

    #[tokio::test]
    async fn what_was_observed_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let relay = RelayUrl::parse("https://relay.invalid").unwrap();
        let server = Server::relay().await;
        let dialler = Dialler::new(relay.clone(), Some(&server.ca), &Proxies::Never).unwrap();
        let chooser = Chooser::load(folder.path(), &relay);
        assert!(chooser.races(&dialler, "home"));
        chooser.learn("home", Verdict::Dead);
        assert!(!chooser.races(&dialler, "home") && chooser.races(&dialler, "office"));
        until(|| !Chooser::load(folder.path(), &relay).races(&dialler, "home")).await;
    }

    #[test]
    fn of_two_observations_the_later_is_kept_whichever_is_written_first() {
        let folder = tempfile::tempdir().unwrap();
        let relay = RelayUrl::parse("https://relay.invalid").unwrap();
        let Chooser(memory) = Chooser::load(folder.path(), &relay);
        let kept = || Chooser::load(folder.path(), &relay).0.verdict("home");
        assert!(memory.note("home", Verdict::Dead));
        // The first one's task has yet to write.
        assert!(memory.note("home", Verdict::Works));
        memory.keep("home");
        assert_eq!(kept(), Some(Verdict::Works));
        memory.keep("home");
        assert_eq!(kept(), Some(Verdict::Works));
    }

    /// Waits for what a task writes that nothing waits for.
    async fn until(is_written: impl Fn() -> bool) {
        let written = async {
            while !is_written() {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        let patience = std::time::Duration::from_secs(30);
        tokio::time::timeout(patience, written).await.unwrap();
    }

    #[test]
    fn a_relay_that_answers_and_this_machines_own_limits_do_not_speak_against_the_path() {
        let instead = String::new;
        let dial = |source| Error::Dial {
            relay: "https://relay.test".to_owned(),
            source,
        };
        for (source, is_to_blame) in [
            (io::Error::other(QuicError::Busy), false),
            (
                io::Error::other(QuicError::Closed("stops".to_owned())),
                false,
            ),
            (
                io::Error::other(QuicError::NothingListens { instead: instead() }),
                false,
            ),
            (
                io::Error::other(QuicError::NoAnswer { instead: instead() }),
                true,
            ),
            (
                io::Error::other(QuicError::Unfinished { instead: instead() }),
                true,
            ),
            // EMFILE: this process has no descriptor left.
            (io::Error::from_raw_os_error(24), false),
            (io::Error::other(QuicError::Version), true),
            (io::Error::other(QuicError::Ended("reset".to_owned())), true),
        ] {
            assert_eq!(blames_path(&dial(source)), is_to_blame);
        }
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_used_is_told_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        assert_eq!(read(&path), Ok(Outlook::default()), "no file, no problem");
        let relay = RelayUrl::parse("https://relay.invalid").unwrap();
        store::replace_private(&path, b"[{").unwrap();
        assert_eq!(read(&path), Err("it is damaged".to_owned()));
        let chooser = Chooser::load(folder.path(), &relay);
        chooser.learn("home", Verdict::Works);
        until(|| {
            let now_s = now_s();
            read(&path).is_ok_and(|it| it.verdict(&relay.name(), "home", now_s).is_some())
        })
        .await;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let for_all = std::fs::Permissions::from_mode(0o644);
            std::fs::set_permissions(&path, for_all).unwrap();
            assert_eq!(read(&path), Err("it may be read by others".to_owned()));
        }
    }
}
