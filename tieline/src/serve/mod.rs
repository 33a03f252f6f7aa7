//! `tieline serve`: publishes local servers until a signal.

mod announce;
mod printer;

use tieline_agent::{Config, ConfigError, Proxies, run_once, run_standing_by, run_with_reconnect};

use self::announce::announcing;
use self::printer::printer;
use crate::advice::explained;
use crate::exit::{DONE, Ended};
use crate::paint::{complain, print_json, warn};
use crate::settings::{self, ConfigFile, ServeArgs};
use crate::signals::until_signal;

/// Word behind `tieline` that starts the guard, which ends the processes of a killed agent. Help does not show it.
pub(crate) const GUARD: &str = "__guard";

/// Runs `tieline serve`; returns the exit code.
pub(crate) async fn run(args: Box<ServeArgs>) -> Result<u8, Ended> {
    let (once, stand_by, json) = (args.once, args.stand_by, args.json);
    let config = config_of(&args).map_err(Ended::usage)?;
    if config.token_file.is_some() && config.relay.exposes_tokens() {
        warn(&format!(
            "your token goes to {} in clear text, where the network can read it: use https:// or tls:// if the relay has it, or a \
             network that you trust, or a VPN",
            config.relay.name()
        ));
    }
    if let Some(text) = unused_proxy(&config) {
        warn(&text);
    }
    let config = guarded(config);
    let printer = printer(json, &config);
    let config = if args.no_look {
        config.with_event_hook(printer)
    } else {
        let announcing = announcing(&config, printer);
        config.with_event_hook(announcing)
    };
    if once && config.links != 1 {
        let problem = "--once runs one link, so --links cannot be more than 1";
        return Err(Ended::usage(problem));
    }
    let ended = until_signal(|shutdown| async move {
        if once {
            run_once(config, shutdown).await
        } else if stand_by {
            run_standing_by(config, shutdown).await
        } else {
            run_with_reconnect(config, shutdown).await
        }
    });
    match ended.await {
        None | Some(Ok(())) => Ok(DONE),
        Some(Err(error)) => Err(Ended::new(error.exit_code(), explained(&error))),
    }
}

/// Has this program be the guard for processes of an agent that runs any.
fn guarded(config: Config) -> Config {
    if !config.targets.iter().any(|it| it.target.is_stdio()) {
        return config;
    }
    match std::env::current_exe() {
        Ok(program) => config.with_guard(program, [GUARD]),
        Err(error) => {
            warn(&format!(
                "this program's own file is unknown ({error}), so processes of stdio: targets may stay if this agent is killed"
            ));
            config
        }
    }
}

/// Reads the settings; prints the path of the settings file, if there is one.
fn config_of(args: &ServeArgs) -> Result<Config, ConfigError> {
    let file = ConfigFile::of_args(args)?;
    if let Some(file) = &file {
        let path = file.path.display();
        if args.json {
            print_json(&serde_json::json!({"event": "config", "file": path.to_string()}));
        } else {
            complain(&format!("settings from {path}"));
        }
    }
    settings::checked(args, file)
}

/// What is to say of a proxy that a setting names and that no link goes through.
fn unused_proxy(config: &Config) -> Option<String> {
    let is_named = matches!(config.proxies, Proxies::Always(_));
    (is_named && config.relay.address().is_loopback()).then(|| {
        format!(
            "--proxy is not used: {} is on this machine, which is never reached through a proxy",
            config.relay
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_does_not_lead_to_the_relay_is_told() {
        let told = |relay: &str, proxy: &str| {
            let mut config = Config::new(relay, "127.0.0.1:1").unwrap();
            config.proxies = Proxies::parse(proxy).unwrap();
            unused_proxy(&config)
        };
        let proxy = "http://ada:secret@proxy:3128";
        let text = told("quic://localhost:9443", proxy).unwrap();
        assert!(
            text.contains("quic://localhost:9443") && !text.contains("secret"),
            "{text}"
        );
        assert_eq!(told("https://relay.test", proxy), None);
        assert_eq!(told("quic://localhost:9443", "none"), None);
    }
}
