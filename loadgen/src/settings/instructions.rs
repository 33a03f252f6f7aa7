//! Settings of `instructions`, checked.

use super::{UsageError, rounds_checked};
use crate::cli::InstructionsFlags;
use crate::instructions::counter::Counter;
use crate::path::relay::Binaries;

impl InstructionsFlags {
    /// Checks the flags; returns the number of rounds and the binaries, which run under `counter`.
    pub(crate) fn checked(&self, counter: Counter) -> Result<(usize, Binaries), UsageError> {
        let rounds = rounds_checked(self.rounds)?;
        let mut binaries = self.programs.binaries(1);
        // epoll, because callgrind supports little of io_uring. One shard, so that no session changes its shard.
        binaries
            .relay_arguments
            .extend(["--driver=epoll", "--shards=1"].map(str::to_owned));
        binaries.counter = Some(counter);
        Ok((rounds, binaries))
    }
}
