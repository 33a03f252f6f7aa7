//! The names of tunnels: which agents hold each name, and which links lead to it.
//!
//! A link claims a name at the name's home shard ([`Claim`]). [`Names`] decides, and the decision goes to every shard as
//! a [`RouteUpdate`]. Nothing here sends a message, waits or knows HTTP: a shard brings the time and carries the answers.

mod claim;
mod names;
mod route;

pub(crate) use claim::{Claim, Forgotten, ReleaseKind};
pub(crate) use names::{Decision, Names, Owners, Released, Restored, Rules, home};
#[cfg(test)]
pub(crate) use route::ServingLink;
pub(crate) use route::{RouteUpdate, ServingAgent};
