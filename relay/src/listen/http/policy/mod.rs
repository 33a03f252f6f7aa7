//! Who may ask, and what must not reach a target: web pages by their origin, callers by their token, and the relay's
//! own credentials.
//!
//! `serve` asks `origin` first and `callers` next, and takes credentials out of a request with `credentials` before
//! it goes on. With `caller_name` it tells the agent of a program who asks. `audit_record` writes down who asked and
//! what came of it.

pub(super) mod audit_record;
pub(super) mod caller_name;
pub(super) mod callers;
pub(super) mod credentials;
pub(super) mod origin;
