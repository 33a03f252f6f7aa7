//! Harness of the end-to-end tests: third-party MCP servers and clients, the paths between them, and
//! guards that end every process with the test that started it. [`behaviour`] is the harness of the
//! tests that need no third-party program.

pub mod autobahn;
pub mod behaviour;
pub mod environment;
pub mod foreign_quic;
pub mod interop;
pub mod path;
pub mod process;
pub mod trials;
pub mod trust;
pub mod tunnel;
