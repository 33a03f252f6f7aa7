//! `tieline status`: the agents that run on this machine.

use clap::Args;
use tieline_agent::{default_state_dir, list_agents};

use crate::exit::{DONE, Ended};
use crate::paint::{print_json, say_lines};
use crate::settings::{ConfigFile, StateArgs};

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
pub(crate) async fn run(args: StatusArgs) -> Result<u8, Ended> {
    let state_dir = args.state.state_dir.map_or_else(
        || ConfigFile::state_dir_here().and_then(|dir| dir.map_or_else(default_state_dir, Ok)),
        Ok,
    );
    let state_dir = state_dir.map_err(Ended::usage)?;
    let place = state_dir.display();
    let agents = list_agents(&state_dir).await;
    let agents = agents.map_err(|error| Ended::failed(format!("{place}: {error}")))?;
    if agents.is_empty() {
        let problem = format!("no agent runs here (looked in {place})");
        return Err(Ended::failed(problem));
    }
    for agent in &agents {
        if args.json {
            print_json(agent);
        } else {
            say_lines(agent);
        }
    }
    Ok(DONE)
}
