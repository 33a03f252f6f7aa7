//! What happens to bytes between a caller and a target: they arrive, all of them and in order, until
//! one side ends, and then the other side learns of that, how, and soon.

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
