//! Whether an agent may register what it asks for, and the tokens that say so.

use std::net::SocketAddr;

use tieline_wire::claims::{self, Claims, ClaimsError, Expected, Key, Scope};
use tieline_wire::{Reason, Refusal, Register, TunnelId};

use crate::cli::TokenOrder;
use crate::config::{Auth, JwtAuth};

/// What a registration may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Permission {
    /// Whom the token names; nobody without authentication.
    pub(crate) subject: Option<String>,
    /// The name that was asked for, as it is to be routed on; without one the relay derives it.
    pub(crate) name: Option<TunnelId>,
    /// The first second since 1970 at which the permission is over; never without a token.
    pub(crate) expires_at_seconds: Option<u64>,
}

/// Decides on one registration of the agent at `peer`, at `now_seconds` since 1970.
///
/// # Errors
/// The refusal to send back; [`Reason::TokenExpired`] alone is worth another try.
pub(crate) fn authorize(
    auth: &Auth,
    register: &Register,
    peer: SocketAddr,
    now_seconds: u64,
) -> Result<Permission, Refusal> {
    let name = match register.name.as_deref().map(TunnelId::parse).transpose() {
        Ok(name) => name,
        Err(error) => return Err(refusal(Reason::NameInvalid, error.to_string())),
    };
    match auth {
        Auth::Open { anywhere } => {
            if !anywhere && !peer.ip().to_canonical().is_loopback() {
                let text = "this relay runs without authentication and takes local agents only";
                return Err(refusal(Reason::NotLoopback, text.to_owned()));
            }
            Ok(Permission {
                subject: None,
                name,
                expires_at_seconds: None,
            })
        }
        Auth::Jwt(jwt) => {
            let claims = verify(jwt, register, now_seconds)?;
            permit(&claims, register, name.as_ref())?;
            Ok(Permission {
                name,
                expires_at_seconds: Some(claims.expires_at_seconds()),
                subject: Some(claims.sub),
            })
        }
    }
}

fn verify(jwt: &JwtAuth, register: &Register, now_seconds: u64) -> Result<Claims, Refusal> {
    if register.token.is_empty() {
        let text = "this relay wants a token: --token-file FILE";
        return Err(refusal(Reason::BadToken, text.to_owned()));
    }
    let token = register.token.reveal();
    let expected = Expected {
        issuer: jwt.issuer.as_deref(),
        audience: &jwt.audience,
    };
    claims::verify(token, &jwt.keys, now_seconds, &expected).map_err(|error| {
        let reason = match error {
            ClaimsError::Expired { .. } => Reason::TokenExpired,
            _ => Reason::BadToken,
        };
        refusal(reason, error.to_string())
    })
}

fn permit(claims: &Claims, register: &Register, name: Option<&TunnelId>) -> Result<(), Refusal> {
    if !claims.allows_scope(Scope::Agent) {
        let text = "the token's scope does not include `agent`";
        return Err(refusal(Reason::BadToken, text.to_owned()));
    }
    if !claims.allows_dcc(&register.dcc) {
        let text = match register.dcc.as_str() {
            "" => "the token is for certain applications only: --dcc NAME".to_owned(),
            // A refusal has less room than a registration.
            dcc => format!(
                "the token is not for dcc {:?}",
                dcc.chars().take(64).collect::<String>()
            ),
        };
        return Err(refusal(Reason::DccNotAllowed, text));
    }
    if let Some(name) = name
        && !claims.allows_tunnel(name.as_str())
    {
        let text = format!("the token is not for a tunnel called {name}");
        return Err(refusal(Reason::NameNotAllowed, text));
    }
    Ok(())
}

fn refusal(reason: Reason, message: String) -> Refusal {
    Refusal { reason, message }
}

/// Signs the token that `order` asks for: valid from `now_seconds` on, for `ttl_seconds`.
///
/// # Errors
/// [`ClaimsError`] if it would be longer than a relay accepts.
pub fn issue_token(
    order: TokenOrder,
    key: &Key,
    number: String,
    now_seconds: u64,
    ttl_seconds: u64,
) -> Result<String, ClaimsError> {
    let unless_empty = |list: Vec<String>| (!list.is_empty()).then_some(list);
    let claims = Claims {
        sub: order.subject,
        exp: now_seconds.saturating_add(ttl_seconds),
        iss: order.issuer,
        nbf: None,
        iat: Some(now_seconds),
        jti: Some(number),
        allowed_dcc: unless_empty(order.dcc),
        tunnels: unless_empty(order.tunnels),
        scope: unless_empty(order.scopes),
        aud: unless_empty(order.audience),
        groups: order.groups,
        reach: order.reach,
        shared: order.shared,
    };
    claims::issue(&claims, key)
}

#[cfg(test)]
mod tests {
    use tieline_wire::{Scheme, Token};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn key() -> Key {
        Key::hs256(&[7; 32]).unwrap()
    }

    fn jwt(issuer: Option<&str>) -> Auth {
        Auth::Jwt(JwtAuth {
            keys: key().into(),
            issuer: issuer.map(str::to_owned),
            audience: Vec::new(),
        })
    }

    fn order() -> TokenOrder {
        TokenOrder {
            subject: "ada".to_owned(),
            ..TokenOrder::default()
        }
    }

    fn token(order: TokenOrder) -> String {
        issue_token(order, &key(), "1".to_owned(), NOW, 3600).unwrap()
    }

    fn register(name: Option<&str>, dcc: &str, token: &str) -> Register {
        Register {
            request: 1,
            name: name.map(str::to_owned),
            label: "127.0.0.1:8765".to_owned(),
            scheme: Scheme::Http,
            authority: "127.0.0.1:8765".to_owned(),
            base_path: "/mcp".to_owned(),
            dcc: dcc.to_owned(),
            capabilities: vec![],
            token: Token::new(token.to_owned()),
        }
    }

    fn peer(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), 40_000)
    }

    fn reason(auth: &Auth, register: &Register, now: u64) -> Option<Reason> {
        authorize(auth, register, peer("192.0.2.1"), now)
            .err()
            .map(|refusal| refusal.reason)
    }

    #[test]
    fn open_takes_local_agents_only_unless_said_otherwise() {
        let closed = Auth::Open { anywhere: false };
        let anywhere = Auth::Open { anywhere: true };
        let ask = register(Some("Maya-1"), "maya", "");
        for local in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            let permission = authorize(&closed, &ask, peer(local), NOW).unwrap();
            assert_eq!(permission.name, Some(TunnelId::parse("maya-1").unwrap()));
            assert_eq!(
                (permission.subject, permission.expires_at_seconds),
                (None, None)
            );
        }
        for remote in ["192.0.2.1", "10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1"] {
            let refusal = authorize(&closed, &ask, peer(remote), NOW).unwrap_err();
            assert_eq!(refusal.reason, Reason::NotLoopback, "{remote}");
            assert!(authorize(&anywhere, &ask, peer(remote), NOW).is_ok());
        }
    }

    #[test]
    fn a_name_must_be_one_in_every_mode() {
        for auth in [Auth::Open { anywhere: true }, jwt(None)] {
            let ask = register(Some("a.b"), "maya", &token(order()));
            assert_eq!(reason(&auth, &ask, NOW), Some(Reason::NameInvalid));
        }
    }

    #[test]
    fn a_good_token_says_who_and_until_when() {
        let ask = register(None, "maya", &token(order()));
        let permission = authorize(&jwt(None), &ask, peer("192.0.2.1"), NOW).unwrap();
        let expires_at_seconds = Some(NOW + 3600 + claims::LEEWAY_SECONDS);
        let subject = Some("ada".to_owned());
        assert_eq!(
            permission,
            Permission {
                subject,
                name: None,
                expires_at_seconds
            }
        );
    }

    #[test]
    fn an_expired_token_may_be_renewed_and_a_bad_one_ends_it() {
        let good = token(order());
        let ask = register(None, "", &good);
        assert_eq!(reason(&jwt(None), &ask, NOW + 3600), None);
        let late = reason(&jwt(None), &ask, NOW + 3660).unwrap();
        assert_eq!((late, late.is_final()), (Reason::TokenExpired, false));

        let other = issue_token(order(), &Key::hs256(&[8; 32]).unwrap(), "1".into(), NOW, 1);
        for bad in ["", "x", "a.b.c", &other.unwrap()] {
            let refused = reason(&jwt(None), &register(None, "", bad), NOW).unwrap();
            assert_eq!((refused, refused.is_final()), (Reason::BadToken, true));
        }
        assert_eq!(
            reason(&jwt(Some("studio")), &ask, NOW),
            Some(Reason::BadToken)
        );
        let ours = token(TokenOrder {
            issuer: Some("studio".into()),
            ..order()
        });
        assert_eq!(
            reason(&jwt(Some("studio")), &register(None, "", &ours), NOW),
            None
        );
    }

    #[test]
    fn a_token_allows_what_it_names() {
        let auth = jwt(None);
        let dcc = token(TokenOrder {
            dcc: vec!["maya".into(), "nuke".into()],
            ..order()
        });
        assert_eq!(reason(&auth, &register(None, "maya", &dcc), NOW), None);
        for dcc_asked in ["", "Maya", "blender"] {
            let refused = reason(&auth, &register(None, dcc_asked, &dcc), NOW);
            assert_eq!(refused, Some(Reason::DccNotAllowed), "{dcc_asked:?}");
        }

        let names = token(TokenOrder {
            tunnels: vec!["maya-*".into()],
            ..order()
        });
        for allowed in [None, Some("maya-1"), Some("MAYA-1")] {
            assert_eq!(
                reason(&auth, &register(allowed, "", &names), NOW),
                None,
                "{allowed:?}"
            );
        }
        let refused = reason(&auth, &register(Some("nuke-1"), "", &names), NOW);
        assert_eq!(refused, Some(Reason::NameNotAllowed));

        for (scope, outcome) in [
            ("agent", None),
            ("caller", Some(Reason::BadToken)),
            ("admin", Some(Reason::BadToken)),
        ] {
            let scoped = token(TokenOrder {
                scopes: vec![scope.into()],
                ..order()
            });
            assert_eq!(
                reason(&auth, &register(None, "", &scoped), NOW),
                outcome,
                "{scope}"
            );
        }
    }

    #[test]
    fn a_refusal_fits_its_frame_and_keeps_the_token_to_itself() {
        let long = "x".repeat(1024);
        let dcc = token(TokenOrder {
            dcc: vec![],
            ..order()
        });
        for ask in [
            register(Some(&long), &long, &dcc),
            register(
                None,
                &long,
                &token(TokenOrder {
                    dcc: vec!["a".into()],
                    ..order()
                }),
            ),
            register(None, "", &long),
        ] {
            let refusal = authorize(&jwt(None), &ask, peer("127.0.0.1"), NOW).unwrap_err();
            assert!(refusal.message.len() < 1024, "{}", refusal.message.len());
            assert!(!refusal.message.contains(ask.token.reveal()));
        }
    }
}
