//! URLs and cookies between a tunnel's public URL and its target's own: out in answers, back in requests.
//!
//! `rewrite` holds the mapping of one request and applies it to header fields. It finds with `relay_names` which names
//! are the relay's, takes URLs apart with `reference`, and maps cookies with `cookies`. `workers` and `login` are the
//! rules for service workers and OAuth metadata. No I/O and no session: `serve` and `events` call in here.

mod cookies;
pub(super) mod login;
mod reference;
pub(super) mod relay_names;
pub(super) mod rewrite;
mod workers;
