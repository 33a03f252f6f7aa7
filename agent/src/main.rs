//! The agent's binary: arguments, logging, exit code; nothing else.

use std::process::ExitCode;

use tieline_agent::command;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
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
    // Standard output belongs to the lines that programs read.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // A file or a pipe gets text alone.
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
    // A name lookup that never ends must not keep the process.
    runtime.shutdown_background();
    code
}

/// What is logged: an empty variable counts as not set, as with every setting.
fn log_filter() -> Result<EnvFilter, String> {
    let written = std::env::var("TIELINE_LOG").unwrap_or_default();
    if written.is_empty() {
        return Ok(EnvFilter::new("warn"));
    }
    EnvFilter::try_new(&written).map_err(|error| {
        format!(
            "TIELINE_LOG={written:?}: {error} (expected such as info, or debug,tieline_agent=trace)"
        )
    })
}
