mod identities;
mod provider;

use tieline_wire::{Scheme, Token};

use super::*;
use crate::config::{Auth, Config, JwtAuth};

const NOW: u64 = 1_800_000_000;

fn key() -> Key {
    Key::hs256(&[7; 32]).unwrap()
}

fn snapshot(auth: Auth) -> Snapshot {
    Snapshot::of(&Config {
        auth,
        ..Config::default()
    })
}

fn open(anywhere: bool) -> Snapshot {
    snapshot(Auth::Open { anywhere })
}

fn jwt(issuer: Option<&str>) -> Snapshot {
    snapshot(Auth::Jwt(JwtAuth {
        keys: key().into(),
        issuer: issuer.map(str::to_owned),
        ..JwtAuth::default()
    }))
}

fn granted(admission: Result<Admission, Refusal>) -> Permission {
    match admission {
        Ok(Admission::Granted(permission)) => permission,
        other => panic!("{other:?}"),
    }
}

const AGENT: (&AgentKey, &MachineId) = (&AgentKey::new([3; 32]), &MachineId::new([1; 16]));

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
        expose_all: false,
    }
}

/// Whether the agent of a test runs on the relay's machine.
const HERE: bool = true;
const ELSEWHERE: bool = false;

fn reason(auth: &Snapshot, register: &Register, now: u64) -> Option<RefusalReason> {
    authorize(auth, register, AGENT, ELSEWHERE, now)
        .err()
        .map(|refusal| refusal.reason)
}

#[test]
fn open_takes_local_agents_only_unless_said_otherwise() {
    let closed = open(false);
    let anywhere = open(true);
    let ask = register(Some("Maya-1"), "maya", "");
    let permission = granted(authorize(&closed, &ask, AGENT, HERE, NOW));
    assert_eq!(permission.name.as_str(), "maya-1");
    assert_eq!(
        (permission.identity, permission.expires_at_seconds),
        (None, None)
    );
    let refusal = authorize(&closed, &ask, AGENT, ELSEWHERE, NOW).unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::NotLoopback);
    assert!(authorize(&anywhere, &ask, AGENT, ELSEWHERE, NOW).is_ok());
}

#[test]
fn a_name_must_be_one_in_every_mode() {
    for auth in [open(true), jwt(None)] {
        for name in ["a.b", "mcp", "xn--mya-2na"] {
            let ask = register(Some(name), "maya", &token(order()));
            assert_eq!(
                reason(&auth, &ask, NOW),
                Some(RefusalReason::NameInvalid),
                "{name}"
            );
        }
    }
}

#[test]
fn a_good_token_says_who_and_until_when() {
    let ask = register(None, "maya", &token(order()));
    let permission = granted(authorize(&jwt(None), &ask, AGENT, ELSEWHERE, NOW));
    let expires_at_seconds = Some(NOW + 3600 + tieline_token::LEEWAY_SECONDS);
    assert!(permission.name.looks_derived());
    assert_eq!(permission.expires_at_seconds, expires_at_seconds);
    let identity = permission.identity.unwrap();
    assert_eq!(
        (identity.sub(), identity.jti.as_deref()),
        ("ada", Some("1"))
    );
}

#[test]
fn an_expired_token_may_be_renewed_and_a_bad_one_ends_it() {
    let good = token(order());
    let ask = register(None, "", &good);
    assert_eq!(reason(&jwt(None), &ask, NOW + 3600), None);
    let late = reason(&jwt(None), &ask, NOW + 3660).unwrap();
    assert_eq!(
        (late, late.is_final()),
        (RefusalReason::TokenExpired, false)
    );

    // Issued by a machine whose clock is two minutes ahead.
    let ahead = Claims {
        exp: NOW + 3600,
        nbf: Some(NOW + 120),
        ..ordered(order())
    };
    let ahead = tieline_token::issue(&ahead, &key()).unwrap();
    let early = reason(&jwt(None), &register(None, "", &ahead), NOW).unwrap();
    assert_eq!(
        (early, early.is_final()),
        (RefusalReason::TokenNotYet, false)
    );
    let leeway = NOW + 120 - tieline_token::LEEWAY_SECONDS;
    assert_eq!(
        reason(&jwt(None), &register(None, "", &ahead), leeway),
        None
    );

    let other = issue_token(order(), &Key::hs256(&[8; 32]).unwrap(), "1".into(), NOW, 1);
    for bad in ["", "x", "a.b.c", &other.unwrap()] {
        let refused = reason(&jwt(None), &register(None, "", bad), NOW).unwrap();
        assert_eq!(
            (refused, refused.is_final()),
            (RefusalReason::BadToken, true)
        );
    }
    assert_eq!(
        reason(&jwt(Some("studio")), &ask, NOW),
        Some(RefusalReason::BadToken)
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
        assert_eq!(refused, Some(RefusalReason::DccNotAllowed), "{dcc_asked:?}");
    }

    let names = token(TokenOrder {
        tunnels: vec!["maya-*".into()],
        ..order()
    });
    for allowed in ["maya-1", "MAYA-1"].map(Some) {
        assert_eq!(
            reason(&auth, &register(allowed, "", &names), NOW),
            None,
            "{allowed:?}"
        );
    }
    let refused = reason(&auth, &register(Some("nuke-1"), "", &names), NOW);
    assert_eq!(refused, Some(RefusalReason::NameNotAllowed));

    for (scope, outcome) in [
        ("agent", None),
        ("caller", Some(RefusalReason::BadToken)),
        ("admin", Some(RefusalReason::BadToken)),
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
fn a_derived_name_must_be_one_that_the_token_allows_too() {
    let auth = jwt(None);
    let of = |tunnels: &[&str]| {
        token(TokenOrder {
            tunnels: tunnels.iter().map(|it| (*it).to_owned()).collect(),
            ..order()
        })
    };
    // The label derives a name that the callers of another owner trust.
    let ask = |token: &str| Register {
        label: "farm 2".to_owned(),
        ..register(None, "", token)
    };
    let refusal = authorize(&auth, &ask(&of(&["eve-*"])), AGENT, ELSEWHERE, NOW);
    let refusal = refusal.unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::NameNotAllowed);
    let derived = TunnelId::derive(AGENT.0, AGENT.1, "farm 2");
    for part in ["eve-*", derived.as_str(), "--to NAME=TARGET"] {
        assert!(refusal.message.contains(part), "{refusal}");
    }
    for allowed in [
        &["farm-*"][..],
        &["eve-*", "f*"],
        &[derived.as_str()],
        &["*"],
        &[],
    ] {
        assert_eq!(reason(&auth, &ask(&of(allowed)), NOW), None, "{allowed:?}");
    }
    // A registration that asks for the derived name is refused too.
    let named = Register {
        name: Some(derived.to_string()),
        ..ask(&of(&["eve-*"]))
    };
    assert_eq!(
        reason(&auth, &named, NOW),
        Some(RefusalReason::NameNotAllowed)
    );
}

#[test]
fn a_name_that_another_agent_derives_is_refused_in_every_mode() {
    let other = TunnelId::derive(&AgentKey::new([4; 32]), AGENT.1, "127.0.0.1:8765");
    for auth in [open(true), jwt(None)] {
        let ask = register(Some(other.as_str()), "", &token(order()));
        assert_eq!(
            reason(&auth, &ask, NOW),
            Some(RefusalReason::NameNotAllowed)
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
        register(
            None,
            "",
            &token(TokenOrder {
                tunnels: (0..40).map(|n| format!("{n}{}", "y".repeat(240))).collect(),
                ..order()
            }),
        ),
    ] {
        let refusal = authorize(&jwt(None), &ask, AGENT, HERE, NOW).unwrap_err();
        assert!(refusal.message.len() < 1024, "{}", refusal.message.len());
        assert!(!refusal.message.contains(ask.token.reveal()));
    }
}
