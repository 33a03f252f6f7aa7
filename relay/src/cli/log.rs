//! Starts logging to stderr, and checks the log filter.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::error::ConfigError;

/// Starts logging to stderr with the filter `log`, or else that of `RUST_LOG`, or else `info`.
///
/// # Errors
/// [`ConfigError::Conflict`] names the part of the filter that is wrong.
pub fn start_logging(log: Option<String>) -> Result<(), ConfigError> {
    let filter = log_filter(log, std::env::var("RUST_LOG").ok())?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    Ok(())
}

fn log_filter(log: Option<String>, rust_log: Option<String>) -> Result<EnvFilter, ConfigError> {
    // Not applied to RUST_LOG: it is shared with other programs and may name their crates.
    log.as_deref().map_or(Ok(()), check_words)?;
    let or_variable = log.or(rust_log.filter(|it| !it.is_empty()));
    let filter = or_variable.unwrap_or_else(|| "info".to_owned());
    EnvFilter::try_new(&filter).map_err(|error| {
        let form = "such as info, or info,tieline_relay=debug";
        ConfigError::Conflict(format!("log filter {filter:?}: {error}; write it {form}"))
    })
}

/// Refuses a filter with a bare word that is neither a level nor one of our crates, most likely a misspelt level:
/// taken as a crate's name, the word would switch off all of the relay's logging.
fn check_words(filter: &str) -> Result<(), ConfigError> {
    let is_known = |word: &str| {
        let is_level = word.parse::<LevelFilter>().is_ok();
        is_level || word.is_empty() || word.starts_with("tieline_")
    };
    let mut words = filter.split(',').map(str::trim);
    match words.find(|word| !word.contains(['=', '[', ']']) && !is_known(word)) {
        None => Ok(()),
        Some(word) => Err(ConfigError::Conflict(format!(
            "log filter {filter:?}: {word:?} is neither a level nor a part of this program; the levels are \
             off, error, warn, info, debug, trace"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_and_no_part_of_the_relay_is_refused() {
        for filter in [
            "",
            "info",
            "DEBUG",
            "3",
            "warn,tieline_relay=trace",
            "tieline_relay::shard",
            "h2=debug, off",
            "[link{id=1,peer}]=debug",
        ] {
            assert!(check_words(filter).is_ok(), "{filter}");
        }
        for (filter, word) in [("debgu", "debgu"), ("info, al", "al")] {
            let error = check_words(filter).unwrap_err().to_string();
            assert!(error.contains(&format!("{word:?}")), "{error}");
        }
    }
}
