//! Where links and sessions live: an agent with several links, and shards that share nothing.

#[path = "behaviour_placement/links.rs"]
mod links;
#[path = "behaviour_placement/proxy.rs"]
mod proxy;
