//! The program under test, without the settings of the developer's environment.

use std::process::Command;

/// `tieline`, with no TIELINE_ variable set.
pub(crate) fn tieline() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tieline"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIELINE_") {
            command.env_remove(name);
        }
    }
    command
}
