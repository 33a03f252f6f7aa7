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
            self.hides_from_the_ca(),
            self.leaves_quic_agents(),
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

    /// Warns if a CA cannot reach this relay on the ports that it looks at.
    fn hides_from_the_ca(&self) -> Option<String> {
        let acme = self.acme.as_ref().filter(|it| !it.is_checked_by_dns())?;
        (!self.listens(443, true) && !self.listens(80, false)).then(|| {
            format!(
                "for the certificate the CA connects to port 443 (TLS-ALPN-01) or 80 (HTTP-01) of {}, and no address \
                 here is tls:// with port 443 or of http_listen with port 80: let one of the two ports lead to this \
                 relay, or set acme_dns_hook or acme_dns_persist_issuer",
                acme.domains.join(", ")
            )
        })
    }

    /// Warns if agents over QUIC find out late that the relay was killed and started again.
    fn leaves_quic_agents(&self) -> Option<String> {
        let is_so = !self.quic_listen.is_empty() && self.state_dir.is_none();
        is_so.then(|| {
            "without state_dir agents over QUIC do not learn from this relay that the one before it was killed: they \
             dial again only after their idle timeout, 30 to 40 s"
                .to_owned()
        })
    }

    /// Whether an address has the port, with TLS for any peer, or without TLS for HTTP callers.
    pub(crate) fn listens(&self, port: u16, is_tls: bool) -> bool {
        let others = [&self.agent_listen, &self.tcp_listen];
        let others = others.into_iter().flatten().filter(|_| is_tls);
        let mut all = self.http_listen.iter().chain(others);
        all.any(|it| it.address.port() == port && it.is_tls == is_tls)
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
    fn agents_over_quic_without_a_state_folder_are_told_in_one_line() {
        let quic = || vec!["127.0.0.1:9443".parse().unwrap()];
        let lines = told(|config| config.quic_listen = quic());
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with("without state_dir agents over QUIC"));
        let with_folder = told(|config| {
            config.quic_listen = quic();
            config.state_dir = Some("/var/lib/tieline".into());
        });
        assert!(with_folder.is_empty(), "{with_folder:?}");
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
