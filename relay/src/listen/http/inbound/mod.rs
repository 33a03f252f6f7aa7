//! What a caller sends, read without any state: who it comes from, which tunnel it names, which fields it may not set.
//!
//! `serve` reads each request with these functions before a target is known; `mapping` reads with `url` the URLs that
//! targets write.

pub(super) mod exposure;
pub(super) mod forwarded;
pub(super) mod proxy_fields;
pub(super) mod url;
pub(super) mod websocket;
