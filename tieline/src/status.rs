//! `tieline status`: the agents that run on this machine.

use clap::Args;
use tieline_agent::plain::Plain;
use tieline_agent::{AgentStatus, default_state_dir, list_agents};

use crate::exit::{DONE, Ended};
use crate::paint::{print_json, say_lines};
use crate::settings::{ConfigFile, StateArgs};

/// Flags of `tieline status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
    /// Show also the last lines that programs (stdio: targets) wrote to standard error
    #[arg(long)]
    pub logs: bool,
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
    for mut agent in agents {
        if !args.logs {
            let tunnels = agent.tunnels.iter_mut();
            tunnels.for_each(|tunnel| tunnel.logs.clear());
        }
        if args.json {
            print_json(&agent);
            continue;
        }
        say_lines(&agent);
        if args.logs {
            say_lines(&logs(&agent));
        }
    }
    Ok(DONE)
}

/// The last lines of each program of an agent, below the program's name.
fn logs(agent: &AgentStatus) -> String {
    let programs = agent.tunnels.iter().filter(|it| it.stdio.is_some());
    let texts = programs.map(|it| {
        let name = format!("    {} wrote to standard error:", Plain(&it.target));
        let lines = it
            .logs
            .iter()
            .map(|line| format!("        {}", Plain(line)));
        let lines: Vec<_> = match it.logs.is_empty() {
            true => vec!["        (nothing)".to_owned()],
            false => lines.collect(),
        };
        format!("{name}\n{}", lines.join("\n"))
    });
    let texts: Vec<_> = texts.collect();
    match texts.is_empty() {
        true => "    runs no program, so there are no lines of one".to_owned(),
        false => texts.join("\n"),
    }
}
