//! Settings of `tieline serve`, which `diag` and `service` read as well: flags and variables, completed from
//! `tieline.toml`.

mod args;
mod file;
mod merge;
#[cfg(test)]
mod tests;
mod time;

pub use self::args::{ServeArgs, StateArgs};
pub(crate) use self::file::ConfigFile;
pub(crate) use self::merge::{checked, merged};
