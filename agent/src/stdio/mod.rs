//! Targets behind `stdio:`: an MCP server that runs as a child process of the agent and speaks over its standard input
//! and output, one JSON-RPC message per line.
//!
//! `command` reads what the user has written, `environment` chooses the variables that a child inherits, and `process`
//! starts a child, moves the bytes of its pipes and ends it; these know neither lines of output nor MCP. `server`
//! publishes such children over HTTP, by means of the bridge.

use std::ffi::OsString;
use std::path::PathBuf;

mod command;
mod environment;
mod process;
mod server;

pub(crate) use self::command::{Command, CommandError, check_name, check_variable};
#[cfg(unix)]
pub(crate) use self::process::run_guard;
pub(crate) use self::process::{
    Guard, Input, Life, Log, Output, Process, StartError, program_file, words,
};
pub use self::server::StdioStatus;
pub(crate) use self::server::{StdioEvent, StdioServer, Told};

/// Settings that all children of an agent have in common.
#[derive(Clone, Debug, Default)]
pub(crate) struct StdioSettings {
    /// Program that ends the children after the agent was killed; without it, they end when they find their input
    /// closed. Windows needs none.
    pub(crate) guard: Option<GuardProgram>,
}

/// How to start the guard: usually the agent's own executable and a subcommand that calls `run_guard`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuardProgram {
    /// Path of the executable.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
}
