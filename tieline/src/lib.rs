//! The program `tieline`: its command line, and the commands above the library `tieline-agent`.
//!
//! Commands print through `paint`, and end on `signals` and with the codes of `exit`; what several commands need stands
//! below them: `settings` of `serve`, `advice` on refusals, and `outbound`, the requests to a relay's HTTP port.

pub mod cli;
pub mod command;
pub mod completions;
pub mod connect;
pub mod diag;
pub mod init;
pub mod list;
pub mod outbound;
pub mod proxy;
pub mod service;
pub mod settings;
pub mod status;
pub mod token_show;

mod advice;
mod ca;
#[cfg(target_os = "linux")]
mod demo;
mod descriptors;
mod exit;
mod paint;
mod serve;
mod signals;
