//! Decides which tunnels an agent may register and who a caller is, and makes tokens.

mod identity;
mod marked;
mod own;
mod provider;
mod snapshot;

use std::sync::Arc;

use tieline_token::{Claims, ClaimsError, Key, Scope};
use tieline_wire::{AgentKey, MachineId, Refusal, RefusalReason, Register, TunnelId};
use tokio::sync::mpsc;

pub(crate) use self::identity::{Identity, Owner, may_reach};
pub(crate) use self::own::OwnTokens;
pub(crate) use self::provider::{Question, Ruling};
pub(crate) use self::snapshot::{AccessEnd, Mode, Signed, Snapshot, TokenRefusal, verify_caller};
use crate::cli::TokenOrder;
use crate::config::{TOKEN_PREFIX, TokenHash, rfc3339};

/// Requests from shards that may wait for the control thread; renewals of tunnels have as many places again.
const ASKS_MAX: usize = 1024;

/// A shard's request to the control thread.
#[derive(Debug)]
pub(crate) enum ShardRequest {
    /// Fetch the signing keys again: a token names a key that the relay does not have.
    NewerKeys,
    /// Ask the provider whether an agent may have a tunnel.
    Rule(Question),
}

/// Sending side of a shard's requests to the control thread.
#[derive(Clone, Debug)]
pub(crate) struct RequestSender {
    asks: mpsc::Sender<ShardRequest>,
    renewals: mpsc::Sender<Question>,
}

impl RequestSender {
    /// Asks the control thread to fetch the signing keys again; the control thread limits how often it does.
    pub(crate) fn newer_keys(&self) {
        // Dropped if the queue is full: the next token with an unknown key asks again.
        let _ = self.asks.try_send(ShardRequest::NewerKeys);
    }

    /// Asks the provider about a tunnel; false if the queue is full. Renewals have a queue of their own, which
    /// strangers cannot fill.
    pub(crate) fn rule(&self, question: Question) -> bool {
        match question.is_renewal {
            true => self.renewals.try_send(question).is_ok(),
            false => self.asks.try_send(ShardRequest::Rule(question)).is_ok(),
        }
    }
}

/// Receiving side of the shards' requests, held by the control thread.
#[derive(Debug)]
pub(crate) struct RequestQueue {
    pub(crate) asks: mpsc::Receiver<ShardRequest>,
    /// Questions about tunnels that are registered already.
    pub(crate) renewals: mpsc::Receiver<Question>,
}

/// Makes the bounded queues from the shards to the control thread.
pub(crate) fn request_queue() -> (RequestSender, RequestQueue) {
    let (asks, asked) = mpsc::channel(ASKS_MAX);
    let (renewals, renewed) = mpsc::channel(ASKS_MAX);
    let asked = RequestQueue {
        asks: asked,
        renewals: renewed,
    };
    (RequestSender { asks, renewals }, asked)
}

/// Outcome of checking a registration on its shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Granted(Permission),
    /// The provider must decide about this name.
    AskProvider(TunnelId),
}

/// What an accepted registration gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Permission {
    /// The token's holder; `None` without authentication.
    pub(crate) identity: Option<Arc<Identity>>,
    /// The tunnel's name, requested or derived.
    pub(crate) name: TunnelId,
    /// Expiry: the first second since 1970 without permission; `None` if the permission has no end.
    pub(crate) expires_at_seconds: Option<u64>,
}

/// Decides on a registration by the agent with this key and machine, which `is_local` says runs on this machine,
/// at `now_seconds` since 1970. Checks the name that will be routed on, requested or derived.
///
/// # Errors
/// The refusal to send back; its reason says whether another try may help.
pub(crate) fn authorize(
    snapshot: &Snapshot,
    register: &Register,
    (key, machine): (&AgentKey, &MachineId),
    is_local: bool,
    now_seconds: u64,
) -> Result<Admission, Refusal> {
    let name = routed_name(register, key, machine)?;
    if snapshot.is_denied(None, Some(key)) {
        return Err(Refusal::standard(RefusalReason::Revoked));
    }
    match &snapshot.mode {
        Mode::Open { anywhere } => {
            if !anywhere && !is_local {
                let text = "this relay runs without authentication and takes agents of its own machine only, \
                            which dial it without a proxy";
                return Err(Refusal::new(RefusalReason::NotLoopback, text));
            }
            Ok(Admission::Granted(Permission {
                identity: None,
                name,
                expires_at_seconds: None,
            }))
        }
        Mode::Provider { .. } => {
            if register.token.is_empty() {
                return Err(refused(TokenRefusal::Missing));
            }
            Ok(Admission::AskProvider(name))
        }
        Mode::Tokens(_) | Mode::Jwt(_) => {
            let token = register.token.reveal();
            let (identity, claims) = snapshot
                .verify(token, Scope::Agent, now_seconds)
                .map_err(refused)?;
            permit(&claims, register, &name)?;
            Ok(Admission::Granted(Permission {
                name,
                expires_at_seconds: identity.expires_at_seconds,
                identity: Some(Arc::new(identity)),
            }))
        }
    }
}

/// Turns a refused token into the refusal sent to the agent.
fn refused(why: TokenRefusal) -> Refusal {
    let reason = match &why {
        TokenRefusal::Missing => {
            let text = format!("{why}: --token-file FILE");
            return Refusal::new(RefusalReason::BadToken, text);
        }
        TokenRefusal::Bad(_) | TokenRefusal::Scope(_) | TokenRefusal::NoTokens => {
            RefusalReason::BadToken
        }
        TokenRefusal::Expired(_) => RefusalReason::TokenExpired,
        TokenRefusal::NotYet(_) => RefusalReason::TokenNotYet,
        TokenRefusal::Revoked => RefusalReason::Revoked,
        TokenRefusal::Unavailable(_) => RefusalReason::AuthUnavailable,
    };
    Refusal::new(reason, why.to_string())
}

/// The name that a registration is for: the requested name, or the derived name if none is requested.
fn routed_name(
    register: &Register,
    key: &AgentKey,
    machine: &MachineId,
) -> Result<TunnelId, Refusal> {
    let derived = TunnelId::derive(key, machine, &register.label);
    let name = match register.name.as_deref().map(TunnelId::parse) {
        None => return Ok(derived),
        Some(Ok(name)) => name,
        Some(Err(error)) => {
            return Err(Refusal::new(RefusalReason::NameInvalid, error.to_string()));
        }
    };
    if name.is_reserved() {
        let text = format!("{name} is a reserved name; ask for another name, or for no name");
        return Err(Refusal::new(RefusalReason::NameInvalid, text));
    }
    if name.looks_derived() && name != derived {
        let text = format!("{name} looks like a derived name of another agent");
        return Err(Refusal::new(RefusalReason::NameNotAllowed, text));
    }
    Ok(name)
}

fn permit(claims: &Claims, register: &Register, name: &TunnelId) -> Result<(), Refusal> {
    permit_dcc(claims, register)?;
    if claims.allows_tunnel(name.as_str()) {
        return Ok(());
    }
    let allowed = patterns(claims.tunnels.as_deref().unwrap_or_default());
    let text = match register.name {
        Some(_) => format!("the token is not for a tunnel called {name}, but for {allowed}"),
        None => format!(
            "the token is for {allowed}, but this tunnel has no name and would be called {name}: set a name \
             that the token allows, --to NAME=TARGET"
        ),
    };
    Err(Refusal::new(RefusalReason::NameNotAllowed, text))
}

/// The name patterns of a token, for a message; only the first few of a long list.
fn patterns(all: &[String]) -> String {
    const SHOWN_MAX: usize = 8;
    const CHARS_MAX: usize = 64;
    if all.is_empty() {
        return "no tunnel at all".to_owned();
    }
    let shown = all.iter().take(SHOWN_MAX);
    // A token's claims may hold any character: drop control characters.
    let shown: Vec<String> = shown
        .map(|it| {
            it.chars()
                .filter(|c| !c.is_control())
                .take(CHARS_MAX)
                .collect()
        })
        .collect();
    let more = if all.len() > SHOWN_MAX { ", …" } else { "" };
    format!("tunnels called {}{more}", shown.join(", "))
}

fn permit_dcc(claims: &Claims, register: &Register) -> Result<(), Refusal> {
    if claims.allows_dcc(&register.dcc) {
        return Ok(());
    }
    let text = match register.dcc.as_str() {
        "" => "the token is for certain applications only: --dcc NAME".to_owned(),
        // A refusal's message is shorter than the longest `dcc` of a registration.
        dcc => format!(
            "the token is not for dcc {:?}",
            dcc.chars().take(64).collect::<String>()
        ),
    };
    Err(Refusal::new(RefusalReason::DccNotAllowed, text))
}

/// Signs a token with the claims of `order`, valid from `now_seconds` for `ttl_seconds`.
///
/// # Errors
/// [`ClaimsError`] if the token would be longer than a relay accepts.
pub fn issue_token(
    order: TokenOrder,
    key: &Key,
    number: String,
    now_seconds: u64,
    ttl_seconds: u64,
) -> Result<String, ClaimsError> {
    let claims = Claims {
        exp: now_seconds.saturating_add(ttl_seconds),
        iat: Some(now_seconds),
        jti: Some(number),
        ..ordered(order)
    };
    tieline_token::issue(&claims, key)
}

fn ordered(order: TokenOrder) -> Claims {
    let unless_empty = |list: Vec<String>| (!list.is_empty()).then_some(list);
    Claims {
        sub: order.subject,
        iss: order.issuer,
        aud: unless_empty(order.audience),
        allowed_dcc: unless_empty(order.dcc),
        tunnels: unless_empty(order.tunnels),
        scope: unless_empty(order.scopes),
        groups: order.groups,
        reach: order.reach,
        shared: order.shared,
        ..Claims::default()
    }
}

/// Makes the static token of `order` from `random` bits. Returns the token and its entry for the tokens
/// file.
///
/// # Errors
/// [`ClaimsError`] if a relay would not accept the entry.
pub fn new_token(
    order: TokenOrder,
    random: &[u8; 32],
    expires_at_seconds: Option<u64>,
) -> Result<(String, String), ClaimsError> {
    let claims = ordered(order);
    claims.check_form()?;
    if claims.sub.chars().any(char::is_control) {
        let text = "`sub` holds a control character".to_owned();
        return Err(ClaimsError::Malformed(text));
    }
    let token = format!(
        "{TOKEN_PREFIX}{}",
        data_encoding::BASE64URL_NOPAD.encode(random)
    );
    // A JSON string without control characters is also a TOML string.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let list = |name: &str, values: &[String]| {
        let values: Vec<_> = values.iter().map(|value| quoted(value)).collect();
        format!("{name} = [{}]\n", values.join(", "))
    };
    let mut entry = format!(
        "[[token]]\nsub = {}\nhash = \"{}\"\n",
        quoted(&claims.sub),
        TokenHash::of(&token)
    );
    for (name, values) in [
        ("tunnels", claims.tunnels.as_deref()),
        ("dcc", claims.allowed_dcc.as_deref()),
        ("scope", claims.scope.as_deref()),
        ("groups", Some(&claims.groups[..])),
        ("reach", Some(&claims.reach[..])),
    ] {
        if let Some(values) = values.filter(|values| !values.is_empty()) {
            entry += &list(name, values);
        }
    }
    if claims.shared {
        entry += "shared = true\n";
    }
    if let Some(end) = expires_at_seconds {
        entry += &format!("expires = {}\n", rfc3339(end));
    }
    Ok((token, entry))
}

#[cfg(test)]
mod tests;
