//! Merges settings from flags, the environment and a TOML file into a [`Config`].

use std::path::Path;

use super::file::read_denylist;
use super::raw::Layer;
use super::secret::read_text_secret;
use super::settings::Settings;
use super::sources::read_settings;
use super::values::set;
use super::{CertificateFiles, Config, Options, conflict, memory};
use crate::error::ConfigError;

/// Merges the sources: flags override the environment, which overrides the file.
///
/// # Errors
/// [`ConfigError`] names the flag, variable, key or file.
pub fn load(flags: Layer, environment: Layer, file: Option<&Path>) -> Result<Options, ConfigError> {
    let (mut given, certificates) = match file {
        Some(file) => read_settings(file)?,
        None => (Layer::default(), Vec::new()),
    };
    given.0.extend(environment.0);
    given.0.extend(flags.0);
    let mut settings = Settings::parse(&given)?;
    let (log, json) = (settings.log.take(), settings.json.unwrap_or(false));
    let config = settings.config(&given, certificates)?;
    config.check()?;
    Ok(Options { config, log, json })
}

impl Settings {
    /// The configuration, not yet checked as a whole; `given` has the values' sources, and `certificates` are those
    /// that the settings file lists.
    fn config(
        self,
        given: &Layer,
        certificates: Vec<CertificateFiles>,
    ) -> Result<Config, ConfigError> {
        let mut config = Config::standard();
        config.auth = self.auth.mode(given)?;
        config.caller_auth = self.auth.callers(&config.auth)?;
        set(&mut config.agent_listen, self.agent_listen);
        set(&mut config.tcp_listen, self.tcp_listen);
        set(&mut config.http_listen, self.http_listen);
        set(&mut config.quic_listen, self.quic_listen);
        set(&mut config.admin_listen, self.admin_listen);
        config.tls = self.tls.config(given, certificates)?;
        config.acme = self.acme.config(given, self.state_dir.as_deref())?;
        config.domain = self.domain;
        config.public_url = self.public_url;
        set(&mut config.shards, self.shards);
        set(&mut config.driver, self.driver);
        set(&mut config.spin_us, self.spin_us);
        set(&mut config.stale_timeout, self.stale_timeout);
        set(&mut config.preamble_timeout, self.preamble_timeout);
        set(&mut config.drain_timeout, self.drain_timeout);
        set(&mut config.max_tunnels, self.max_tunnels);
        set(&mut config.sessions_max, self.sessions_max);
        set(&mut config.bulk_run_bytes, self.bulk_run_bytes);
        let has_quic = !config.quic_listen.is_empty();
        config.shard_budget_bytes = self.shard_budget_bytes.unwrap_or_else(|| {
            memory::shard_budget(config.memory_limit_bytes, config.shards, has_quic)
        });
        config.callers = self.callers.config();
        if let Some(path) = self.auth.auth_denylist {
            config.denylist = read_denylist(&path)?;
            config.denylist_file = Some(path);
        }
        let token_file = self.admin_token_file.as_deref();
        config.admin_token = token_file.map(read_text_secret).transpose()?;
        config.audit = self.audit.config()?;
        config.limits = self.limits.config();
        config.state_dir = self.state_dir;
        config.take_over = self.take_over.unwrap_or(false);
        if config.take_over && config.state_dir.is_none() {
            return conflict("take_over: needs state_dir, in which both relays meet");
        }
        Ok(config)
    }
}
