//! Checks that the relay's listeners have different addresses.

use super::{Config, conflict};
use crate::error::{ConfigError, ListenKind};

impl Config {
    /// Refuses one address for two kinds of listeners. Shards share their ports (`SO_REUSEPORT`), so the
    /// kernel would accept it and spread connections over both kinds.
    pub(super) fn check_ports(&self) -> Result<(), ConfigError> {
        let kinds = [
            ListenKind::Agent,
            ListenKind::Tcp,
            ListenKind::Http,
            ListenKind::Admin,
        ];
        let all: Vec<_> = kinds
            .iter()
            .flat_map(|kind| {
                self.listen(*kind)
                    .iter()
                    .map(move |address| (*kind, *address))
            })
            .filter(|(_, address)| address.port() != 0)
            .collect();
        for (index, (kind, address)) in all.iter().enumerate() {
            if let Some((other, _)) = all[..index].iter().find(|(_, earlier)| earlier == address) {
                return conflict(format!(
                    "{other}_listen and {kind}_listen both name {address}"
                ));
            }
        }
        Ok(())
    }
}
