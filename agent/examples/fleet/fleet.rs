//! Runs the agents, counts those whose tunnels are up, and restarts some of them on request.
//!
//! Prints one JSON object per line: `up` whenever all tunnels are up, `failed` for an agent that
//! gave up. A number on standard input ends that many agents without a shutdown and starts them again
//! at once; the end of standard input ends all agents.

use std::error::Error;
use std::ffi::OsString;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use serde::Serialize;
use tieline_agent::{AgentEvent, Config, Identity, run_with_reconnect};
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Threads that read keys while agents start.
const BLOCKING_THREADS: usize = 4;

/// Limit on queued events for each agent.
const EVENTS_MAX: usize = 16;

/// Limit on queued orders from standard input.
const ORDERS_MAX: usize = 16;

#[derive(Debug, Parser)]
#[command(name = "fleet", about = "Many agents in one process")]
struct Arguments {
    /// The relay: tcp://host:port
    #[arg(long)]
    relay: String,
    /// The target of all agents
    #[arg(long)]
    to: String,
    /// Number of agents; their tunnels are called fleet-00000 and so on
    #[arg(long)]
    agents: usize,
    /// Directory in which each agent keeps its key
    #[arg(long)]
    state_dir: PathBuf,
}

/// A line on standard output.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    /// All tunnels are up.
    Up {
        agents: usize,
        /// Milliseconds since the first agent was started or lost.
        ms: u128,
        /// Number of links that ended and of failed dials, since the start.
        disconnects: usize,
    },
    /// An agent ended, and will not come back.
    Failed { agent: usize, reason: String },
}

/// Runs a fleet until standard input ends.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse_from(arguments);
    // Makes the keys before the clock starts: each key waits for the disk.
    for agent in 0..arguments.agents {
        Identity::load(&state_dir(&arguments.state_dir, agent), Some("fleet"))?;
    }
    let (order, orders) = mpsc::channel(ORDERS_MAX);
    std::thread::Builder::new().spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let count = line.ok().and_then(|line| line.trim().parse().ok());
            if count.is_none_or(|count| order.blocking_send(count).is_err()) {
                break;
            }
        }
    })?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()?;
    let ended = runtime.block_on(Fleet::new(arguments).run(orders));
    // An orderly end of ten thousand agents would take too long.
    runtime.shutdown_background();
    ended
}

fn state_dir(root: &Path, agent: usize) -> PathBuf {
    root.join(format!("{agent:05}"))
}

struct Fleet {
    arguments: Arguments,
    agents: Vec<Agent>,
    news: mpsc::Sender<News>,
    heard: mpsc::Receiver<News>,
    up: usize,
    /// When the first agent was started or lost.
    since: Instant,
    disconnects: usize,
}

struct Agent {
    task: JoinHandle<()>,
    /// Number of this agent's starts; events of an earlier start no longer count.
    start: usize,
    up: bool,
}

struct News {
    agent: usize,
    start: usize,
    event: AgentEvent,
}

impl Fleet {
    fn new(arguments: Arguments) -> Self {
        let (news, heard) = mpsc::channel(arguments.agents * EVENTS_MAX);
        Self {
            arguments,
            agents: Vec::new(),
            news,
            heard,
            up: 0,
            since: Instant::now(),
            disconnects: 0,
        }
    }

    async fn run(mut self, mut orders: mpsc::Receiver<usize>) -> Result<(), Box<dyn Error>> {
        for agent in 0..self.arguments.agents {
            let task = self.start(agent, 0)?;
            self.agents.push(Agent {
                task,
                start: 0,
                up: false,
            });
        }
        loop {
            tokio::select! {
                Some(news) = self.heard.recv() => self.hear(&news)?,
                order = orders.recv() => match order {
                    Some(count) => self.restart(count)?,
                    None => return Ok(()),
                },
            }
        }
    }

    fn start(&self, agent: usize, start: usize) -> Result<JoinHandle<()>, Box<dyn Error>> {
        let news = self.news.clone();
        let mut config = Config::new(&self.arguments.relay, &self.arguments.to)?
            .with_name(&format!("fleet-{agent:05}"))?
            .with_state_dir(state_dir(&self.arguments.state_dir, agent))
            .with_event_hook(move |event| {
                let event = event.clone();
                // Never full: each agent has room for its events, and the fleet receives while agents run.
                let _ = news.try_send(News {
                    agent,
                    start,
                    event,
                });
            });
        config.status_socket = false;
        config.machine = Some("fleet".to_owned());
        Ok(tokio::spawn(async move {
            // The agent's last event tells how it ended.
            let _ = run_with_reconnect(config, std::future::pending()).await;
        }))
    }

    /// Aborts agents without a shutdown, and starts new runs of them.
    fn restart(&mut self, count: usize) -> Result<(), Box<dyn Error>> {
        self.since = Instant::now();
        for index in 0..count.min(self.agents.len()) {
            self.agents[index].task.abort();
            self.lost(index);
            let start = self.agents[index].start + 1;
            let task = self.start(index, start)?;
            let agent = &mut self.agents[index];
            (agent.task, agent.start) = (task, start);
        }
        Ok(())
    }

    fn hear(&mut self, news: &News) -> Result<(), Box<dyn Error>> {
        if self.agents[news.agent].start != news.start {
            return Ok(());
        }
        match &news.event {
            AgentEvent::Registered { .. } => {
                let agent = &mut self.agents[news.agent];
                self.up += usize::from(!std::mem::replace(&mut agent.up, true));
                if self.up == self.agents.len() {
                    say(&Line::Up {
                        agents: self.up,
                        ms: self.since.elapsed().as_millis(),
                        disconnects: self.disconnects,
                    })?;
                }
            }
            AgentEvent::Disconnected { .. } | AgentEvent::GoingAway { .. } => {
                self.disconnects += 1;
                self.lost(news.agent);
            }
            AgentEvent::Refused { .. }
            | AgentEvent::Superseded { .. }
            | AgentEvent::Failed { .. } => say(&Line::Failed {
                agent: news.agent,
                reason: news.event.to_string(),
            })?,
            _ => {}
        }
        Ok(())
    }

    fn lost(&mut self, agent: usize) {
        if self.agents[agent].up {
            if self.up == self.agents.len() {
                self.since = Instant::now();
            }
            self.up -= 1;
            self.agents[agent].up = false;
        }
    }
}

fn say(line: &Line) -> Result<(), Box<dyn Error>> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(line)?)?;
    Ok(stdout.flush()?)
}
