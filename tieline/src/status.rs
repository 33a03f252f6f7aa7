//! `tieline status`: the agents that run on this machine.

use clap::Args;
use tieline_agent::{default_state_dir, list_agents};

use crate::paint::{complain, print_json, say_lines};
use crate::settings::{ConfigFile, StateArgs};

const DONE: u8 = 0;
const FAILED: u8 = 1;
const USAGE: u8 = 2;

/// Flags of `tieline status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub state: StateArgs,
}

/// Runs `tieline status`; returns the exit code.
pub(crate) async fn run(args: StatusArgs) -> u8 {
    let state_dir = args.state.state_dir.map_or_else(
        || ConfigFile::state_dir_here().and_then(|dir| dir.map_or_else(default_state_dir, Ok)),
        Ok,
    );
    let state_dir = match state_dir {
        Ok(dir) => dir,
        Err(error) => {
            complain(&error);
            return USAGE;
        }
    };
    match list_agents(&state_dir).await {
        Ok(agents) if agents.is_empty() => {
            complain(&format!(
                "no agent runs here (looked in {})",
                state_dir.display()
            ));
            FAILED
        }
        Ok(agents) => {
            for agent in &agents {
                if args.json {
                    print_json(agent);
                } else {
                    say_lines(agent);
                }
            }
            DONE
        }
        Err(error) => {
            complain(&format!("{}: {error}", state_dir.display()));
            FAILED
        }
    }
}
