//! Tests of admission by a whole relay: which agents may register, and which lose their tunnels or links.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod agent;
mod elsewhere;
mod limits;
mod server;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use agent::{Agent, post};
use tieline_relay::cli::TokenOrder;
use tieline_relay::config::{TokenHash, read_denylist, read_tokens};
use tieline_relay::{Auth, Config, JwtAuth, Relay, TokensAuth, issue_token};
use tieline_token::Key;
use tieline_wire::{LinkEnd, RefusalReason};

fn start(change: impl FnOnce(&mut Config)) -> Relay {
    let mut config = Config {
        shards: 2,
        ..Config::default()
    };
    change(&mut config);
    Relay::start(config).unwrap()
}

/// Replaces a file as an editor does: writes a new file and renames it over the old one.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

fn entry(token: &str, more: &str) -> String {
    let hash = TokenHash::of(token);
    format!("[[token]]\nsub = \"{token}\"\nhash = \"{hash}\"\n{more}\n")
}

#[test]
fn a_token_that_leaves_its_file_takes_its_links_along() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    replace(&path, &[entry("one", ""), entry("two", "")].concat());
    let relay = start(|config| {
        config.auth = Auth::Tokens(TokensAuth {
            table: read_tokens(&path).unwrap(),
            file: Some(path.clone()),
        });
    });
    let mut agents = [Agent::dial(&relay, 1), Agent::dial(&relay, 2)];
    agents[0].register(Some("maya-1"), "one").unwrap();
    agents[1].register(Some("maya-2"), "two").unwrap();
    assert_eq!(
        Agent::dial(&relay, 3).refused(None, "three"),
        RefusalReason::BadToken
    );

    replace(&path, &entry("two", "groups = [\"fx\"]"));
    relay.reload();
    assert_eq!(agents[0].ended(), LinkEnd::Revoked);
    assert_eq!(agents[1].ended(), LinkEnd::AuthChanged);
    assert_eq!(
        Agent::dial(&relay, 1).refused(None, "one"),
        RefusalReason::BadToken
    );
    let mut again = Agent::dial(&relay, 2);
    again.register(Some("maya-2"), "two").unwrap();

    // A change is found without a reload as well.
    replace(&path, "");
    assert_eq!(again.ended(), LinkEnd::Revoked);
}

fn signed(sub: &str, number: &str) -> String {
    let order = TokenOrder {
        subject: sub.to_owned(),
        ..TokenOrder::default()
    };
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let key = Key::hs256(&[7; 32]).unwrap();
    issue_token(order, &key, number.to_owned(), now.as_secs(), 3600).unwrap()
}

#[test]
fn a_revocation_cuts_the_links_behind_it_and_no_others() {
    let relay = start(|config| {
        config.auth = Auth::Jwt(JwtAuth {
            keys: Key::hs256(&[7; 32]).unwrap().into(),
            ..JwtAuth::default()
        });
    });
    let admin = relay.admin_addresses()[0];
    let mut agents: Vec<Agent> = (1..=4).map(|seed| Agent::dial(&relay, seed)).collect();
    for (agent, (sub, number)) in
        agents
            .iter_mut()
            .zip([("ada", "1"), ("bob", "2"), ("eve", "3"), ("ada", "4")])
    {
        agent.register(None, &signed(sub, number)).unwrap();
    }
    let shown = format!("{:?}", agents[1].key());
    let mut revoke = |body: &str, cut: &[usize]| {
        let asked_at = Instant::now();
        let (status, answer) = post(admin, "/revoke", body);
        let wanted = format!(r#""links_ended":{}"#, cut.len());
        assert!(status == 200 && answer.contains(&wanted), "{answer}");
        for index in cut {
            assert_eq!(agents[*index].ended(), LinkEnd::Revoked);
        }
        asked_at.elapsed()
    };
    let took = [
        revoke(r#"{"jti":"1"}"#, &[0]),
        revoke(&format!(r#"{{"key":"{shown}"}}"#), &[1]),
        revoke(r#"{"sub":"nobody"}"#, &[]),
        revoke(r#"{"sub":"ada"}"#, &[3]),
    ];
    assert!(
        took.iter().all(|it| *it < Duration::from_secs(1)),
        "{took:?}"
    );

    // Revoked agents and tokens are refused when they come back.
    let mut again = Agent::dial(&relay, 5);
    assert_eq!(
        again.refused(None, &signed("ada", "9")),
        RefusalReason::Revoked
    );
    assert_eq!(
        again.refused(None, &signed("carl", "1")),
        RefusalReason::Revoked
    );
    again.register(None, &signed("carl", "5")).unwrap();
    assert_eq!(Agent::dial(&relay, 2).ended(), LinkEnd::Revoked);
    agents[2].register(None, &signed("eve", "3")).unwrap();
}

#[test]
fn a_denylist_holds_in_every_mode_and_follows_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("denied.toml");
    replace(&path, "");
    let relay = start(|config| {
        config.denylist = read_denylist(&path).unwrap();
        config.denylist_file = Some(path.clone());
    });
    let mut agent = Agent::dial(&relay, 1);
    agent.register(None, "").unwrap();
    let shown = format!("{:?}", agent.key());
    replace(&path, &format!("key = [{shown:?}]"));
    relay.reload();
    assert_eq!(agent.ended(), LinkEnd::Revoked);
    assert_eq!(Agent::dial(&relay, 1).ended(), LinkEnd::Revoked);
    replace(&path, "");
    relay.reload();
    // Tries until the shard of the new link has the new denylist.
    let deadline = Instant::now() + agent::SOON;
    loop {
        let mut again = Agent::dial(&relay, 1);
        if again.try_register() {
            return;
        }
        assert!(Instant::now() < deadline);
    }
}
