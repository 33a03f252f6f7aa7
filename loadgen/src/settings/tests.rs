use super::*;
use crate::cli::{Cli, Command};
use clap::Parser;

fn rtt(arguments: &[&str]) -> Result<(Scenario, Method, PathsWanted), UsageError> {
    let words = ["tieline-loadgen", "rtt"].iter().chain(arguments);
    let Command::Rtt(flags) = Cli::try_parse_from(words).unwrap().command else {
        panic!("not rtt");
    };
    let scenario = flags.scenario()?;
    let (method, wanted) = flags.single.checked()?;
    Ok((scenario, method, wanted))
}

#[test]
fn direct_and_both_forwarders_are_the_default() {
    let (_, _, wanted) = rtt(&[]).unwrap();
    use PathKind::{Direct, ForwarderTokio, ForwarderTokioUring, Relay};
    assert_eq!(wanted.kinds, [Direct, ForwarderTokio, ForwarderTokioUring]);
    let (_, _, wanted) = rtt(&["--relay-tcp", "127.0.0.1:1", "--tunnel", "maya"]).unwrap();
    assert_eq!(
        wanted.kinds,
        [Direct, ForwarderTokio, ForwarderTokioUring, Relay]
    );
    let (_, _, wanted) = rtt(&["--path", "forwarder,direct", "--path", "direct"]).unwrap();
    assert_eq!(wanted.kinds, [Direct, ForwarderTokio, ForwarderTokioUring]);
}

#[test]
fn a_rate_makes_an_open_loop() {
    let (scenario, _, _) = rtt(&["-c", "16", "--rate", "3000"]).unwrap();
    assert_eq!(scenario.name(), "16x256@3000");
    assert!(rtt(&["--rate", "0"]).is_err());
}

#[test]
fn the_suites_are_sets_of_loads_that_can_be_run() {
    for (suite, loads) in [
        ("quick", 10),
        ("peers", 13),
        ("full", 23),
        ("http", 4),
        ("tls", 9),
    ] {
        let words = ["tieline-loadgen", "bench", "--suite", suite];
        let Command::Bench(flags) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not bench");
        };
        let (scenarios, _, wanted) = flags.checked().unwrap();
        assert_eq!(scenarios.len(), loads);
        assert_eq!(wanted.is_http, suite == "http");
        assert_eq!(wanted.is_wrapped, suite == "tls");
    }
}

fn bench(arguments: &[&str]) -> Result<Vec<PathKind>, UsageError> {
    let words = ["tieline-loadgen", "bench"].iter().chain(arguments);
    let Command::Bench(flags) = Cli::try_parse_from(words).unwrap().command else {
        panic!("not bench");
    };
    flags.checked().map(|(_, _, wanted)| wanted.kinds)
}

#[test]
fn a_bench_has_the_epoll_driver_beside_the_default_one_unless_told_otherwise() {
    use PathKind::{Direct, ForwarderTokio, ForwarderTokioUring, Relay, RelayEpoll};
    let all = [
        Direct,
        ForwarderTokio,
        ForwarderTokioUring,
        Relay,
        RelayEpoll,
    ];
    assert_eq!(bench(&[]).unwrap(), all);
    assert_eq!(bench(&["--path", "relay"]).unwrap(), [Relay]);
    assert_eq!(bench(&["--path", "relay-epoll"]).unwrap(), [RelayEpoll]);
    // If the user chooses the driver, only one relay is started.
    for chosen in [
        &["--relay-arg=--driver=epoll"][..],
        &["--relay-arg=--driver", "--relay-arg=epoll"],
    ] {
        assert_eq!(bench(chosen).unwrap(), all[..4]);
        let both = [chosen, &["--path", "relay-epoll"]].concat();
        let error = bench(&both).unwrap_err().to_string();
        assert!(error.contains("--relay-arg=--driver"), "{error}");
    }
}

#[test]
fn the_suite_tls_has_wrapped_paths_and_http_has_none() {
    use PathKind::{Direct, DirectOver, Relay, RelayOver};
    let kinds = bench(&["--suite", "tls"]).unwrap();
    for kind in [
        Direct,
        DirectOver(Wrapping::Tls),
        Relay,
        RelayOver(Wrapped::TLS_CALLER),
        RelayOver(Wrapped::TLS_LINK),
        RelayOver(Wrapped::TLS),
        RelayOver(Wrapped::PASSED),
    ] {
        assert!(kinds.contains(&kind), "{kind}");
    }
    let few = bench(&["--suite", "tls", "--path", "relay-tls"]).unwrap();
    assert_eq!(few, [RelayOver(Wrapped::TLS)]);
    let error = bench(&["--suite", "http", "--path", "relay-tls"]).unwrap_err();
    assert!(error.to_string().contains("relay-tls"), "{error}");
    let error = rtt(&["--path", "relay-tls"]).unwrap_err();
    assert!(error.to_string().contains("`bench` only"), "{error}");
}

#[test]
fn transports_add_a_path_and_the_direct_path_to_compare_it_with() {
    use PathKind::{Direct, DirectOver, Relay, RelayOver};
    let only = |flags: &[&str]| bench(&[flags, &["--path", "direct"]].concat()).unwrap();
    let quic = RelayOver(Wrapped::new(Wrapping::Plain, Wrapping::Quic));
    assert_eq!(only(&["--agent-transport", "quic"]), [Direct, quic]);
    let both = ["--agent-transport=tls", "--frontend-transport=quic"];
    let mixed = RelayOver(Wrapped::new(Wrapping::Quic, Wrapping::Tls));
    let wanted = [Direct, DirectOver(Wrapping::Quic), mixed];
    assert_eq!(only(&both), wanted);
    assert_eq!(only(&["--frontend-transport", "tcp"]), [Direct, Relay]);
    let error = bench(&["--agent-transport=wss", "--frontend-transport=ws"]);
    assert!(error.unwrap_err().to_string().contains("HTTP listener"));
}

#[test]
fn the_recipe_of_all_transports_names_the_direct_path_of_each_caller_that_it_wraps() {
    let recipes = include_str!("../../../justfile");
    let line = recipes
        .lines()
        .find(|line| line.starts_with("bench-transports "))
        .unwrap();
    let quoted: Vec<&str> = line.split('\'').collect();
    let at = quoted.iter().position(|word| *word == "--path").unwrap();
    let kinds = bench(&["--path", quoted[at + 2]]).unwrap();
    let over = |caller, link| PathKind::RelayOver(Wrapped::new(caller, link));
    use Wrapping::{Plain, Quic, Tls, WebSocket, WebSocketTls};
    for wrapping in [Tls, WebSocket, WebSocketTls, Quic] {
        for kind in [
            PathKind::DirectOver(wrapping),
            over(wrapping, Plain),
            over(Plain, wrapping),
        ] {
            assert!(kinds.contains(&kind), "{kind}");
        }
    }
    for kind in [PathKind::Direct, PathKind::Relay, over(Quic, Quic)] {
        assert!(kinds.contains(&kind), "{kind}");
    }
}

#[test]
fn idle_memory_is_measured_at_2000_and_10000_sessions() {
    let words = ["tieline-loadgen", "bench", "--suite", "full"];
    let Command::Bench(flags) = Cli::try_parse_from(words).unwrap().command else {
        panic!("not bench");
    };
    let scenarios = flags.checked().unwrap().0;
    for sessions in [2_000, 10_000] {
        assert!(scenarios.contains(&Scenario::Idle { sessions }));
    }
}

#[test]
fn peers_have_names_of_their_own() {
    let target = ["--target", "127.0.0.1:1", "--peer", "a=127.0.0.1:2"];
    let with = |more: [&'static str; 2]| rtt(&[&target[..], &more].concat());
    assert_eq!(with(["--peer-pid", "a=7"]).unwrap().2.peer_pids.len(), 1);
    assert!(
        with(["--peer-pid", "b=7"])
            .unwrap_err()
            .to_string()
            .contains("b")
    );
    let twice = with(["--peer", "a=127.0.0.1:3"]).unwrap_err().to_string();
    assert!(twice.contains("twice"), "{twice}");
}

#[test]
fn what_is_out_of_range_is_named() {
    for (arguments, word) in [
        (["--rounds", "0"], "--rounds"),
        (["--threads", "0"], "--threads"),
        (["--duration", "1ms"], "--duration"),
        (["--warm-up", "1000s"], "--warm-up"),
        (["--connections", "100000"], "100000"),
        (["--size", "0"], "messages of 0"),
        (["--path", "relay"], "--relay-tcp"),
        (["--path", "relay-epoll"], "`bench`"),
    ] {
        let error = rtt(&arguments).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}
