//! The agent's identity: a key that survives restarts, the machine, and this run of the process.

mod machine;
pub(crate) mod store;

use std::path::{Path, PathBuf};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use tieline_wire::{AgentHello, AgentKey, InstanceId, MachineId, RelayHello};

use crate::error::{ConfigError, IdentityError};

const KEY_FILE: &str = "agent-key";

/// The agent's key pair, machine and instance.
pub struct Identity {
    key_pair: Ed25519KeyPair,
    key: AgentKey,
    machine: MachineId,
    instance: InstanceId,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("key", &self.key)
            .field("machine", &self.machine)
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads the identity kept in `state_dir`, or makes one at the first start.
    ///
    /// `machine` replaces the system's machine id, for containers and cloned hosts that all have the same id.
    ///
    /// # Errors
    /// [`IdentityError`] names the file and the remedy.
    pub fn load(state_dir: &Path, machine: Option<&str>) -> Result<Self, IdentityError> {
        store::make_private_dir(state_dir)?;
        let random = SystemRandom::new();
        let path = state_dir.join(KEY_FILE);
        let key_pair = store::read_or_make(
            &path,
            || {
                Ed25519KeyPair::generate_pkcs8(&random)
                    .map(|document| document.as_ref().to_vec())
                    .map_err(|_| IdentityError::Random)
            },
            |bytes| Ed25519KeyPair::from_pkcs8(bytes).ok(),
        )?;
        let machine = match machine {
            Some(name) => machine::named(name),
            None => machine::this_one(state_dir, &random)?,
        };
        Self::of_run(key_pair, machine, &random)
    }

    /// Makes an identity that is not stored: its registrations belong to no other agent.
    ///
    /// # Errors
    /// [`IdentityError::Random`] if the system has no randomness.
    pub fn throw_away() -> Result<Self, IdentityError> {
        let random = SystemRandom::new();
        let key_pair = Ed25519KeyPair::from_seed_unchecked(&drawn::<32>(&random)?)
            .map_err(|_| IdentityError::Random)?;
        Self::of_run(key_pair, MachineId::new(drawn(&random)?), &random)
    }

    /// The identity of a new run of the process.
    fn of_run(
        key_pair: Ed25519KeyPair,
        machine: MachineId,
        random: &SystemRandom,
    ) -> Result<Self, IdentityError> {
        let key = <[u8; 32]>::try_from(key_pair.public_key().as_ref())
            .expect("an Ed25519 public key has 32 bytes (RFC 8032, 5.1.5)");
        Ok(Self {
            key: AgentKey::new(key),
            key_pair,
            machine,
            instance: InstanceId::new(drawn(random)?),
        })
    }

    /// The public key.
    #[must_use]
    pub const fn key(&self) -> AgentKey {
        self.key
    }

    /// The machine that this agent runs on.
    #[must_use]
    pub const fn machine(&self) -> MachineId {
        self.machine
    }

    /// The id of this run of the process.
    #[must_use]
    pub const fn instance(&self) -> InstanceId {
        self.instance
    }

    /// The signed answer to a relay's hello, for the link `link_index` of `links`; `exporter` is that of the TLS
    /// connection that the link is in.
    #[must_use]
    pub fn hello(
        &self,
        relay: &RelayHello,
        relay_name: String,
        agent_version: &str,
        (link_index, links): (u16, u16),
        exporter: Option<&[u8; 32]>,
    ) -> AgentHello {
        let mut hello = AgentHello {
            // The mux accepted the relay's hello, so both sides support a common version.
            version: relay.choose_version().unwrap_or_default(),
            key: self.key,
            machine: self.machine,
            instance: self.instance,
            link_index,
            links,
            relay_name,
            agent_version: agent_version.to_owned(),
            signature: [0; 64],
            bound_signature: None,
        };
        hello.signature = self.sign(&hello.transcript(&relay.nonce));
        let bound = exporter.map(|it| hello.bound_transcript(&relay.nonce, it));
        hello.bound_signature = bound.map(|transcript| self.sign(&transcript));
        hello
    }

    /// Signs `message` with the agent's key.
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key_pair
            .sign(message)
            .as_ref()
            .try_into()
            .expect("an Ed25519 signature has 64 bytes (RFC 8032, 5.1.6)")
    }
}

/// Random bytes of the system.
fn drawn<const LEN: usize>(random: &SystemRandom) -> Result<[u8; LEN], IdentityError> {
    let mut bytes = [0; LEN];
    random.fill(&mut bytes).map_err(|_| IdentityError::Random)?;
    Ok(bytes)
}

/// True if `state_dir` has a key; does not make a key.
///
/// # Errors
/// Those of [`Identity::load`].
pub fn has_key(state_dir: &Path) -> Result<bool, IdentityError> {
    let Ok(metadata) = std::fs::metadata(state_dir) else {
        return Ok(false);
    };
    store::check_folder(state_dir, &metadata)?;
    let path = state_dir.join(KEY_FILE);
    match std::fs::symlink_metadata(&path) {
        Ok(_) => store::read_private(&path).map(|_| true),
        Err(_) => Ok(false),
    }
}

/// Default directory of the key: the platform's directory for state.
///
/// # Errors
/// [`ConfigError::NoStateDir`] if the environment names no home directory.
pub fn default_state_dir() -> Result<PathBuf, ConfigError> {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let dir = if cfg!(windows) {
        variable("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        variable("XDG_STATE_HOME")
            .or_else(|| variable("HOME").map(|home| home.join("Library/Application Support")))
    } else {
        // XDG Base Directory Specification: relative paths in this variable are invalid.
        variable("XDG_STATE_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
    };
    dir.map(|dir| dir.join("tieline"))
        .ok_or(ConfigError::NoStateDir)
}

/// Short text that tells apart hosts that share a state directory.
pub(crate) fn host_tag() -> String {
    data_encoding::HEXLOWER.encode(&machine::host().as_bytes()[..4])
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
    use tieline_wire::ChannelBinding;

    use super::*;

    #[test]
    fn the_key_survives_a_restart_and_the_instance_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("deep/tieline");
        let first = Identity::load(&state, None).unwrap();
        let second = Identity::load(&state, None).unwrap();
        assert_eq!(first.key(), second.key());
        assert_eq!(first.machine(), second.machine());
        assert_ne!(first.instance(), second.instance());
    }

    #[test]
    fn one_that_is_thrown_away_is_like_no_other() {
        let (one, other) = (
            Identity::throw_away().unwrap(),
            Identity::throw_away().unwrap(),
        );
        assert_ne!((one.key(), one.machine()), (other.key(), other.machine()));
        let key = UnparsedPublicKey::new(&ED25519, one.key().as_bytes().to_vec());
        assert!(key.verify(b"message", &one.sign(b"message")).is_ok());
    }

    #[test]
    fn a_named_machine_is_another_machine_with_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let one = Identity::load(dir.path(), Some("render-01")).unwrap();
        let two = Identity::load(dir.path(), Some("render-02")).unwrap();
        let again = Identity::load(dir.path(), Some("render-01")).unwrap();
        assert_eq!(one.key(), two.key());
        assert_ne!(one.machine(), two.machine());
        assert_eq!(one.machine(), again.machine());
    }

    #[test]
    fn starts_at_the_same_time_agree_on_one_key() {
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let keys: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8)
                    .map(|_| scope.spawn(|| Identity::load(dir.path(), None).unwrap().key()))
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .collect()
            });
            assert!(keys.iter().all(|key| *key == keys[0]));
        }
    }

    #[test]
    fn a_signature_verifies_under_the_public_key() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::load(dir.path(), None).unwrap();
        let signature = identity.sign(b"message");
        let key = UnparsedPublicKey::new(&ED25519, identity.key().as_bytes().to_vec());
        assert!(key.verify(b"message", &signature).is_ok());
        assert!(key.verify(b"another", &signature).is_err());
    }

    #[test]
    fn a_hello_over_tls_is_bound_and_one_without_is_not() {
        let identity = Identity::throw_away().unwrap();
        let relay = RelayHello::new([7; 32], 1);
        let exporter = [8; 32];
        for (own, expected) in [
            (Some(&exporter), ChannelBinding::Bound),
            (None, ChannelBinding::None),
        ] {
            let hello = identity.hello(&relay, "relay:1".to_owned(), "test/1", (0, 1), own);
            assert_eq!(hello.verify(&relay.nonce), Ok(()));
            assert_eq!(hello.binding(&relay.nonce, Some(&exporter)), expected);
        }
    }

    #[test]
    fn a_damaged_key_is_named_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        Identity::load(dir.path(), None).unwrap();
        let path = dir.path().join(KEY_FILE);
        std::fs::write(&path, b"rubbish").unwrap();
        let error = Identity::load(dir.path(), None).unwrap_err();
        assert!(
            error.to_string().contains("agent-key is damaged"),
            "{error}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"rubbish");
    }

    #[cfg(unix)]
    #[test]
    fn the_key_is_private_and_a_shared_one_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        Identity::load(dir.path(), None).unwrap();
        let path = dir.path().join(KEY_FILE);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = Identity::load(dir.path(), None).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
}
