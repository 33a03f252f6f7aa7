//! Ambiguous requests, which two parsers could read differently: the relay treats each of them the same way
//! every time, and every request that reaches a target has only one reading.

#[path = "behaviour_hygiene/corpus/mod.rs"]
mod corpus;
#[path = "behaviour_hygiene/recorder.rs"]
mod recorder;
#[path = "behaviour_hygiene/smuggling.rs"]
mod smuggling;
