//! The harness of the end-to-end tests: programs that nobody here wrote, the ways to them, and
//! guards that end every process with the test that started it. [`behaviour`] is that of the tests
//! that need none of those programs.

pub mod behaviour;
pub mod environment;
pub mod interop;
pub mod path;
pub mod process;
pub mod tunnel;
