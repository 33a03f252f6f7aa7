//! Which shard should serve an HTTP frontend, judged by its first bytes.

use tieline_wire::TunnelId;

use super::Shard;
use crate::auth::{may_reach, verify_caller};
use crate::clock::now_seconds;
use crate::config::CallerAuth;
use crate::io::{Received, Stream};
use crate::listen::http;
use crate::registry::TunnelInfo;

/// Bytes of the first request that are read ahead to choose a shard.
const HINT_BYTES: usize = 4096;

impl Shard {
    /// The other shard that should serve the frontend, if there is one.
    pub(super) async fn hinted_shard(&self, stream: &Stream) -> Option<usize> {
        let domain = self.kit.peers.config.domain.as_deref();
        loop {
            stream.readable().await;
            match stream.read_ahead(HINT_BYTES).ok()? {
                (Received::Bytes(_), head) => {
                    let tunnel = http::hint(&head, domain)?;
                    return self.shard_for(&tunnel, http::hinted_token(&head));
                }
                (Received::End, _) => return None,
                (Received::Nothing, _) => {}
            }
        }
    }

    /// The other shard that should serve callers of `tunnel`. Where callers need a token, a frontend moves only if its
    /// token may reach the tunnel: for all other tokens the name makes no difference, not even in the time that a
    /// refusal takes.
    fn shard_for(&self, tunnel: &TunnelId, token: Option<&str>) -> Option<usize> {
        let routes = self.directory.routes();
        if self.kit.peers.config.caller_auth == CallerAuth::Token {
            let caller = verify_caller(&self.kit.auth.borrow(), token?, now_seconds()).ok()?;
            let fit = |info: &TunnelInfo| may_reach(&caller, tunnel, info.owner.as_deref());
            if !routes.is_known(tunnel, fit) {
                return None;
            }
        }
        let only = routes.only_shard(tunnel, self.kit.index);
        only.filter(|shard| *shard != self.kit.index)
    }
}
