//! Settings of authentication: those that each mode needs, and those that would have no effect in it.

use std::path::PathBuf;

use tieline_token::KeySet;

use super::file::{read_jwks, read_public_key, read_tokens};
use super::load::{SWITCH, Settings, TIME, boolean, parse_duration, set};
use super::secret::{read_secret, read_text_secret};
use super::{Auth, CallerAuth, HttpUrl, JwksSource, JwtAuth, ProviderAuth, TokensAuth, conflict};
use crate::error::ConfigError;

/// The auth modes, each with the settings that have an effect in it.
const MODES: &[(&str, &[&str])] = &[
    ("open", &["open_anywhere"]),
    ("tokens", &["auth_tokens_file"]),
    (
        "jwt",
        &[
            "jwt_secret_file",
            "jwt_public_key_file",
            "jwt_jwks",
            "jwt_issuer",
            "jwt_audience",
        ],
    ),
    (
        "provider",
        &[
            "auth_provider_url",
            "auth_provider_secret_file",
            "auth_provider_interval",
            "auth_provider_grace",
        ],
    ),
];

impl Settings {
    /// How agents authenticate.
    pub(super) fn auth(&self) -> Result<Auth, ConfigError> {
        let expected = "open, tokens, jwt or provider";
        let mode = self.one("auth", expected, |text| {
            MODES.iter().map(|(mode, _)| *mode).find(|it| *it == text)
        })?;
        let mode = mode.unwrap_or("open");
        // A setting without effect is refused: the operator may rely on it for protection.
        for (other, keys) in MODES.iter().filter(|(other, _)| *other != mode) {
            if let Some((key, raw)) = keys.iter().find_map(|key| Some((key, self.raw(key)?))) {
                let remedy = match *other {
                    "open" => "leave it out".to_owned(),
                    other => format!("add --auth {other}"),
                };
                return conflict(format!("{} does nothing here; {remedy}", raw.describe(key)));
            }
        }
        match mode {
            "tokens" => self.tokens().map(Auth::Tokens),
            "jwt" => self.jwt().map(Auth::Jwt),
            "provider" => self.provider().map(Auth::Provider),
            _ => {
                let anywhere = self.one("open_anywhere", SWITCH, boolean)?.unwrap_or(false);
                Ok(Auth::Open { anywhere })
            }
        }
    }

    /// How callers authenticate. By default callers need a token if agents do, also on loopback: a proxy on
    /// this machine forwards callers of other machines from loopback.
    pub(super) fn caller_auth(&self, auth: &Auth) -> Result<CallerAuth, ConfigError> {
        let said = self.one("caller_auth", "none or token", |text| match text {
            "none" => Some(CallerAuth::None),
            "token" => Some(CallerAuth::Token),
            _ => None,
        })?;
        match (said, auth) {
            (Some(said), _) => Ok(said),
            (None, Auth::Tokens(_) | Auth::Jwt(_)) => Ok(CallerAuth::Token),
            (None, Auth::Provider(_)) => conflict(
                "a provider knows agents only, so callers cannot prove themselves: say \
                 --caller-auth none if every caller who knows a tunnel's name may use it",
            ),
            (None, Auth::Open { .. }) => Ok(CallerAuth::None),
        }
    }

    fn tokens(&self) -> Result<TokensAuth, ConfigError> {
        let Some(path) = self.file("auth_tokens_file")? else {
            return conflict("auth tokens wants a file of tokens: --auth-tokens-file FILE");
        };
        Ok(TokensAuth {
            table: read_tokens(&path)?,
            file: Some(path),
        })
    }

    fn provider(&self) -> Result<ProviderAuth, ConfigError> {
        let url = self.one("auth_provider_url", "an http or https URL", HttpUrl::parse)?;
        let secret = self.file("auth_provider_secret_file")?;
        let (Some(url), Some(secret)) = (url, secret) else {
            return conflict(
                "auth provider wants --auth-provider-url URL and --auth-provider-secret-file FILE",
            );
        };
        let mut provider = ProviderAuth::new(url, read_text_secret(&secret)?);
        let time = |key| self.one(key, TIME, parse_duration);
        set(&mut provider.interval, time("auth_provider_interval")?);
        set(&mut provider.grace, time("auth_provider_grace")?);
        Ok(provider)
    }

    fn jwt(&self) -> Result<JwtAuth, ConfigError> {
        let mut keys = KeySet::default();
        if let Some(path) = self.file("jwt_secret_file")? {
            keys.extend(read_secret(&path)?.into());
        }
        if let Some(path) = self.file("jwt_public_key_file")? {
            keys.extend(read_public_key(&path)?.into());
        }
        let jwks = self.jwks()?;
        if keys.is_empty() && jwks.is_none() {
            return conflict(
                "auth jwt wants a key: --jwt-secret-file, --jwt-public-key-file or --jwt-jwks",
            );
        }
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let audience = self.raw("jwt_audience").map(|raw| raw.values.clone());
        let audience = audience.unwrap_or_default();
        if audience.iter().any(String::is_empty) {
            return conflict("jwt_audience has an empty name");
        }
        Ok(JwtAuth {
            keys,
            jwks,
            issuer: self.one("jwt_issuer", "a name", text)?,
            audience,
        })
    }

    fn jwks(&self) -> Result<Option<JwksSource>, ConfigError> {
        let url = self.one("jwt_jwks", "a file, or an http or https URL", |text| {
            if HttpUrl::is_meant(text) {
                HttpUrl::parse(text).map(Some)
            } else {
                Some(None)
            }
        })?;
        if let Some(url) = url.flatten() {
            return Ok(Some(JwksSource::Url(url)));
        }
        let Some(path): Option<PathBuf> = self.file("jwt_jwks")? else {
            return Ok(None);
        };
        let keys = read_jwks(&path)?;
        Ok(Some(JwksSource::File { path, keys }))
    }
}
