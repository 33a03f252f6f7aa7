use super::*;
use crate::config::environment;
use crate::error::ConfigError;

fn parse_words(words: &[&str]) -> Result<Invocation, clap::Error> {
    parse(
        std::iter::once("tieline-relay")
            .chain(words.iter().copied())
            .map(OsString::from),
    )
}

fn environment_of(pairs: &[(&str, &str)]) -> Result<Layer, ConfigError> {
    environment(
        pairs
            .iter()
            .map(|(name, value)| (name.into(), value.into())),
    )
}

#[test]
fn the_command_is_sound() {
    command().debug_assert();
}

#[test]
fn a_flag_that_is_not_given_leaves_no_trace() {
    let empty = Invocation::Serve {
        config: None,
        flags: Layer::default(),
    };
    assert_eq!(parse_words(&[]).unwrap(), empty);
}

#[test]
fn listen_flags_repeat_and_others_do_not() {
    let words = ["--tcp-listen", "a", "--tcp-listen", "b", "--json"];
    let Invocation::Serve { flags, .. } = parse_words(&words).unwrap() else {
        panic!()
    };
    assert_eq!(flags.0["tcp_listen"].values, ["a", "b"]);
    assert_eq!(flags.0["json"].values, ["true"]);
    assert_eq!(flags.0.len(), 2);
    assert!(parse_words(&["--shards", "1", "--shards", "2"]).is_err());
    assert!(parse_words(&["--shrads", "1"]).is_err());
}

#[test]
fn a_token_order_is_read() {
    let words = "token issue --sub ada --dcc maya --dcc nuke --tunnel maya-* --scope agent \
                 --ttl 8h --jwt-secret-file s --issuer studio";
    let words: Vec<&str> = words.split_whitespace().collect();
    let Invocation::IssueToken(order) = parse_words(&words).unwrap() else {
        panic!()
    };
    assert_eq!((order.subject.as_str(), order.ttl.as_str()), ("ada", "8h"));
    assert_eq!(order.dcc, ["maya", "nuke"]);
    assert_eq!(
        (order.tunnels, order.scopes),
        (vec!["maya-*".into()], vec!["agent".into()])
    );
    assert_eq!(order.issuer.as_deref(), Some("studio"));
    assert!(parse_words(&["token", "issue", "--sub", "ada"]).is_err());
    let unfit = "token issue --sub ada --ttl 8h --jwt-secret-file s --tunnel maya_*";
    assert!(parse_words(&unfit.split(' ').collect::<Vec<_>>()).is_err());
    assert!(parse_words(&["token"]).is_err());
}

#[test]
fn the_environment_is_read_by_name() {
    let layer = environment_of(&[
        ("TIELINE_RELAY_TCP_LISTEN", "127.0.0.1:1, 127.0.0.1:2"),
        ("TIELINE_RELAY_SHARDS", "2"),
        ("TIELINE_RELAY_DOMAIN", ""),
        ("TIELINE_RELAY_CONFIG", "relay.toml"),
        ("TIELINE_RELAY_SERVICE_HOST", "10.0.0.1"),
        ("TIELINE_RELAY_PORT_9001_TCP_ADDR", "10.0.0.1"),
        ("TIELINE_RELAY", "tcp://agents-use-this:9001"),
        ("HOME", "/"),
    ])
    .unwrap();
    assert_eq!(layer.0["tcp_listen"].values, ["127.0.0.1:1", "127.0.0.1:2"]);
    assert_eq!(layer.0["shards"].describe("shards"), "TIELINE_RELAY_SHARDS");
    assert_eq!(layer.0.len(), 2);
}

#[test]
fn a_misspelt_variable_is_named() {
    let error = environment_of(&[("TIELINE_RELAY_SHRADS", "2")]).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("unknown setting; did you mean TIELINE_RELAY_SHARDS?"),
        "{error}"
    );
}
