use super::*;
use crate::config::{Denied, Denylist, TokenHash, TokensAuth, read_tokens};

fn owner(sub: &str, groups: &[&str]) -> Owner {
    Owner {
        sub: sub.to_owned(),
        groups: groups.iter().map(|it| (*it).to_owned()).collect(),
    }
}

fn caller(sub: &str, groups: &[&str], reach: &[&str]) -> Identity {
    Identity {
        owner: Arc::new(owner(sub, groups)),
        reach: reach.iter().map(|it| (*it).to_owned()).collect(),
        ..Identity::default()
    }
}

#[test]
fn a_caller_reaches_its_own_its_groups_and_what_its_token_names() {
    let maya = TunnelId::parse("maya-1").unwrap();
    let reaches = |caller: &Identity, owner: Option<&Owner>| may_reach(caller, &maya, owner);
    let (ada, of_fx) = (owner("ada", &[]), owner("bob", &["fx", "lighting"]));
    assert!(reaches(&caller("ada", &[], &[]), Some(&ada)));
    assert!(!reaches(&caller("Ada", &[], &[]), Some(&ada)));
    assert!(!reaches(&caller("eve", &[], &[]), Some(&ada)));
    assert!(!reaches(&caller("eve", &["ada"], &[]), Some(&ada)));
    assert!(reaches(&caller("eve", &["dev", "fx"], &[]), Some(&of_fx)));
    assert!(!reaches(&caller("eve", &["FX", "dev"], &[]), Some(&of_fx)));
    assert!(!reaches(&caller("fx", &[], &[]), Some(&of_fx)));
    for owner in [None, Some(&ada)] {
        assert!(reaches(&caller("eve", &[], &["Maya-*"]), owner));
        assert!(!reaches(&caller("eve", &[], &["nuke-*", ""]), owner));
    }
    // A tunnel without an owner is not reached by a caller with an empty subject.
    assert!(!reaches(&caller("", &[], &[]), None));
}

fn tokens(text: &str) -> Snapshot {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    std::fs::write(&path, text).unwrap();
    snapshot(Auth::Tokens(TokensAuth {
        table: read_tokens(&path).unwrap(),
        file: None,
    }))
}

fn entry(token: &str, more: &str) -> String {
    let hash = TokenHash::of(token);
    format!("[[token]]\nsub = \"ada\"\nhash = \"{hash}\"\n{more}\n")
}

#[test]
fn a_static_token_allows_what_its_entry_says() {
    let auth = tokens(
        &[
            entry("any", ""),
            entry("maya", "dcc = [\"maya\"]\ntunnels = [\"maya-*\"]"),
            entry("caller", "scope = [\"caller\"]\ngroups = [\"fx\"]"),
            // 2027-01-15T08:00:00Z is NOW.
            entry("short", "expires = 2027-01-15T09:00:01+01:00"),
        ]
        .concat(),
    );
    let at = |token: &str, dcc: &str, name: Option<&str>, now: u64| {
        reason(&auth, &register(name, dcc, token), now)
    };
    assert_eq!(at("any", "", Some("x"), NOW), None);
    assert_eq!(at("maya", "maya", Some("maya-1"), NOW), None);
    assert_eq!(
        at("maya", "", None, NOW),
        Some(RefusalReason::DccNotAllowed)
    );
    let name = at("maya", "maya", Some("nuke"), NOW);
    assert_eq!(name, Some(RefusalReason::NameNotAllowed));
    for bad in ["", "An", "any ", "caller"] {
        assert_eq!(
            at(bad, "", None, NOW),
            Some(RefusalReason::BadToken),
            "{bad}"
        );
    }
    assert_eq!(at("short", "", None, NOW), None);
    assert_eq!(
        at("short", "", None, NOW + 1),
        Some(RefusalReason::TokenExpired)
    );

    let caller = verify_caller(&auth, "caller", NOW).unwrap();
    assert_eq!(
        (caller.sub(), &caller.owner.groups[..]),
        ("ada", &["fx".to_owned()][..])
    );
    assert!(verify_caller(&auth, "any", NOW).is_ok());
    let refused = |token| verify_caller(&auth, token, NOW).unwrap_err();
    assert_eq!(refused(""), TokenRefusal::Missing);
    assert!(matches!(refused("other"), TokenRefusal::Bad(_)));
    let no_tokens = verify_caller(&open(true), "any", NOW);
    assert_eq!(no_tokens, Err(TokenRefusal::NoTokens));
}

#[test]
fn a_signed_token_makes_a_caller_with_all_its_claims() {
    let auth = jwt(None);
    let ours = token(TokenOrder {
        groups: vec!["fx".into()],
        reach: vec!["farm-*".into()],
        shared: true,
        scopes: vec!["caller".into()],
        ..order()
    });
    let caller = verify_caller(&auth, &ours, NOW).unwrap();
    assert_eq!((caller.sub(), caller.shared), ("ada", true));
    assert_eq!(caller.owner.groups, ["fx"]);
    assert_eq!(caller.reach, ["farm-*"]);
    let late = verify_caller(&auth, &ours, NOW + 3700);
    assert!(matches!(late, Err(TokenRefusal::Expired(_))));
    let for_agents = token(TokenOrder {
        scopes: vec!["agent".into()],
        ..order()
    });
    let refused = verify_caller(&auth, &for_agents, NOW).unwrap_err();
    assert_eq!(refused, TokenRefusal::Scope(Scope::Caller));
    assert_eq!(
        refused.to_string(),
        "the token's scope does not include `caller`"
    );
}

#[test]
fn what_is_denied_is_let_in_no_more_and_does_not_stay() {
    let good = token(order());
    let identity = verify_caller(&jwt(None), &good, NOW).unwrap();
    for denied in [
        Denied::Number("1".into()),
        Denied::Subject("ada".into()),
        Denied::parse_key(&format!("{:?}", AGENT.0)).unwrap(),
    ] {
        let mut auth = jwt(None);
        let mut list = Denylist::default();
        list.add(denied.clone());
        auth.denied = Arc::new(list);
        let refused = reason(&auth, &register(None, "", &good), NOW);
        assert_eq!(refused, Some(RefusalReason::Revoked), "{denied:?}");
        let stays = auth.still_allows(Some(&identity), Some(AGENT.0), NOW);
        assert_eq!(stays, Err(AccessEnd::Revoked));
        let by_key = matches!(denied, Denied::Key(_));
        assert_eq!(verify_caller(&auth, &good, NOW).is_ok(), by_key);
        let nobody = auth.still_allows(None, Some(&AgentKey::new([4; 32])), NOW);
        assert_eq!(nobody, Ok(()));
    }
}

#[test]
fn a_static_token_that_could_not_be_told_from_the_text_around_it_is_refused() {
    let long = "a".repeat(257);
    let odd = [
        "made by hand",
        "a!b",
        "a&b",
        "a;b",
        "a,b",
        "\"a\"",
        "50%",
        "=a",
        "a=b",
        "{a}",
        "ä",
        &long,
    ];
    let auth = tokens(&odd.map(|token| entry(token, "")).concat());
    for token in odd {
        let refusal = verify_caller(&auth, token, NOW).unwrap_err().to_string();
        assert!(
            refusal.contains("`tieline-relay token new` makes one"),
            "{token}: {refusal}"
        );
        let refused = reason(&auth, &register(None, "", token), NOW);
        assert_eq!(refused, Some(RefusalReason::BadToken), "{token}");
    }
    let fit = ["a-._~+/b==", &long[1..]];
    let auth = tokens(&fit.map(|token| entry(token, "")).concat());
    assert!(
        fit.iter()
            .all(|token| verify_caller(&auth, token, NOW).is_ok())
    );
}

#[test]
fn a_static_token_ends_with_its_entry_and_a_changed_entry_wants_a_new_registration() {
    let before = tokens(&[entry("one", ""), entry("two", "")].concat());
    let [one, two] = ["one", "two"].map(|it| verify_caller(&before, it, NOW).unwrap());
    assert_eq!(before.still_allows(Some(&one), None, NOW), Ok(()));
    let after = tokens(&entry("two", "groups = [\"fx\"]"));
    let stays = |identity| after.still_allows(Some(identity), None, NOW);
    assert_eq!(stays(&one), Err(AccessEnd::Revoked));
    assert_eq!(stays(&two), Err(AccessEnd::Changed));
    assert!(!RefusalReason::AuthChanged.is_final() && RefusalReason::Revoked.is_final());
}

#[test]
fn a_key_that_may_be_learnt_is_worth_another_try() {
    let mut signed = Signed::default();
    let good = token(order());
    let at = |signed: &Signed| {
        let auth = Snapshot {
            mode: Mode::Jwt(Arc::new(signed.clone())),
            ..jwt(None)
        };
        reason(&auth, &register(None, "", &good), NOW)
    };
    assert_eq!(at(&signed), Some(RefusalReason::BadToken));
    (signed.may_learn, signed.is_ignorant) = (true, true);
    assert_eq!(at(&signed), Some(RefusalReason::AuthUnavailable));
    signed.keys = key().into();
    assert_eq!(at(&signed), None);
}
