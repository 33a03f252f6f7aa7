//! Flags of `instructions`, checked.

use super::{UsageError, rounds_checked};
use crate::cli::InstructionsFlags;
use crate::instructions::counter::Counter;
use crate::path::relay::Binaries;

impl InstructionsFlags {
    /// Rounds, and the programs of which `counter` counts.
    pub(crate) fn checked(&self, counter: Counter) -> Result<(usize, Binaries), UsageError> {
        let rounds = rounds_checked(self.rounds)?;
        let mut binaries = self.programs.binaries(1);
        // epoll: callgrind knows little of io_uring. One shard: no session is handed over.
        binaries
            .relay_arguments
            .extend(["--driver=epoll", "--shards=1"].map(str::to_owned));
        binaries.counter = Some(counter);
        Ok((rounds, binaries))
    }
}
