//! Table of the relay's settings.

use clap::{Arg, ArgAction};

/// How many values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arity {
    One,
    Many,
    /// A flag without a value: present means true.
    Switch,
}

/// Least similarity of an unknown key and a setting for a "did you mean" hint (1: equal).
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
        "Address that agents connect to; repeats [default: 127.0.0.1:9001]",
    ),
    many(
        "tcp_listen",
        "ADDR",
        "Address for raw TCP callers; repeats, or `off` [default: 127.0.0.1:9002]",
    ),
    many(
        "http_listen",
        "ADDR",
        "Address for HTTP callers; repeats, or `off` [default: 127.0.0.1:9080]",
    ),
    many(
        "quic_listen",
        "ADDR",
        "Address for QUIC agents and callers (not built yet)",
    ),
    many(
        "admin_listen",
        "ADDR",
        "Address of the admin pages: tunnels, health, metrics; repeats, or `off` [default: 127.0.0.1:9003]",
    ),
    one(
        "admin_token_file",
        "FILE",
        "File with the token that admin_listen requires as `Authorization: Bearer ...`",
    ),
    one(
        "tls_cert",
        "FILE",
        "Certificate for tls:// addresses (not built yet)",
    ),
    one("tls_key", "FILE", "Private key of tls_cert (not built yet)"),
    one(
        "domain",
        "NAME",
        "The relay's DNS name, as in relay.example; each tunnel is also reached as TUNNEL.relay.example, \
         which needs DNS for *.relay.example",
    ),
    one(
        "public_url",
        "URL",
        "Beginning of public URLs, as in https://relay.example [default: http, and domain or the \
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
        "Microseconds that a shard polls before it sleeps [default: 0]",
    ),
    one(
        "auth",
        "MODE",
        "How agents authenticate: open, tokens, jwt or provider [default: open]",
    ),
    one(
        "auth_tokens_file",
        "FILE",
        "With auth tokens: file of token hashes, and what each token allows",
    ),
    one(
        "auth_provider_url",
        "URL",
        "With auth provider: its address; the relay asks at URL/api/verify",
    ),
    one(
        "auth_provider_secret_file",
        "FILE",
        "File with the secret that identifies the relay to the provider",
    ),
    one(
        "auth_provider_interval",
        "TIME",
        "Time after which the provider is asked again about a tunnel [default: 60s]",
    ),
    one(
        "auth_provider_grace",
        "TIME",
        "How long tunnels stay up while the provider does not answer [default: 600s]",
    ),
    one(
        "auth_denylist",
        "FILE",
        "File of denied token ids, subjects and agent keys",
    ),
    switch(
        "open_anywhere",
        "With auth open, accept agents that are not on this machine",
    ),
    one(
        "caller_auth",
        "MODE",
        "How callers authenticate: none or token [default: token with auth tokens or jwt, \
         none with open; with provider it must be set to none]",
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
    one(
        "jwt_jwks",
        "FILE|URL",
        "Key set for signed tokens, as JWKS (RFC 7517)",
    ),
    one("jwt_issuer", "NAME", "Accept only tokens of this issuer"),
    many(
        "jwt_audience",
        "NAME",
        "Accept only tokens whose audience has this name; repeats",
    ),
    many(
        "allow_origin",
        "ORIGIN",
        "Origin of web pages that may use tunnels, as in https://app.example; repeats, `*` for any",
    ),
    many(
        "trusted_proxies",
        "NET",
        "Networks of proxies whose X-Forwarded-* fields are trusted, as in 10.0.0.0/8; repeats",
    ),
    switch(
        "proxy_protocol",
        "Connections from trusted proxies begin with the PROXY protocol, version 2",
    ),
    one(
        "target_authorization_header",
        "FIELD",
        "Request field that reaches the target as Authorization, where Authorization has the relay's token",
    ),
    one(
        "offline_grace",
        "TIME",
        "How long requests wait for a lost agent to come back [default: 5s]",
    ),
    one(
        "start_grace",
        "TIME",
        "Time after the start in which unknown tunnels count as offline [default: 30s]",
    ),
    one(
        "sse_keepalive",
        "TIME",
        "Idle time before an event stream gets a keep-alive comment; 0s: never [default: 15s]",
    ),
    one(
        "stale_timeout",
        "TIME",
        "Silence after which a link is evicted [default: 45s]",
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
        "Limit of registered tunnels [default: 65536]",
    ),
    one(
        "sessions_max",
        "N",
        "Limit of sessions on one link [default: 65536]",
    ),
    one(
        "bulk_run_bytes",
        "BYTES",
        "Bytes of large pieces in a row before a session gets a bulk lane; 0: never [default: 262144]",
    ),
    one(
        "shard_budget_bytes",
        "BYTES",
        "Payload that one shard's sessions may buffer per direction, less where memory is short [default: 268435456]",
    ),
    one(
        "state_dir",
        "DIR",
        "Folder that keeps name bindings over a restart [default: none, bindings end with the relay]",
    ),
    switch(
        "take_over",
        "Take over from the relay that runs with this state_dir, if there is one; that relay drains",
    ),
    one(
        "log",
        "FILTER",
        "Log filter, as in `info,tieline_relay=debug` [default: RUST_LOG or info]",
    ),
    one(
        "audit_file",
        "FILE",
        "File for the audit log: registrations, calls and refusals as JSON lines [default: none]",
    ),
    one(
        "audit_max_bytes",
        "BYTES",
        "Size at which audit_file becomes audit_file.old, the one full file kept [default: 268435456]",
    ),
    one(
        "audit_keep",
        "N",
        "Gone: one full audit file is kept, logrotate keeps more",
    ),
    one(
        "limits_sub_registrations_per_minute",
        "N",
        "Registrations per minute of each token holder [default: no limit]",
    ),
    one(
        "limits_sub_sessions",
        "N",
        "Open sessions and requests of each token holder [default: no limit]",
    ),
    one(
        "limits_sub_requests_per_second",
        "N",
        "Requests and new sessions per second of each token holder [default: no limit]",
    ),
    one(
        "limits_sub_bytes_per_second",
        "BYTES",
        "Payload per second of each token holder [default: no limit]",
    ),
    one(
        "limits_sub_tunnels",
        "N",
        "Tunnels at a time of each token holder; 0: no limit [default: an eighth of max_tunnels]",
    ),
    one(
        "limits_address_tunnels",
        "N",
        "Tunnels at a time of each address whose agents have no token holder; 0: no limit [default: 16384]",
    ),
    one(
        "limits_address_registrations_per_minute",
        "N",
        "Registrations per minute of each address [default: no limit]",
    ),
    one(
        "limits_address_sessions",
        "N",
        "Open sessions and requests of each address [default: no limit]",
    ),
    one(
        "limits_address_requests_per_second",
        "N",
        "Requests and new sessions per second of each address [default: no limit]",
    ),
    one(
        "limits_address_bytes_per_second",
        "BYTES",
        "Payload per second of each address [default: no limit]",
    ),
    one(
        "limits_address_new_links",
        "N",
        "Links of each address that have no tunnel yet; 0: no limit [default: 1024]",
    ),
    switch("json", "Print one JSON object per line on stdout"),
];

impl Setting {
    /// Finds the setting with this key.
    pub(crate) fn find(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// Hint for an unknown `key`: the most similar setting, formatted by `written`, or the names of all settings.
    pub(crate) fn hint(key: &str, written: impl Fn(&str) -> String) -> String {
        let alike = |it: &&Self| strsim::normalized_damerau_levenshtein(key, it.key);
        let near = SETTINGS
            .iter()
            .max_by(|one, other| alike(one).total_cmp(&alike(other)));
        match near.filter(|it| alike(it) >= ALIKE_MIN) {
            Some(near) => format!("did you mean {}?", written(near.key)),
            None => {
                let all: Vec<_> = SETTINGS.iter().map(|setting| setting.key).collect();
                format!("the settings are {}", all.join(", "))
            }
        }
    }

    fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    /// The setting's command-line flag.
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
