//! The command `path`: two network namespaces joined by a path with delay, loss and a rate, for kernels without netem.
//!
//! Each end is a namespace without a name ([`namespace`]) with a TUN device ([`device`]), a command in it ([`program`])
//! and a guard that ends what the command has started ([`guard`]). One thread ([`forwarder`]) moves packets between the
//! devices. What happens to a packet is decided without I/O: [`crossing`] filters and cuts it ([`packet`]) and asks the
//! direction's model ([`way`]) about each segment. [`mod@run`] puts all this together and takes it apart again.

mod counts;
mod crossing;
mod device;
mod forwarder;
pub(crate) mod guard;
mod kernel;
mod namespace;
mod packet;
mod program;
mod report;
mod run;
pub(crate) mod settings;
pub(crate) mod units;
mod way;

pub(crate) use run::run;
