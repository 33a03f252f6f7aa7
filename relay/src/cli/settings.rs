//! The table of settings.

use clap::{Arg, ArgAction};

/// How many values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arity {
    One,
    Many,
    /// True if it is there.
    Switch,
}

/// Least similarity of a key and the setting that is suggested for it (1: equal).
const ALIKE_MIN: f64 = 0.7;

/// One setting: `stale_timeout` in a file is `--stale-timeout` and `TIELINE_RELAY_STALE_TIMEOUT`.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) key: &'static str,
    pub(crate) arity: Arity,
    value_name: &'static str,
    help: &'static str,
}

const fn one(key: &'static str, value_name: &'static str, help: &'static str) -> Setting {
    Setting {
        key,
        arity: Arity::One,
        value_name,
        help,
    }
}

const fn many(key: &'static str, value_name: &'static str, help: &'static str) -> Setting {
    Setting {
        key,
        arity: Arity::Many,
        value_name,
        help,
    }
}

const fn switch(key: &'static str, help: &'static str) -> Setting {
    Setting {
        key,
        arity: Arity::Switch,
        value_name: "",
        help,
    }
}

/// Every setting, in the order of `--help`.
pub(crate) const SETTINGS: &[Setting] = &[
    many(
        "agent_listen",
        "ADDR",
        "Where agents dial in; repeats [default: 127.0.0.1:9001]",
    ),
    many(
        "tcp_listen",
        "ADDR",
        "Raw TCP frontends; repeats, `off` [default: 127.0.0.1:9002]",
    ),
    many(
        "http_listen",
        "ADDR",
        "HTTP frontends; repeats, `off` [default: 127.0.0.1:9080]",
    ),
    many(
        "quic_listen",
        "ADDR",
        "QUIC agents and frontends (not built yet)",
    ),
    many(
        "admin_listen",
        "ADDR",
        "Tunnels, health, metrics; repeats, `off` [default: 127.0.0.1:9003]",
    ),
    one(
        "admin_token_file",
        "FILE",
        "What admin_listen wants as `Authorization: Bearer ...`",
    ),
    one(
        "tls_cert",
        "FILE",
        "Certificate for tls:// addresses (not built yet)",
    ),
    one("tls_key", "FILE", "Its private key (not built yet)"),
    one(
        "domain",
        "NAME",
        "The relay's DNS name, as in relay.example; each tunnel is reached under a name in front of it \
         too, which wants DNS for *.relay.example",
    ),
    one(
        "public_url",
        "URL",
        "How public URLs begin, as in https://relay.example [default: http, and domain or the \
         HTTP listener's address, with its port]",
    ),
    one(
        "shards",
        "N",
        "Threads that move bytes [default: one per core]",
    ),
    one("driver", "DRIVER", "auto, uring or epoll [default: auto]"),
    one(
        "spin_us",
        "N",
        "Microseconds for which a shard polls before it sleeps [default: 0]",
    ),
    one(
        "auth",
        "MODE",
        "How agents prove themselves: open, tokens, jwt or provider [default: open]",
    ),
    one(
        "auth_tokens_file",
        "FILE",
        "With auth tokens: their hashes, and what each is good for",
    ),
    one(
        "auth_provider_url",
        "URL",
        "With auth provider: whom to ask, at URL/api/verify",
    ),
    one(
        "auth_provider_secret_file",
        "FILE",
        "What the relay proves itself to the provider with",
    ),
    one(
        "auth_provider_interval",
        "TIME",
        "How often the provider is asked again [default: 60s]",
    ),
    one(
        "auth_provider_grace",
        "TIME",
        "How long tunnels live on while the provider is silent [default: 600s]",
    ),
    one(
        "auth_denylist",
        "FILE",
        "Tokens, holders and agents that are turned away all the same",
    ),
    switch(
        "open_anywhere",
        "With auth open, accept agents that are not on this machine",
    ),
    one(
        "caller_auth",
        "MODE",
        "How callers prove themselves: none or token [default: token with auth tokens or jwt, \
         none with open; provider wants none to be said]",
    ),
    one(
        "jwt_secret_file",
        "FILE",
        "Secret for HS256 tokens, 32 bytes or more",
    ),
    one(
        "jwt_public_key_file",
        "FILE",
        "Public key in PEM for RS256, ES256 or EdDSA tokens",
    ),
    one("jwt_jwks", "FILE|URL", "Set of keys for tokens (RFC 7517)"),
    one("jwt_issuer", "NAME", "Accept tokens of this issuer only"),
    many(
        "jwt_audience",
        "NAME",
        "Accept tokens that are meant for this name only; repeats",
    ),
    many(
        "allow_origin",
        "ORIGIN",
        "Web pages that may use tunnels, as in https://app.example; repeats, `*` for any",
    ),
    many(
        "trusted_proxies",
        "NET",
        "Proxies that are believed who asks, as in 10.0.0.0/8; repeats",
    ),
    switch(
        "proxy_protocol",
        "Connections from trusted proxies begin with the PROXY protocol, version 2",
    ),
    one(
        "target_authorization_header",
        "FIELD",
        "Field that brings a target's Authorization where the relay takes the caller's",
    ),
    one(
        "offline_grace",
        "TIME",
        "How long requests wait for an agent that was lost [default: 5s]",
    ),
    one(
        "start_grace",
        "TIME",
        "For how long after the start unknown tunnels count as offline [default: 30s]",
    ),
    one(
        "sse_keepalive",
        "TIME",
        "Quiet time before an event stream gets a comment; 0s: never [default: 15s]",
    ),
    one(
        "stale_timeout",
        "TIME",
        "Evict a link that is silent for this long [default: 45s]",
    ),
    one(
        "preamble_timeout",
        "TIME",
        "Time for a frontend to name its tunnel [default: 5s]",
    ),
    one(
        "drain_timeout",
        "TIME",
        "Time for sessions to end at shutdown [default: 10s]",
    ),
    one(
        "max_tunnels",
        "N",
        "Tunnels that may be registered [default: 65536]",
    ),
    one(
        "sessions_max",
        "N",
        "Sessions that one link may carry [default: 65536]",
    ),
    one(
        "bulk_run_bytes",
        "BYTES",
        "Large pieces in a row before a session gets a lane of its own; 0: never [default: 262144]",
    ),
    one(
        "shard_budget_bytes",
        "BYTES",
        "What one shard's sessions may hold per direction; less by default where memory is short [default: 268435456]",
    ),
    one(
        "state_dir",
        "DIR",
        "Folder where bindings of names outlast a restart [default: none, they end with the relay]",
    ),
    switch(
        "take_over",
        "Take the place of the relay that runs with this state_dir, if one does; it drains then",
    ),
    one(
        "log",
        "FILTER",
        "What to log, as in `info,tieline_relay=debug` [default: RUST_LOG or info]",
    ),
    one(
        "audit_file",
        "FILE",
        "Who registered, who called what, and who was refused, as JSON lines [default: none]",
    ),
    one(
        "audit_max_bytes",
        "BYTES",
        "Length from which audit_file is rotated [default: 67108864]",
    ),
    one(
        "audit_keep",
        "N",
        "Rotated audit files to keep [default: 10]",
    ),
    one(
        "limits_sub_registrations_per_minute",
        "N",
        "Registrations in a minute, of each holder of tokens [default: any]",
    ),
    one(
        "limits_sub_sessions",
        "N",
        "Sessions and open requests at a time, of each holder of tokens [default: any]",
    ),
    one(
        "limits_sub_requests_per_second",
        "N",
        "Requests and new sessions in a second, of each holder of tokens [default: any]",
    ),
    one(
        "limits_sub_bytes_per_second",
        "BYTES",
        "Payload in a second, of each holder of tokens [default: any]",
    ),
    one(
        "limits_sub_tunnels",
        "N",
        "Tunnels at a time of each holder of tokens; 0: any [default: an eighth of max_tunnels]",
    ),
    one(
        "limits_address_tunnels",
        "N",
        "Tunnels at a time of each address whose agents show no holder; 0: any [default: 16384]",
    ),
    one(
        "limits_address_registrations_per_minute",
        "N",
        "Registrations in a minute, of each address [default: any]",
    ),
    one(
        "limits_address_sessions",
        "N",
        "Sessions and open requests at a time, of each address [default: any]",
    ),
    one(
        "limits_address_requests_per_second",
        "N",
        "Requests and new sessions in a second, of each address [default: any]",
    ),
    one(
        "limits_address_bytes_per_second",
        "BYTES",
        "Payload in a second, of each address [default: any]",
    ),
    one(
        "limits_address_new_links",
        "N",
        "Links of each address that have no tunnel yet; 0: any [default: 1024]",
    ),
    switch("json", "Print one JSON object per line on stdout"),
];

impl Setting {
    /// The setting called `key`.
    pub(crate) fn find(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// Hint for an unknown `key`: the setting that is most like it, in the form of `written`, or the names of all
    /// settings.
    pub(crate) fn hint(key: &str, written: impl Fn(&str) -> String) -> String {
        let alike = |it: &&Self| strsim::normalized_damerau_levenshtein(key, it.key);
        let near = SETTINGS
            .iter()
            .max_by(|one, other| alike(one).total_cmp(&alike(other)));
        match near.filter(|it| alike(it) >= ALIKE_MIN) {
            Some(near) => format!("did you mean {}?", written(near.key)),
            None => {
                let all: Vec<_> = SETTINGS.iter().map(|setting| setting.key).collect();
                format!("there are {}", all.join(", "))
            }
        }
    }

    fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    /// Its flag.
    pub(super) fn argument(&self) -> Arg {
        let argument = Arg::new(self.key).long(self.flag()).help(self.help);
        match self.arity {
            Arity::One => argument.value_name(self.value_name).action(ArgAction::Set),
            Arity::Many => argument
                .value_name(self.value_name)
                .action(ArgAction::Append),
            Arity::Switch => argument.action(ArgAction::SetTrue),
        }
    }
}
