//! Rules and hyper adapters that every HTTP hop of Tieline shares: the relay between callers and
//! targets, and `tieline connect` between local clients and the relay.
//!
//! On the way of a request: hyper's server reads a [`Caller`]; [`exchange`] sends the request with its
//! [`RequestBody`] over a [`Connection`], perhaps from a [`Pool`]; an [`AnswerBody`] takes the answer back, and its
//! [`Lease`] the connection. The other modules hold rules about heads and URLs.
//!
//! Each hop decides for itself which connection to use, how long anything may take, and the text of
//! its own answers. No runtime, I/O or clock: a wait comes in as a future, a point in time as a type parameter.

mod answer;
mod body;
pub mod browser;
mod caller;
mod connection;
mod continue_wait;
pub mod cors;
pub mod documents;
mod endpoints;
mod escape;
pub mod events;
mod failure;
pub mod headers;
mod informational;
mod method;
mod pool;
mod refusal;
mod reporting;
pub mod rewrite;
mod scanner;
pub mod site;
mod track;
mod tries;

pub use answer::{AnswerBody, Broken, Cut, EventStream, Lend, Reader};
pub use body::{Progress, RequestBody, await_continue};
pub use caller::{Caller, CallerSocket, CallerState};
pub use connection::Connection;
pub use escape::escape_path;
pub use failure::{Delivery, Failure, Fault, copy_head};
pub use method::{REQUEST_START_BYTES_MAX, is_head};
pub use pool::{Keeper, Lease, Pool, PooledConnection, Usable};
pub use refusal::{Refusal, answer_to, close_after, json_answer};
pub use scanner::{Intake, RequestLine};
pub use tries::{Answered, FailureOf, Sent, Tries, Unanswered, exchange};
