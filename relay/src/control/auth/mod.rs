//! Keeps admission up to date: reads files and keys again when they change, and tells every shard.

mod jwks;
mod requests;
mod revoked;

use std::sync::Arc;
use std::time::Duration;

use tieline_token::KeySet;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{self, Instant, MissedTickBehavior};
use tracing::{info, warn};

use self::jwks::{Pace, RemoteKeys};
use self::requests::{Provider, ShardRequests};
use self::revoked::Revoked;
pub(super) use self::revoked::{REVOKED_KEPT, RevokeError};
use super::Inspect;
use super::client::HttpClient;
use super::watched::{LOOK_INTERVAL, Watched};
use crate::auth::{Mode, RequestQueue, Signed, Snapshot};
use crate::config::{
    Auth, Config, Denied, Denylist, HttpUrl, JwksSource, JwtAuth, TokenTable, read_denylist,
    read_jwks, read_tokens,
};
use crate::error::ConfigError;
use crate::state::{Decision, NoteQueue, now_seconds};

/// Limit of orders waiting for the updater.
const ORDERS_MAX: usize = 64;

/// An order to the updater.
pub(super) enum Order {
    /// Deny something from now on; `ended` gets the number of links this ended.
    Revoke {
        denied: Denied,
        ended: oneshot::Sender<Result<usize, RevokeError>>,
    },
    /// Read all files again, even if they look unchanged.
    Reload,
}

/// Sending side of the updater's queue of orders.
pub(super) type Orders = mpsc::Sender<Order>;

/// Keeps the admission snapshot up to date.
pub(super) struct SnapshotUpdater {
    inspect: Arc<dyn Inspect>,
    orders: mpsc::Receiver<Order>,
    snapshot: Snapshot,
    /// Handles the shards' requests; taken when the updater starts to run.
    requests: Option<ShardRequests>,
    tokens: Option<Watched<TokenTable>>,
    denylist: Option<Watched<Denylist>>,
    jwt: JwtAuth,
    jwks: Option<Watched<KeySet>>,
    /// Fetches keys from a URL; taken when the updater starts to run.
    remote: Option<RemoteKeys>,
    /// Key sets that `remote` fetched.
    fetched: mpsc::Receiver<KeySet>,
    /// Denials set in the configuration itself, used when there is no denylist file.
    always_denied: Denylist,
    revoked: Revoked,
    /// Stores revocations beyond a restart.
    book: NoteQueue,
}

impl SnapshotUpdater {
    /// An updater that starts with the snapshot that the shards have.
    pub(super) fn new(
        config: &Config,
        snapshot: Snapshot,
        asked: RequestQueue,
        inspect: Arc<dyn Inspect>,
    ) -> Result<(Self, Orders), ConfigError> {
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        // One place: only the latest set matters, and the fetching task waits until the updater has taken it.
        let (news, fetched) = mpsc::channel(1);
        let keys_due = Arc::<Notify>::default();
        let mut provider = None;
        let mut updater = Self {
            inspect,
            orders,
            snapshot,
            requests: None,
            tokens: None,
            denylist: None,
            jwt: JwtAuth::default(),
            jwks: None,
            remote: None,
            fetched,
            always_denied: config.denylist.clone(),
            revoked: Revoked::default(),
            book: NoteQueue::default(),
        };
        if let Some(path) = &config.denylist_file {
            let known = config.denylist.clone();
            updater.denylist = Some(Watched::new(path, known, read_denylist));
            updater.always_denied = Denylist::default();
        }
        match &config.auth {
            Auth::Open { .. } => {}
            Auth::Tokens(tokens) => {
                let known = tokens.table.clone();
                let watch = |path| Watched::new(path, known, read_tokens);
                updater.tokens = tokens.file.as_deref().map(watch);
            }
            Auth::Jwt(jwt) => {
                updater.jwt = jwt.clone();
                match &jwt.jwks {
                    Some(JwksSource::File { path, keys }) => {
                        updater.jwks = Some(Watched::new(path, keys.clone(), read_jwks));
                    }
                    Some(JwksSource::Url(url)) => {
                        warn_if_exposed("jwt_jwks", url);
                        let client = HttpClient::new(url)?;
                        let keys_due = Arc::clone(&keys_due);
                        let remote =
                            RemoteKeys::new(url.clone(), client, Pace::STANDARD, keys_due, news);
                        updater.remote = Some(remote);
                    }
                    None => {}
                }
            }
            Auth::Provider(config) => provider = Some(Arc::new(Provider::new(config)?)),
        }
        updater.requests = Some(ShardRequests {
            asked,
            keys_due,
            inspect: Arc::clone(&updater.inspect),
            provider,
        });
        Ok((updater, sender))
    }

    /// Adds revocations from before this relay started, which the shards know already; later ones are stored
    /// in `book`.
    pub(super) fn restore(&mut self, revoked: &[(Denied, u64)], book: NoteQueue) {
        self.book = book;
        let (now, now_seconds) = (Instant::now(), now_seconds());
        for (denied, until) in revoked {
            // At most as long as a new revocation: the clock may have been set back.
            let left = Duration::from_secs(until.saturating_sub(now_seconds)).min(REVOKED_KEPT);
            self.revoked.restore(denied.clone(), left, now);
        }
    }

    /// Runs until all senders of orders are dropped.
    pub(super) async fn run(mut self) {
        // Dropping the set with this future aborts its tasks.
        let mut tasks = JoinSet::new();
        if let Some(remote) = self.remote.take() {
            tasks.spawn(remote.run());
        }
        if let Some(requests) = self.requests.take() {
            tasks.spawn(requests.run());
        }
        let mut looks = time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(Order::Revoke { denied, ended }) => {
                        let outcome = self.revoke(denied).await;
                        // The requester may have given up waiting.
                        let _ = ended.send(outcome);
                    }
                    Some(Order::Reload) => {
                        self.tell_again();
                        self.look(true).await;
                    }
                    None => return,
                },
                Some(keys) = self.fetched.recv() => self.take_keys(keys).await,
                _ = looks.tick() => self.look(false).await,
            }
        }
    }

    async fn take_keys(&mut self, keys: KeySet) {
        self.snapshot.mode = Mode::Jwt(Arc::new(Signed::with(&self.jwt, keys)));
        self.publish().await;
    }

    async fn revoke(&mut self, denied: Denied) -> Result<usize, RevokeError> {
        self.revoked.add(denied.clone(), Instant::now())?;
        let until = now_seconds() + REVOKED_KEPT.as_secs();
        self.book.decide(Decision::Revoked(denied.clone(), until));
        self.renew_denied();
        let links = self.publish().await;
        info!(links, "revoked: {denied}");
        Ok(links)
    }

    /// Makes the next look tell of all problems, also of those that the log has already.
    fn tell_again(&mut self) {
        if let Some(file) = &mut self.tokens {
            file.tell_again();
        }
        if let Some(file) = &mut self.jwks {
            file.tell_again();
        }
        if let Some(file) = &mut self.denylist {
            file.tell_again();
        }
    }

    /// Reads the files that have changed, or all files if `all` is set.
    async fn look(&mut self, all: bool) {
        let mut changed = false;
        if let Some(table) = self.tokens.as_mut().and_then(|file| file.look(all)) {
            info!(tokens = table.len(), "the tokens have changed");
            self.snapshot.mode = Mode::Tokens(Arc::new(table));
            changed = true;
        }
        if let Some(keys) = self.jwks.as_mut().and_then(|file| file.look(all)) {
            info!(keys = keys.len(), "the set of keys has changed");
            self.snapshot.mode = Mode::Jwt(Arc::new(Signed::with(&self.jwt, keys)));
            changed = true;
        }
        let list = self.denylist.as_mut().and_then(|file| file.look(all));
        if let Some(list) = &list {
            info!(entries = list.len(), "the denylist has changed");
        }
        if self.revoked.forget(Instant::now()) || list.is_some() {
            self.renew_denied();
            changed = true;
        }
        if changed {
            let links = self.publish().await;
            if links > 0 {
                warn!(links, "links ended, because they are no longer allowed");
            }
        }
    }

    fn renew_denied(&mut self) {
        let known = self.denylist.as_ref().map(Watched::known);
        let mut list = known.unwrap_or(&self.always_denied).clone();
        self.revoked.entries().for_each(|it| list.add(it.clone()));
        self.snapshot.denied = Arc::new(list);
    }

    /// Sends the current snapshot to every shard; returns the number of links this ended.
    async fn publish(&mut self) -> usize {
        self.snapshot.generation += 1;
        self.inspect
            .apply_auth(Arc::new(self.snapshot.clone()))
            .await
    }
}

fn warn_if_exposed(key: &str, url: &HttpUrl) {
    if url.is_exposed() {
        warn!(
            "{key}: {url} is not encrypted: an attacker on the network can get any token accepted"
        );
    }
}

#[cfg(test)]
mod tests;
