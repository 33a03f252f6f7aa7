//! Many agents in one process, each with its own identity and tunnel: for load tests of a relay, and as an example
//! of a program that runs agents itself.
//!
//! ```console
//! $ cargo run --release -p tieline-agent --example fleet -- \
//!       --relay tcp://127.0.0.1:9001 --to 127.0.0.1:8000 --agents 1000 --state-dir /tmp/fleet
//! ```

mod fleet;

use std::process::ExitCode;

fn main() -> ExitCode {
    match fleet::run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet: {error}");
            ExitCode::FAILURE
        }
    }
}
