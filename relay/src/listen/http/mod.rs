//! The HTTP front, HTTP/1.1 and HTTP/2: hyper's server towards a caller, hyper's client over sessions.
//!
//! A caller's connection comes in at [`serve`], with the shard as its [`Gateway`]; what goes out is the reason for its
//! end, or what it [became](Upgraded) behind a `101`. On the way of a request, from top to bottom and back:
//!
//! | room | job |
//! |---|---|
//! | `serve` | one connection and its requests: check, find the destination, exchange, answer |
//! | `events` | event streams in answers |
//! | `outbound` | connections to targets, and requests sent again |
//! | `mapping` | URLs and cookies, in both directions |
//! | `frontend` | the caller's connection: bytes, state, deadlines, memory |
//! | `policy` | who may ask, and what must not reach a target |
//! | `gateway` | what the front needs from its shard |
//! | `inbound` | what a caller sends, read without state |
//!
//! A room imports from rooms below it only; `problem` (the relay's own answers), `target` and `target_query` stand
//! below `gateway`. Nothing here depends on a runtime. All futures of one frontend connection run in one thread.

mod events;
mod frontend;
mod gateway;
mod inbound;
mod mapping;
mod outbound;
mod policy;
mod problem;
mod serve;
mod target;
mod target_query;

pub(crate) use gateway::Gateway;
pub(crate) use gateway::listing::{Listed, Listing};
pub(crate) use gateway::marks::MarkKey;
pub(crate) use gateway::settings::{DRAIN_GRACE, Origins, Peer, Settings};
pub(crate) use gateway::upgraded::{TargetConnection, Upgraded};
pub(crate) use inbound::url::{hint, hinted_token, is_ours_anywhere};
pub(crate) use policy::credentials::{hide_tokens, holds_token};
pub(crate) use serve::serve;
pub(crate) use target::Target;
pub(crate) use target_query::{NoTarget, TargetQuery};

#[cfg(test)]
mod tests;
