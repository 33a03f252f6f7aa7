//! Refusals: invalid input, unauthorized agents and callers, hostile targets, missing resources of the machine. The relay reports
//! the reason, counts the refusal, and keeps serving all others.

#[path = "behaviour_refusals/auth.rs"]
mod auth;
#[path = "behaviour_refusals/bystander.rs"]
mod bystander;
#[path = "behaviour_refusals/callers.rs"]
mod callers;
#[path = "behaviour_refusals/credentials.rs"]
mod credentials;
#[path = "behaviour_refusals/degraded.rs"]
mod degraded;
#[path = "behaviour_refusals/diag.rs"]
mod diag;
#[path = "behaviour_refusals/frontends.rs"]
mod frontends;
#[path = "behaviour_refusals/handshakes.rs"]
mod handshakes;
#[path = "behaviour_refusals/limits.rs"]
mod limits;
#[path = "behaviour_refusals/links.rs"]
mod links;
#[path = "behaviour_refusals/narrowed.rs"]
mod narrowed;
#[path = "behaviour_refusals/operators.rs"]
mod operators;
#[path = "behaviour_refusals/proxied.rs"]
mod proxied;
#[path = "behaviour_refusals/renewal.rs"]
mod renewal;
#[path = "behaviour_refusals/strangers.rs"]
mod strangers;
#[path = "behaviour_refusals/targets.rs"]
mod targets;
#[path = "behaviour_refusals/withdrawn.rs"]
mod withdrawn;
