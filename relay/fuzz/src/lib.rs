//! What the relay does with a QUIC packet before it knows the sender: its kind, and its shard. The relay exports neither,
//! so the files are compiled here, with the few items around them that they use.

mod io;
mod metrics;
mod quic;

pub use quic::run;
