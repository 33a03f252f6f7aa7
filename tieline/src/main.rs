//! The program `tieline`: arguments, logging, exit code. The commands are in the library.

use std::process::ExitCode;

use tieline::command;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    // Before anything that could fail: the guard outlives the agent, and prints nothing.
    if command::is_guard() {
        tieline_agent::run_guard();
        return ExitCode::SUCCESS;
    }
    let cli = match command::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let log_filter = match log_filter() {
        Ok(filter) => filter,
        Err(problem) => {
            eprintln!("tieline: {problem}");
            return ExitCode::from(2);
        }
    };
    // Logs go to standard error: programs parse standard output.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // No colour codes in a file or a pipe.
        .with_ansi(command::logs_have_colours())
        .with_env_filter(log_filter)
        .init();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tieline: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(command::run(cli));
    // A name lookup that hangs must not keep the process alive.
    runtime.shutdown_background();
    code
}

/// The log filter from `TIELINE_LOG`; an empty variable counts as not set, as with every setting.
fn log_filter() -> Result<EnvFilter, String> {
    let written = std::env::var("TIELINE_LOG").unwrap_or_default();
    if written.is_empty() {
        return Ok(EnvFilter::new("warn"));
    }
    if let Some(word) = odd_word(&written) {
        return Err(format!(
            "TIELINE_LOG={written:?}: {word:?} is neither a level nor a part of this program, so nothing would be \
             logged; the levels are off, error, warn, info, debug, trace"
        ));
    }
    EnvFilter::try_new(&written).map_err(|error| {
        format!(
            "TIELINE_LOG={written:?}: {error} (expected for example info, or debug,tieline_agent=trace)"
        )
    })
}

/// The first bare word of a log filter that is neither a level nor one of our crates: `EnvFilter` reads such a
/// word as the name of a crate, and logs that crate alone.
fn odd_word(filter: &str) -> Option<&str> {
    let is_known = |word: &str| {
        let is_level = word.parse::<LevelFilter>().is_ok();
        is_level || word.is_empty() || word == "tieline" || word.starts_with("tieline_")
    };
    let mut words = filter.split(',').map(str::trim);
    words.find(|word| !word.contains(['=', '[', ']']) && !is_known(word))
}

#[cfg(test)]
mod tests {
    use super::odd_word;

    #[test]
    fn a_word_that_is_no_level_and_no_part_of_this_program_is_found() {
        for filter in [
            "",
            "info",
            "DEBUG",
            "3",
            "warn,tieline_agent=trace",
            "tieline_agent::link",
            "tieline",
            "h2=debug",
        ] {
            assert_eq!(odd_word(filter), None, "{filter}");
        }
        for (filter, word) in [("debgu", "debgu"), ("info, al", "al")] {
            assert_eq!(odd_word(filter), Some(word));
        }
    }
}
