//! Placement of links and sessions on shards, and when shards spin or sleep.

#[path = "behaviour_placement/callers.rs"]
mod callers;
#[path = "behaviour_placement/links.rs"]
mod links;
#[path = "behaviour_placement/proxy.rs"]
mod proxy;
#[path = "behaviour_placement/spin.rs"]
mod spin;
