//! Life of tunnels: they stay up while their agent runs, end with it, come back with it, and
//! belong to one agent at a time.

#[path = "behaviour_life/again.rs"]
mod again;
#[path = "behaviour_life/cut_off.rs"]
mod cut_off;
#[path = "behaviour_life/dead_path.rs"]
mod dead_path;
#[path = "behaviour_life/drain.rs"]
mod drain;
#[path = "behaviour_life/frozen.rs"]
mod frozen;
#[path = "behaviour_life/grace.rs"]
mod grace;
#[path = "behaviour_life/handover.rs"]
mod handover;
#[path = "behaviour_life/holders.rs"]
mod holders;
#[path = "behaviour_life/idle.rs"]
mod idle;
#[path = "behaviour_life/killed.rs"]
mod killed;
#[path = "behaviour_life/last_moment.rs"]
mod last_moment;
#[path = "behaviour_life/leave.rs"]
mod leave;
#[path = "behaviour_life/lost_calls.rs"]
mod lost_calls;
#[path = "behaviour_life/names.rs"]
mod names;
#[path = "behaviour_life/network.rs"]
mod network;
#[path = "behaviour_life/pools.rs"]
mod pools;
#[path = "behaviour_life/quic.rs"]
mod quic;
#[path = "behaviour_life/race.rs"]
mod race;
#[path = "behaviour_life/slow_path.rs"]
mod slow_path;
#[path = "behaviour_life/successor.rs"]
mod successor;
#[path = "behaviour_life/takeover.rs"]
mod takeover;
#[path = "behaviour_life/targets.rs"]
mod targets;
#[path = "behaviour_life/told.rs"]
mod told;
