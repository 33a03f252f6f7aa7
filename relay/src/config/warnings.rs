//! Warnings at the start about a configuration that is allowed, but probably not intended.

use super::public_url::unusable;
use super::{Auth, CallerAuth, Config, ListenAddress};

impl Config {
    /// One line per warning; `http` has the bound addresses of the HTTP listeners.
    pub(crate) fn warnings(&self, http: &[ListenAddress]) -> Vec<String> {
        let lines = [
            unusable(self, http),
            self.admits_strangers(),
            self.shows_tokens(),
        ];
        lines.into_iter().flatten().collect()
    }

    /// Warns if agents need a token and callers do not.
    fn admits_strangers(&self) -> Option<String> {
        let is_so = self.caller_auth == CallerAuth::None && !matches!(self.auth, Auth::Open { .. });
        is_so.then(|| {
            "caller_auth is none: agents need a token and callers do not, so every caller who knows a \
             tunnel's name can use it, also through a proxy on this machine"
                .to_owned()
        })
    }

    /// Warns if tokens cross the network unencrypted.
    fn shows_tokens(&self) -> Option<String> {
        if matches!(self.auth, Auth::Open { .. }) {
            return None;
        }
        let callers = [&self.tcp_listen, &self.http_listen];
        let takes_callers = self.caller_auth == CallerAuth::Token;
        let callers = callers.into_iter().flatten().filter(|_| takes_callers);
        let mut plain = self
            .agent_listen
            .iter()
            .chain(callers)
            .filter(|it| !it.is_tls);
        let address = plain.find(|it| !it.address.ip().to_canonical().is_loopback())?;
        Some(format!(
            "tokens come to {address} in clear text: make it tls://{address}, with a certificate in tls_cert and \
             tls_key, or let them cross only networks that you trust, or a VPN, or a proxy that ends TLS on this \
             machine"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TokensAuth;

    fn told(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config);
        config.warnings(&["127.0.0.1:9080".parse().unwrap()])
    }

    #[test]
    fn callers_without_a_token_beside_agents_with_one_are_told_in_one_line() {
        let tokens = |caller_auth| {
            told(|config| {
                config.auth = Auth::Tokens(TokensAuth::default());
                config.caller_auth = caller_auth;
            })
        };
        let none = tokens(CallerAuth::None);
        assert_eq!(none.len(), 1, "{none:?}");
        assert!(none[0].starts_with("caller_auth is none") && !none[0].contains('\n'));
        assert!(tokens(CallerAuth::Token).is_empty());
        assert!(told(|_| {}).is_empty());
    }

    #[test]
    fn tokens_in_clear_text_are_told_in_one_line() {
        let public = || vec!["0.0.0.0:1".parse().unwrap(), "[::]:1".parse().unwrap()];
        let with = |caller_auth, change: fn(&mut Config, Vec<ListenAddress>)| {
            let lines = told(|config| {
                config.auth = Auth::Tokens(TokensAuth::default());
                config.caller_auth = caller_auth;
                config.domain = Some("relay.example".to_owned());
                change(config, public());
            });
            lines
                .iter()
                .filter(|it| it.contains("in clear text"))
                .count()
        };
        let token = CallerAuth::Token;
        assert_eq!(with(token, |config, it| config.http_listen = it), 1);
        assert_eq!(with(token, |config, it| config.tcp_listen = it), 1);
        assert_eq!(with(token, |config, it| config.agent_listen = it), 1);
        assert_eq!(with(token, |_, _| {}), 0);
        let over_tls: fn(&mut Config, Vec<ListenAddress>) = |config, _| {
            config.http_listen = vec!["tls://0.0.0.0:1".parse().unwrap()];
            config.agent_listen = vec!["tls://0.0.0.0:2".parse().unwrap()];
        };
        assert_eq!(with(token, over_tls), 0);
        // Without caller_auth, callers do not send tokens of the relay.
        assert_eq!(
            with(CallerAuth::None, |config, it| config.http_listen = it),
            0
        );
        assert_eq!(
            with(CallerAuth::None, |config, it| config.agent_listen = it),
            1
        );
    }
}
