//! Requests that two parsers could read differently: the relay answers each in the same way
//! whenever it comes, and whatever a target gets has one reading only.

#[path = "behaviour_hygiene/corpus/mod.rs"]
mod corpus;
#[path = "behaviour_hygiene/recorder.rs"]
mod recorder;
#[path = "behaviour_hygiene/smuggling.rs"]
mod smuggling;
