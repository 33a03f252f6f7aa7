//! Settings of authentication: those that each mode needs, and those that would have no effect in it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, Args, ValueHint};
use tieline_token::KeySet;

use super::file::{read_jwks, read_public_key, read_tokens};
use super::raw::Layer;
use super::secret::{read_secret, read_text_secret};
use super::values::{expected, name, set, switch, time};
use super::{Auth, CallerAuth, HttpUrl, JwksSource, JwtAuth, ProviderAuth, TokensAuth, conflict};
use crate::error::ConfigError;

/// How agents authenticate, without what the mode needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Open,
    Tokens,
    Jwt,
    Provider,
}

/// The auth modes, each with its word and the beginning of the settings that have an effect in it alone.
const MODES: [(Mode, &str, &str); 4] = [
    (Mode::Open, "open", "open_anywhere"),
    (Mode::Tokens, "tokens", "auth_tokens_"),
    (Mode::Jwt, "jwt", "jwt_"),
    (Mode::Provider, "provider", "auth_provider_"),
];

impl Mode {
    fn parse(text: &str) -> Option<Self> {
        let mut modes = MODES.iter();
        modes.find(|(_, word, _)| *word == text).map(|it| it.0)
    }
}

impl CallerAuth {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "none" => Some(Self::None),
            "token" => Some(Self::Token),
            _ => None,
        }
    }
}

/// Settings that say who is let in.
#[derive(Debug, Default, Args)]
pub(super) struct AuthSettings {
    /// How agents authenticate: open, tokens, jwt or provider [default: open]
    #[arg(long, value_name = "MODE", value_parser = expected("open, tokens, jwt or provider", Mode::parse))]
    auth: Option<Mode>,
    /// With auth tokens: file of token hashes, and what each token allows
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    auth_tokens_file: Option<PathBuf>,
    #[command(flatten)]
    provider: ProviderSettings,
    /// File of denied token ids, subjects and agent keys
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) auth_denylist: Option<PathBuf>,
    /// With auth open, accept agents that are not on this machine
    #[arg(long, action = ArgAction::SetTrue, value_parser = switch)]
    open_anywhere: Option<bool>,
    /// How callers authenticate: none or token [default: token with auth tokens or jwt,
    /// none with open; with provider it must be set to none]
    #[arg(long, value_name = "MODE", value_parser = expected("none or token", CallerAuth::parse))]
    caller_auth: Option<CallerAuth>,
    #[command(flatten)]
    jwt: JwtSettings,
}

/// Settings of the provider.
#[derive(Debug, Default, Args)]
struct ProviderSettings {
    /// With auth provider: URL of the server that decides about agents' tokens; the relay asks at URL/api/verify
    #[arg(long, value_name = "URL", value_parser = expected("an http or https URL", HttpUrl::parse))]
    auth_provider_url: Option<HttpUrl>,
    /// File with the secret that identifies the relay to the provider
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    auth_provider_secret_file: Option<PathBuf>,
    /// Time after which the provider is asked again about a tunnel [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    auth_provider_interval: Option<Duration>,
    /// How long tunnels stay up while the provider does not answer [default: 600s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    auth_provider_grace: Option<Duration>,
}

/// Settings of signed tokens.
#[derive(Debug, Default, Args)]
struct JwtSettings {
    /// File with the secret that signs HS256 tokens, 32 bytes or more
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    jwt_secret_file: Option<PathBuf>,
    /// File with the public key (PEM) of RS256, ES256 or EdDSA tokens
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    jwt_public_key_file: Option<PathBuf>,
    /// Key set of signed tokens (JWKS, RFC 7517): a file, or a URL to fetch it from
    #[arg(
        long,
        value_name = "FILE|URL",
        value_hint = ValueHint::Url,
        value_parser = OsStringValueParser::new().try_map(Jwks::parse)
    )]
    jwt_jwks: Option<Jwks>,
    /// Accept only tokens of this issuer
    #[arg(long, value_name = "NAME", value_parser = name)]
    jwt_issuer: Option<String>,
    /// Accept only tokens whose audience has this name; may be repeated
    #[arg(long, value_name = "NAME", value_parser = name)]
    jwt_audience: Option<Vec<String>>,
}

/// Place of a key set.
#[derive(Clone, Debug)]
enum Jwks {
    File(PathBuf),
    Url(HttpUrl),
}

impl Jwks {
    fn parse(text: OsString) -> Result<Self, &'static str> {
        match text.to_str().filter(|text| HttpUrl::is_meant(text)) {
            Some(url) => HttpUrl::parse(url)
                .map(Self::Url)
                .ok_or("is not a file, or an http or https URL"),
            None => Ok(Self::File(text.into())),
        }
    }
}

impl AuthSettings {
    /// How agents authenticate.
    pub(super) fn mode(&self, given: &Layer) -> Result<Auth, ConfigError> {
        let mode = self.auth.unwrap_or_default();
        // A setting without effect is refused: the operator may rely on it for protection.
        for (other, word, prefix) in MODES.iter().filter(|(other, ..)| *other != mode) {
            if let Some((key, raw)) = given.0.iter().find(|(key, _)| key.starts_with(prefix)) {
                let remedy = match other {
                    Mode::Open => "leave it out".to_owned(),
                    _ => format!("add --auth {word}"),
                };
                return conflict(format!("{} does nothing here; {remedy}", raw.describe(key)));
            }
        }
        match mode {
            Mode::Open => Ok(Auth::Open {
                anywhere: self.open_anywhere.unwrap_or(false),
            }),
            Mode::Tokens => self.tokens().map(Auth::Tokens),
            Mode::Jwt => self.jwt.auth().map(Auth::Jwt),
            Mode::Provider => self.provider.auth().map(Auth::Provider),
        }
    }

    /// How callers authenticate. By default callers need a token if agents do, also on loopback: a proxy on
    /// this machine forwards callers of other machines from loopback.
    pub(super) fn callers(&self, auth: &Auth) -> Result<CallerAuth, ConfigError> {
        match (self.caller_auth, auth) {
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
        let Some(path) = &self.auth_tokens_file else {
            return conflict("auth tokens wants a file of tokens: --auth-tokens-file FILE");
        };
        Ok(TokensAuth {
            table: read_tokens(path)?,
            file: Some(path.clone()),
        })
    }
}

impl ProviderSettings {
    fn auth(&self) -> Result<ProviderAuth, ConfigError> {
        let (Some(url), Some(secret)) = (&self.auth_provider_url, &self.auth_provider_secret_file)
        else {
            return conflict(
                "auth provider wants --auth-provider-url URL and --auth-provider-secret-file FILE",
            );
        };
        let mut provider = ProviderAuth::new(url.clone(), read_text_secret(secret)?);
        set(&mut provider.interval, self.auth_provider_interval);
        set(&mut provider.grace, self.auth_provider_grace);
        Ok(provider)
    }
}

impl JwtSettings {
    fn auth(&self) -> Result<JwtAuth, ConfigError> {
        let mut keys = KeySet::default();
        if let Some(path) = &self.jwt_secret_file {
            keys.extend(read_secret(path)?.into());
        }
        if let Some(path) = &self.jwt_public_key_file {
            keys.extend(read_public_key(path)?.into());
        }
        let jwks = match self.jwt_jwks.clone() {
            Some(Jwks::Url(url)) => Some(JwksSource::Url(url)),
            Some(Jwks::File(path)) => Some(JwksSource::File {
                keys: read_jwks(&path)?,
                path,
            }),
            None => None,
        };
        if keys.is_empty() && jwks.is_none() {
            return conflict(
                "auth jwt wants a key: --jwt-secret-file, --jwt-public-key-file or --jwt-jwks",
            );
        }
        Ok(JwtAuth {
            keys,
            jwks,
            issuer: self.jwt_issuer.clone(),
            audience: self.jwt_audience.clone().unwrap_or_default(),
        })
    }
}
