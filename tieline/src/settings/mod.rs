//! Settings of `tieline serve`, which `diag` and `service` read as well: flags and variables, completed from
//! `tieline.toml`.

mod args;
mod file;
mod merge;
mod stdio;
#[cfg(test)]
mod tests;
mod time;

pub use self::args::{ServeArgs, StateArgs};
pub(crate) use self::file::ConfigFile;
pub(crate) use self::merge::{checked, merged};
pub use self::stdio::StdioArgs;
