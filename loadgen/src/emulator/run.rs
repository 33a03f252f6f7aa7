//! One run of the command `path`: sets the path up, runs both commands, tears everything down and reports.

use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::counts::Counts;
use super::crossing::Crossing;
use super::device::{self, Device};
use super::forwarder::Forwarder;
use super::guard::Guard;
use super::namespace::Namespace;
use super::program::{Place, Program, exit_code};
use super::report::Report;
use super::settings::Settings;
use crate::cli::EmulatorFlags;
use crate::interrupt::{Interrupt, Interrupted};
use crate::settings::UsageError;

/// Exit code that a shell reports for a program ended by SIGINT: 128 + 2.
const INTERRUPTED: u8 = 130;

/// Time between two looks at what may end a run: a signal, a command, the thread between the devices.
const LOOK: Duration = Duration::from_millis(20);

/// How long the far command may take until it listens on the port that is waited for.
const PORT_PATIENCE: Duration = Duration::from_secs(30);

/// The `path` subcommand. The exit code is that of the near command.
pub(crate) fn run(flags: &EmulatorFlags, interrupt: &Interrupt) -> anyhow::Result<ExitCode> {
    let settings = flags.checked().map_err(UsageError::from)?;
    let path = Path::set_up(&settings)?;
    let status = path.run_commands(&settings, interrupt);
    // The counters are worth most if a command has failed.
    let [near_to_far, far_to_near] = path.tear_down()?;
    let report = Report {
        seed: settings.seed,
        near_to_far,
        far_to_near,
    };
    eprint!("{}", report.text());
    if let Some(file) = &settings.report {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    match status {
        Ok(status) => Ok(ExitCode::from(exit_code(status))),
        Err(error) if error.is::<Interrupted>() => Ok(ExitCode::from(INTERRUPTED)),
        Err(error) => Err(error),
    }
}

/// One end: its namespace, and the guard that ends what runs there. Dropped in this order.
#[derive(Debug)]
struct End {
    _guard: Guard,
    namespace: Namespace,
}

/// The path and both ends.
#[derive(Debug)]
struct Path {
    forwarder: Forwarder,
    ends: [End; 2],
}

impl Path {
    fn set_up(settings: &Settings) -> anyhow::Result<Self> {
        let (near, near_device) = set_up_end(Place::Near, settings)?;
        let (far, far_device) = set_up_end(Place::Far, settings)?;
        // Two seeds next to each other give unrelated numbers.
        let seeds = [
            settings.seed.wrapping_mul(2),
            settings.seed.wrapping_mul(2).wrapping_add(1),
        ];
        let crossings = seeds.map(|seed| Crossing::new(settings.filter, settings.way, seed));
        let forwarder = Forwarder::start([near_device, far_device], crossings)?;
        Ok(Self {
            forwarder,
            ends: [near, far],
        })
    }

    /// Runs both commands until the near one has ended; returns how it ended.
    fn run_commands(
        &self,
        settings: &Settings,
        interrupt: &Interrupt,
    ) -> anyhow::Result<ExitStatus> {
        let [near, far] = &self.ends;
        let start = |end: &End, place, command: &str| {
            Program::start(&end.namespace, place, command, settings.addresses)
        };
        let far_command = settings.far.as_deref();
        let mut far_program = far_command
            .map(|command| start(far, Place::Far, command))
            .transpose()?;
        if let (Some(port), Some(program)) = (settings.far_port, &mut far_program) {
            wait_for_port(port, far, program, interrupt)?;
        }
        let mut near_program = start(near, Place::Near, &settings.near)?;
        let status = self.wait_for_near(&mut near_program, interrupt);
        near_program.end()?;
        if let Some(far_program) = far_program {
            far_program.end()?;
        }
        status
    }

    /// Waits until the near command has ended, or cannot go on.
    fn wait_for_near(
        &self,
        near: &mut Program,
        interrupt: &Interrupt,
    ) -> anyhow::Result<ExitStatus> {
        loop {
            let status = near.ended_within(LOOK)?;
            // Ctrl-C reaches the near command as well, which then often ends first.
            interrupt.check()?;
            if let Some(status) = status {
                return Ok(status);
            }
            if !self.forwarder.is_running() {
                bail!("the path broke while the near command was running");
            }
        }
    }

    /// Ends the path, then all processes of both namespaces; returns the counters.
    fn tear_down(self) -> anyhow::Result<[Counts; 2]> {
        let Self { forwarder, ends } = self;
        // Before the devices end with the forwarder.
        let unread = ends.each_ref().map(|end| end.namespace.run(device::unread));
        let mut counts = forwarder.stop()?;
        for (counts, unread) in counts.iter_mut().zip(unread) {
            counts.unread = unread?;
        }
        Ok(counts)
    }
}

/// Makes the namespace, device and guard of an end.
fn set_up_end(place: Place, settings: &Settings) -> anyhow::Result<(End, Device)> {
    let namespace = Namespace::new(place.word())
        .context("cannot make a network namespace: this needs root (CAP_SYS_ADMIN)")?;
    let (addresses, mtu) = (settings.addresses, u32::from(settings.mtu));
    let own = match place {
        Place::Near => addresses.near,
        Place::Far => addresses.far,
    };
    let sysctls = settings.sysctls.clone();
    let device = namespace.run(move || {
        device::keep_quiet();
        let device = Device::make(own, &addresses, mtu)?;
        sysctls.iter().try_for_each(device::set)?;
        anyhow::Ok(device)
    })??;
    let end = End {
        _guard: Guard::start(&namespace)?,
        namespace,
    };
    Ok((end, device))
}

/// Waits until a program of the far end listens on `port`.
fn wait_for_port(
    port: u16,
    far: &End,
    program: &mut Program,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PORT_PATIENCE;
    while !far.namespace.run(move || device::is_listening(port))? {
        interrupt.check()?;
        if let Some(status) = program.ended_within(LOOK)? {
            bail!("the far command ended before it listened on port {port}: {status}");
        }
        if Instant::now() > deadline {
            bail!(
                "the far command did not listen on port {port} within {} s",
                PORT_PATIENCE.as_secs()
            );
        }
    }
    Ok(())
}
