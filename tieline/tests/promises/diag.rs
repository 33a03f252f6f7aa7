//! Tests of `tieline diag`: what it finds, and that it takes no tunnel from a running agent.

use std::os::unix::fs::PermissionsExt;
use std::process::Output;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use tieline_wire::{Event, RefusalReason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::command_line::{output, tieline};
use crate::rig::{Agent, Relay, soon};

/// A listener that stands for a target, and its address.
async fn target() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

async fn diag(state: &tempfile::TempDir, flags: &[&str]) -> Output {
    output(tieline(state).args(["diag", "--json"]).args(flags)).await
}

/// Name and outcome of each check, in order, and the whole output.
fn checks(output: &Output) -> (Vec<(String, String)>, String) {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let of = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap();
        let word = |name: &str| value[name].as_str().unwrap().to_owned();
        (word("check"), word("outcome"))
    };
    (text.lines().map(of).collect(), text)
}

fn outcome<'a>(checks: &'a [(String, String)], name: &str) -> &'a str {
    let found = checks.iter().find(|(check, _)| check == name);
    found.map_or("missing", |(_, outcome)| outcome)
}

#[tokio::test]
async fn a_way_that_works_is_ok_and_the_running_agent_keeps_its_tunnel() {
    let relay = Relay::bind().await;
    let mut agent = Agent::start(&relay, "127.0.0.1:1");
    let link = relay.accept_registered().await;
    let (_target, to) = target().await;
    let state = tempfile::tempdir().unwrap();
    let (url, flags) = (relay.url(), ["--relay", "--to"]);
    let flags = [flags[0], &url, flags[1], &to];
    let (output, ()) = tokio::join!(diag(&state, &flags), async {
        let mut trial = relay.accept().await;
        // The trial has another key and asks for no name, so the relay derives a name that no agent has.
        assert_ne!(trial.hello().key, link.hello().key);
        assert_eq!(trial.register().name, None);
        assert_ne!(trial.tunnel(), link.tunnel());
        trial.grant().await;
        match trial.event().await {
            Event::Unregister(tunnel) => assert_eq!(tunnel, trial.tunnel()),
            other => panic!("the trial must unregister its tunnel, not {other:?}"),
        }
        assert!(trial.try_event().await.is_none());
    });
    let (found, text) = checks(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
    let all = [
        "dns",
        "proxy",
        "tcp",
        "tls",
        "websocket",
        "quic",
        "key",
        "auth",
        "clock",
        "target",
    ];
    assert_eq!(names, all, "{text}");
    for (name, expected) in [
        ("dns", "not_applicable"),
        ("tcp", "ok"),
        ("tls", "not_applicable"),
        ("websocket", "not_applicable"),
        ("quic", "not_applicable"),
        ("key", "not_applicable"),
        ("auth", "ok"),
        ("clock", "not_applicable"),
        ("target", "ok"),
    ] {
        assert_eq!(outcome(&found, name), expected, "{name}: {text}");
    }
    assert!(text.contains("a tcp:// link does not use it"), "{text}");
    // The trial's key is not kept, and the running agent saw no event.
    assert!(!state.path().join("agent-key").exists());
    agent.saw_registered().await;
    assert!(agent.events.try_recv().is_err());
    agent.stop();
    assert!(agent.ended().await.is_ok());
}

#[tokio::test]
async fn a_key_that_others_can_read_and_a_token_that_a_network_can_read_are_told() {
    let state = tempfile::tempdir().unwrap();
    let token = state.path().join("token");
    std::fs::write(&token, "some-secret-token").unwrap();
    std::fs::set_permissions(&token, PermissionsExt::from_mode(0o600)).unwrap();
    let key = state.path().join("agent-key");
    std::fs::write(&key, [7; 32]).unwrap();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    // No network resolves this name, so the token goes nowhere.
    let flags = ["--relay", "tcp://relay.invalid:9001", "--token-file"];
    let flags = [flags[0], flags[1], flags[2], token.to_str().unwrap()];
    let (found, text) = checks(&diag(&state, &flags).await);
    assert_eq!(outcome(&found, "key"), "failed", "{text}");
    assert_eq!(outcome(&found, "clear_text"), "warning", "{text}");

    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    let (found, text) = checks(&diag(&state, &flags).await);
    assert_eq!(outcome(&found, "key"), "ok", "{text}");
}

#[tokio::test]
async fn what_names_the_proxy_or_exempts_the_relay_is_told() {
    let state = tempfile::tempdir().unwrap();
    let run = async |variables: &[(&str, &str)]| {
        let mut command = tieline(&state);
        for name in ["HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        let flags = ["diag", "--json", "--relay", "tcp://relay.invalid:9001"];
        let variables = variables.iter().copied();
        output(command.args(flags).envs(variables)).await
    };
    // No proxy listens at this port, and no network resolves the relay's name.
    let url = "http://ada:secret@127.0.0.1:1";
    for (variables, words) in [
        (
            vec![("HTTPS_PROXY", ""), ("https_proxy", url)],
            "is reached through http://127.0.0.1:1 (https_proxy)",
        ),
        (
            vec![("ALL_PROXY", url), ("NO_PROXY", "a.test, .invalid")],
            "ALL_PROXY set, and not used for relay.invalid:9001: the entry \\\".invalid\\\" of NO_PROXY exempts it",
        ),
        (
            vec![("HTTPS_PROXY", "none"), ("ALL_PROXY", url)],
            "none, as HTTPS_PROXY says",
        ),
    ] {
        let (_, text) = checks(&run(&variables).await);
        assert!(text.contains(words), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
    let wrong = run(&[("HTTPS_PROXY", "http://ada:sécret@127.0.0.1:1")]).await;
    assert_eq!(wrong.status.code(), Some(2));
    let text = String::from_utf8(wrong.stderr).unwrap();
    assert!(
        text.contains("HTTPS_PROXY") && text.contains("percent-encoded"),
        "{text}"
    );
    assert!(!text.contains("cret"), "{text}");
}

#[tokio::test]
async fn a_refusal_says_why_and_what_to_do() {
    let relay = Relay::bind().await;
    let state = tempfile::tempdir().unwrap();
    let token = state.path().join("token");
    std::fs::write(&token, "some-secret-token").unwrap();
    std::fs::set_permissions(&token, PermissionsExt::from_mode(0o600)).unwrap();
    let url = relay.url();
    let flags = ["--relay", &url, "--token-file", token.to_str().unwrap()];
    let (output, ()) = tokio::join!(diag(&state, &flags), async {
        let mut trial = relay.accept().await;
        assert_eq!(trial.register().token.reveal(), "some-secret-token");
        trial.refuse(RefusalReason::BadToken).await;
        while trial.try_event().await.is_some() {}
    });
    let (found, text) = checks(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(outcome(&found, "auth"), "failed");
    assert_eq!(outcome(&found, "target"), "not_applicable");
    assert!(
        text.contains("says the test") && text.contains("tieline token show"),
        "{text}"
    );
    assert!(!text.contains("some-secret"), "{text}");
}

#[tokio::test]
async fn what_cannot_be_tried_is_not_called_a_failure() {
    let state = tempfile::tempdir().unwrap();
    let (gone, address) = target().await;
    drop(gone);
    let token = state.path().join("token");
    std::fs::write(&token, "secret").unwrap();
    std::fs::set_permissions(&token, PermissionsExt::from_mode(0o644)).unwrap();
    let relay = format!("tcp://{address}");
    let output = diag(&state, &["--relay", &relay, "--to", &address]).await;
    let (found, text) = checks(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(outcome(&found, "tcp"), "failed");
    assert_eq!(outcome(&found, "auth"), "not_applicable");
    assert_eq!(outcome(&found, "target"), "failed");
    assert!(text.contains("is the relay running"), "{text}");
    // A token file that others may read is a failure, with or without a relay.
    let flags = ["--relay", &relay, "--token-file", token.to_str().unwrap()];
    let (found, text) = checks(&diag(&state, &flags).await);
    assert_eq!(outcome(&found, "auth"), "failed", "{text}");
    assert!(text.contains("mode 644"), "{text}");
}

#[tokio::test]
async fn a_port_where_no_relay_listens_is_told() {
    let (other, address) = target().await;
    let state = tempfile::tempdir().unwrap();
    let relay = format!("tcp://{address}");
    let flags = ["--relay", &relay];
    let (output, ()) = tokio::join!(diag(&state, &flags), async {
        let (mut stream, _) = soon(other.accept()).await.unwrap();
        let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
    });
    let (found, text) = checks(&output);
    assert_eq!(outcome(&found, "auth"), "failed", "{text}");
    assert!(text.contains("port for agents"), "{text}");
}

#[tokio::test]
async fn the_tls_of_a_port_is_told_apart_from_what_answers_over_it() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"tieline-agent/1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (other, _) = target().await;
    let state = tempfile::tempdir().unwrap();
    let ca = state.path().join("ca.pem");
    std::fs::write(&ca, own.cert.pem()).unwrap();
    let relay = format!("tls://localhost:{}", other.local_addr().unwrap().port());
    let flags = ["--relay", &relay, "--ca", ca.to_str().unwrap()];
    let (output, ()) = tokio::join!(diag(&state, &flags), async {
        let (stream, _) = soon(other.accept()).await.unwrap();
        let mut stream = soon(acceptor.accept(stream)).await.unwrap();
        let mut preface = [0; 8];
        soon(stream.read_exact(&mut preface)).await.unwrap();
        let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        // Until the program has closed the connection, in whatever way.
        let _ = soon(stream.read_to_end(&mut Vec::new())).await;
    });
    let (found, text) = checks(&output);
    assert_eq!(outcome(&found, "tls"), "ok", "{text}");
    assert!(text.contains("TLS 1.3, key exchange "), "{text}");
    assert!(text.contains(" days left"), "{text}");
    assert_eq!(outcome(&found, "auth"), "failed", "{text}");
    assert!(text.contains("an HTTP server answers there"), "{text}");
}

#[tokio::test]
async fn settings_are_those_of_serve_and_wrong_ones_are_code_2() {
    let relay = Relay::bind().await;
    let state = tempfile::tempdir().unwrap();
    let text = format!("relay = \"{}\"\nto = \"127.0.0.1:1\"\n", relay.url());
    std::fs::write(state.path().join("tieline.toml"), text).unwrap();
    let (output, ()) = tokio::join!(diag(&state, &[]), async {
        let mut trial = relay.accept_registered().await;
        while trial.try_event().await.is_some() {}
    });
    let (found, text) = checks(&output);
    assert_eq!(outcome(&found, "auth"), "ok", "{text}");
    assert_eq!(outcome(&found, "target"), "failed", "{text}");
    for flags in [&["--no-config"][..], &["--relay", "gopher://r:1"]] {
        let output = diag(&state, flags).await;
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
    }
}

#[tokio::test]
async fn the_kind_is_tried_without_a_target_too() {
    let relay = Relay::bind().await;
    let state = tempfile::tempdir().unwrap();
    let url = relay.url();
    let with_kind = ["--relay", &url, "--dcc", "maya"];
    let (output, ()) = tokio::join!(diag(&state, &with_kind), async {
        let mut trial = relay.accept().await;
        assert_eq!(trial.register().dcc, "maya");
        trial.refuse(RefusalReason::DccNotAllowed).await;
        while trial.try_event().await.is_some() {}
    });
    let (found, text) = checks(&output);
    assert_eq!(outcome(&found, "auth"), "failed", "{text}");
    let (output, ()) = tokio::join!(diag(&state, &with_kind[..2]), async {
        let mut trial = relay.accept().await;
        assert_eq!(trial.register().dcc, "");
        trial.refuse(RefusalReason::DccNotAllowed).await;
        while trial.try_event().await.is_some() {}
    });
    let (found, text) = checks(&output);
    assert_eq!(outcome(&found, "auth"), "ok", "{text}");
    assert!(text.contains("--dcc KIND"), "{text}");
    assert_eq!(output.status.code(), Some(0), "{text}");
}

/// The trial's made-up name shares only its beginning with the names that a token allows.
#[tokio::test]
async fn a_token_for_other_names_is_a_good_one_where_the_target_has_a_name() {
    for (to, expected) in [("maya-1=127.0.0.1:1", "ok"), ("127.0.0.1:1", "failed")] {
        let relay = Relay::bind().await;
        let state = tempfile::tempdir().unwrap();
        let url = relay.url();
        let flags = ["--relay", &url, "--to", to];
        let (output, ()) = tokio::join!(diag(&state, &flags), async {
            let mut trial = relay.accept().await;
            let label = trial.register().label.clone();
            assert_eq!(label == "maya-1", expected == "ok", "{label}");
            trial.refuse(RefusalReason::NameNotAllowed).await;
        });
        let (found, text) = checks(&output);
        assert_eq!(outcome(&found, "auth"), expected, "{to}: {text}");
    }
}

/// A command line that fails with `serve` can be tried unchanged.
#[tokio::test]
async fn every_flag_of_serve_is_taken_and_those_that_no_check_tries_are_named() {
    let relay = Relay::bind().await;
    let state = tempfile::tempdir().unwrap();
    let url = relay.url();
    let flags = ["--relay", &url, "--to", "http://127.0.0.1:1/mcp"];
    let named = ["--name", "maya-1", "--label", "seat", "--capability", "gpu"];
    let run = ["--links", "2", "--expose-all", "--no-look", "--stand-by"];
    let mut command = tieline(&state);
    command.arg("diag").args(flags).args(named).args(run);
    let (output, ()) = tokio::join!(output(&mut command), async {
        let mut trial = relay.accept_registered().await;
        // The label is the tunnel's name, so that a token for names with that prefix allows the trial.
        assert_eq!(trial.register().label, "maya-1");
        while trial.try_event().await.is_some() {}
    });
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("no check tries --links, --stand-by, --no-look"),
        "{stderr}"
    );
    // The target does not run, so its check fails.
    assert_eq!(output.status.code(), Some(1), "{stderr}");

    let wrong = ["--relay", &url, "--to", "7001", "--label", "a\u{200b}"];
    let output = diag(&state, &wrong).await;
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test]
async fn a_login_page_in_place_of_the_relay_is_told_at_the_websocket() {
    let (portal, address) = target().await;
    let state = tempfile::tempdir().unwrap();
    let relay = format!("ws://{address}");
    let flags = ["--relay", &relay];
    let (output, ()) = tokio::join!(diag(&state, &flags), async {
        let (mut stream, _) = soon(portal.accept()).await.unwrap();
        let mut request = [0; 64];
        soon(stream.read(&mut request)).await.unwrap();
        assert!(request.starts_with(b"GET /agent HTTP/1.1\r\n"));
        let answer = b"HTTP/1.1 302 Found\r\nLocation: http://portal.hotel/login\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        // Until the program has closed the connection.
        let _ = soon(stream.read_to_end(&mut Vec::new())).await;
    });
    let (found, text) = checks(&output);
    assert_eq!(outcome(&found, "tcp"), "ok", "{text}");
    assert_eq!(outcome(&found, "websocket"), "failed", "{text}");
    assert_eq!(outcome(&found, "auth"), "not_applicable", "{text}");
    assert!(text.contains("leads to portal.hotel"), "{text}");
    assert_eq!(output.status.code(), Some(1), "{text}");
}
