//! Whether a relay's listeners can be bound beside each other.

use super::{Config, conflict};
use crate::error::{ConfigError, ListenKind};

impl Config {
    /// Shards share their ports (`SO_REUSEPORT`), so the kernel would not object to one port with
    /// two uses: it would deal connections out to both.
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
