use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

use tieline_token::Key;
use tieline_wire::TunnelId;

use super::*;
use crate::auth::{Question, Ruling};
use crate::certificates::ServerConfigs;
use crate::config::{TokenHash, TokensAuth};
use crate::control::Reply;
use crate::directory::Forgotten;
use crate::metrics::{Cut, ShardStatus, TunnelBatch, TunnelDetail};
use crate::shard::Paused;

/// Stand-in for shards that records each snapshot.
#[derive(Default)]
struct Listener(Mutex<Vec<Arc<Snapshot>>>);

impl Inspect for Listener {
    fn tunnels(&self, _: Vec<(usize, String)>) -> Reply<Vec<(usize, TunnelBatch)>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    fn detail(&self, _: TunnelId) -> Reply<Option<TunnelDetail>> {
        Box::pin(std::future::ready(None))
    }

    fn kick(&self, _: TunnelId) -> Reply<Cut> {
        Box::pin(std::future::ready(Cut::default()))
    }

    fn forget(&self, _: TunnelId) -> Reply<Option<Forgotten>> {
        Box::pin(std::future::ready(None))
    }

    fn pause(&self, _: Arc<Paused>) -> Reply<Cut> {
        Box::pin(std::future::ready(Cut::default()))
    }

    fn apply_auth(&self, snapshot: Arc<Snapshot>) -> Reply<usize> {
        self.0.lock().unwrap().push(snapshot);
        Box::pin(std::future::ready(1))
    }

    fn apply_tls(&self, _: Arc<ServerConfigs>) -> Reply<()> {
        Box::pin(std::future::ready(()))
    }

    fn rule(&self, _: Question, _: Ruling) -> Reply<()> {
        Box::pin(std::future::ready(()))
    }

    fn shards(&self) -> Vec<ShardStatus> {
        Vec::new()
    }
}

fn updater(config: &Config) -> (SnapshotUpdater, Arc<Listener>) {
    let listener = Arc::<Listener>::default();
    let inspect = Arc::clone(&listener) as Arc<dyn Inspect>;
    {
        let asked = crate::auth::request_queue().1;
        let (updater, _) =
            SnapshotUpdater::new(config, Snapshot::of(config), asked, inspect).unwrap();
        (updater, listener)
    }
}

/// Replaces a file as an editor does: writes a new file and renames it over the old one.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

/// Replaces a file by one that only its owner can read.
fn replace_secret(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(beside, path).unwrap();
}

fn tokens(names: &[&str]) -> String {
    let entry = |name: &&str| {
        let hash = TokenHash::of(name);
        format!("[[token]]\nsub = \"{name}\"\nhash = \"{hash}\"\n")
    };
    names.iter().map(entry).collect()
}

#[tokio::test]
async fn a_changed_file_is_read_once_it_stands_still_and_a_broken_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    replace(&path, &tokens(&["one"]));
    let config = Config {
        auth: Auth::Tokens(TokensAuth {
            table: read_tokens(&path).unwrap(),
            file: Some(path.clone()),
        }),
        ..Config::default()
    };
    let (mut updater, listener) = updater(&config);
    let heard = || listener.0.lock().unwrap().clone();
    let knows = |name: &str| match &heard().last().unwrap().mode {
        Mode::Tokens(table) => table.find(&TokenHash::of(name)).is_some(),
        other => panic!("{other:?}"),
    };
    // The file is unchanged since the relay read it at the start.
    updater.look(false).await;
    updater.look(false).await;
    assert_eq!(heard().len(), 0);

    replace(&path, &tokens(&["one", "two"]));
    updater.look(false).await;
    assert_eq!(heard().len(), 0, "the file may still be being written");
    updater.look(false).await;
    assert_eq!(heard().len(), 1);
    assert!(knows("one") && knows("two"));

    for broken in ["[[token]]", "nonsense", &tokens(&["one", "one"])] {
        replace(&path, broken);
        updater.look(true).await;
    }
    fs::remove_file(&path).unwrap();
    updater.look(true).await;
    assert_eq!(heard().len(), 1);

    replace(&path, &tokens(&["two"]));
    updater.look(true).await;
    assert_eq!(heard().len(), 2);
    assert!(!knows("one") && knows("two"));
}

#[tokio::test]
async fn a_new_set_of_keys_joins_those_that_never_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let set = |letter: char| {
        let secret = letter.to_string().repeat(43);
        format!(r#"{{"keys":[{{"kty":"oct","kid":"{letter}","k":"{secret}"}}]}}"#)
    };
    replace_secret(&path, &set('A'));
    let config = Config {
        auth: Auth::Jwt(JwtAuth {
            keys: Key::hs256(&[7; 32]).unwrap().into(),
            jwks: Some(JwksSource::File {
                keys: read_jwks(&path).unwrap(),
                path: path.clone(),
            }),
            ..JwtAuth::default()
        }),
        ..Config::default()
    };
    let (mut updater, listener) = updater(&config);
    updater.look(true).await;
    assert!(listener.0.lock().unwrap().is_empty());
    replace_secret(&path, &set('Q'));
    updater.look(true).await;
    let latest = listener.0.lock().unwrap().last().cloned().unwrap();
    let Mode::Jwt(signed) = &latest.mode else {
        panic!("{latest:?}")
    };
    assert_eq!(signed.keys.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn revocations_and_the_denylist_add_up_and_the_former_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("denied.toml");
    replace(&path, "sub = [\"eve\"]");
    let config = Config {
        denylist: read_denylist(&path).unwrap(),
        denylist_file: Some(path.clone()),
        ..Config::default()
    };
    let (mut updater, listener) = updater(&config);
    let latest = || listener.0.lock().unwrap().last().cloned().unwrap();
    let ada = Denied::Subject("ada".to_owned());
    assert_eq!(updater.revoke(ada.clone()).await, Ok(1));
    assert!(latest().denied.names(None, Some("eve"), None));
    assert!(latest().denied.names(None, Some("ada"), None));

    replace(&path, "jti = [\"9\"]");
    updater.look(true).await;
    assert!(!latest().denied.names(None, Some("eve"), None));
    assert!(latest().denied.names(Some("9"), None, None));
    assert!(latest().denied.names(None, Some("ada"), None));

    time::advance(REVOKED_KEPT - Duration::from_secs(1)).await;
    updater.look(true).await;
    assert!(latest().denied.names(None, Some("ada"), None));
    // Revoking again starts another full period.
    updater.revoke(ada).await.unwrap();
    time::advance(Duration::from_secs(2)).await;
    updater.look(true).await;
    assert!(latest().denied.names(None, Some("ada"), None));
    time::advance(REVOKED_KEPT).await;
    updater.look(true).await;
    assert!(!latest().denied.names(None, Some("ada"), None));
}

#[tokio::test]
async fn more_revocations_than_fit_are_refused_and_none_is_forgotten() {
    let (mut updater, listener) = updater(&Config::default());
    let number = |it: usize| Denied::Number(it.to_string());
    for it in 0..10_000 {
        updater.revoked.add(number(it), Instant::now()).unwrap();
    }
    assert_eq!(updater.revoke(number(10_000)).await, Err(RevokeError::Full));
    assert!(listener.0.lock().unwrap().is_empty());
    assert_eq!(updater.revoke(number(0)).await, Ok(1));
    let latest = listener.0.lock().unwrap().last().cloned().unwrap();
    assert_eq!(latest.denied.len(), 10_000);
}
