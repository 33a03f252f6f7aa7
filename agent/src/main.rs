//! The agent's binary: arguments, logging, exit code; nothing else.

use std::process::ExitCode;

use tieline_agent::command;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = match command::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    // Standard output belongs to the lines that programs read.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // A file or a pipe gets text alone.
        .with_ansi(command::logs_have_colours())
        .with_env_filter(
            EnvFilter::try_from_env("TIELINE_LOG").unwrap_or_else(|_| EnvFilter::new("warn")),
        )
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
