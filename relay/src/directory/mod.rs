//! The names of tunnels: which agents hold each name, and which links lead to it.
//!
//! A link claims a name at the name's home shard ([`Claim`]). [`Names`] decides, and the decision goes to every shard as
//! a [`RouteUpdate`]. Every shard applies it to its [`Routes`], which answer a caller's [`Query`] with the agent that
//! serves the caller ([`Routes::resolve`]) and the link to that agent ([`Routes::upstream`]).
//!
//! Nothing here sends a message, waits or knows HTTP: a shard brings the time, carries the decisions and waits; a front
//! says what it makes of an agent's description ([`Make`](routes::Make)).

mod claim;
mod kinds;
mod names;
mod query;
mod route;
mod routes;
mod waiting;

pub(crate) use claim::{Claim, Forgotten, ReleaseKind};
pub(crate) use kinds::OwnerGroup;
pub(crate) use names::{Decision, Names, Owners, Released, Restored, Rules, home};
pub(crate) use query::{AgentBinding, Among, Query, Stale, TunnelSelector};
pub(crate) use route::{RouteUpdate, Served, Upstream};
pub(crate) use routes::{Lookup, Resolved, Routes};
