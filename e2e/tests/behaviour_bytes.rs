//! Bytes between a caller and a target: all arrive, in order, until one side ends; then the other side learns
//! of that end, and of its kind, promptly.

#[path = "behaviour_bytes/budget.rs"]
mod budget;
#[path = "behaviour_bytes/cancel.rs"]
mod cancel;
#[path = "behaviour_bytes/http.rs"]
mod http;
#[path = "behaviour_bytes/keep_alive.rs"]
mod keep_alive;
#[path = "behaviour_bytes/mapping.rs"]
mod mapping;
#[path = "behaviour_bytes/raw.rs"]
mod raw;
#[path = "behaviour_bytes/resets.rs"]
mod resets;
