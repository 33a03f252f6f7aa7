//! `tieline service`: keeps `tieline serve` running through log-ins and restarts of the machine, by
//! the operating system's own service manager.

mod launchd;
mod plan;
mod schtasks;
mod systemd;

use std::io;
use std::process;

use clap::{Args, Subcommand};
use serde_json::json;

use self::plan::{Plan, ServiceError, ServiceSpec, Step};
use crate::exit::{DONE, Ended, FAILED, USAGE};
use crate::paint::{GOOD, WARN, complain, paint, print_json, say, say_lines, warn};
use crate::settings::{self, ConfigFile, ServeArgs};
use tieline_agent::DRAIN_TIMEOUT;

/// Prefix of the variables that `serve` reads in place of flags; a service does not inherit them.
const VARIABLES: &str = "TIELINE_";

/// Parses the flags of `tieline serve`; `None` after an error was printed.
type ParseServe = fn(&[String]) -> Option<Box<ServeArgs>>;

/// Flags of `tieline service`.
#[derive(Debug, Args)]
pub struct ServiceArgs {
    /// The command to run.
    #[command(subcommand)]
    pub command: ServiceCommand,
}

/// The commands of `tieline service`.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Run tieline serve with these flags from now on, and at every start.
    Install(InstallArgs),
    /// Stop the service and remove it.
    Uninstall(PlaceArgs),
    /// Say whether the service is installed and running.
    Status(PlaceArgs),
}

/// Flags of `tieline service install`.
#[derive(Debug, Args)]
pub struct InstallArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: PlaceArgs,
    /// With --system: the user to run as; by default the user who called sudo
    #[arg(long, value_name = "USER", requires = "system")]
    pub user: Option<String>,
    /// Show what would be done and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Flags of tieline serve; without any, what tieline.toml says
    #[arg(last = true, value_name = "SERVE FLAGS")]
    pub serve: Vec<String>,
}

/// Selects a service.
#[derive(Clone, Debug, Args)]
pub struct PlaceArgs {
    /// For the whole machine, and not only while this user is logged in
    #[arg(long)]
    pub system: bool,
    /// Name of the service, where several run on one machine
    #[arg(long, default_value = "tieline")]
    pub name: String,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

/// Runs `tieline service`; returns the exit code.
pub(crate) fn run(args: &ServiceArgs, serve_args: ParseServe) -> Result<u8, Ended> {
    let done = match &args.command {
        ServiceCommand::Install(args) => install(args, serve_args),
        ServiceCommand::Uninstall(place) => uninstall(place),
        ServiceCommand::Status(place) => status(place),
    };
    done.map_err(|error| Ended::new(error.exit_code(), error))
}

fn install(args: &InstallArgs, serve_args: ParseServe) -> Result<u8, ServiceError> {
    // Check the flags now: a service that does not start is noticed much later. The service will not see this
    // shell's variables, so they are left out here.
    let Some(serve) = serve_args(&args.serve) else {
        return Ok(USAGE);
    };
    let variables = std::env::vars_os().filter(|(_, value)| !value.is_empty());
    let variables = variables.filter_map(|(name, _)| name.into_string().ok());
    for name in variables.filter(|name| name.starts_with(VARIABLES)) {
        warn(&format!(
            "{name} is set here, and the service will not see it: give it as a flag"
        ));
    }
    let file = ConfigFile::of_args(&serve)?;
    if let Some(file) = &file {
        warn(&format!(
            "the service's settings come from {}",
            file.path.display()
        ));
    }
    let drain_timeout = settings::checked(&serve, file)?.drain_timeout;
    let order = ServiceSpec::new(
        &args.place.name,
        args.place.system,
        args.user.as_deref(),
        &args.serve,
        drain_timeout,
    )?;
    if let Some(user) = &order.user {
        known_user(user)?;
    }
    let plan = plan_for(&order)?;
    if args.dry_run {
        show(&plan, args.place.json);
        return Ok(DONE);
    }
    let event = plan.write()?;
    tell(args.place.json, event, &plan);
    let code = carry_out(&plan.start, args.place.json).inspect_err(|_| {
        warn(&format!(
            "{} stays; tieline service uninstall removes it",
            plan.path.display()
        ));
    })?;
    if code == DONE
        && !args.place.json
        && let Some(hint) = &plan.hint
    {
        say(hint);
    }
    Ok(code)
}

/// Refuses a user that this machine does not have. `id` (POSIX) also knows users of directory services;
/// without `id`, the service manager reports the error later.
fn known_user(user: &str) -> Result<(), ServiceError> {
    if cfg!(windows) {
        return Ok(());
    }
    match process::Command::new("id").args(["-u", user]).output() {
        Ok(output) if !output.status.success() => Err(ServiceError::NoUser(user.to_owned())),
        _ => Ok(()),
    }
}

fn uninstall(place: &PlaceArgs) -> Result<u8, ServiceError> {
    let plan = plan_for(&order_of(place)?)?;
    if !plan.is_installed()? {
        return Err(ServiceError::NotInstalled {
            path: plan.path.clone(),
        });
    }
    // The file is removed even if the stop fails, so that the service does not come back.
    let stopped = carry_out(&plan.stop, place.json).unwrap_or_else(|error| {
        complain(&error);
        FAILED
    });
    plan.remove()?;
    tell(place.json, "removed", &plan);
    let code = carry_out(&plan.forget, place.json)?;
    Ok(stopped.max(code))
}

fn status(place: &PlaceArgs) -> Result<u8, ServiceError> {
    let plan = plan_for(&order_of(place)?)?;
    let is_installed = plan.is_installed()?;
    let state = match output_of(&plan.ask) {
        Ok(output) => match (first_line(&output.stdout), first_line(&output.stderr)) {
            (Some(word), _) => word,
            (None, None) => "unknown".to_owned(),
            (None, Some(line)) => format!("unknown ({})", without_bus(&line).unwrap_or(line)),
        },
        Err(error) => format!("unknown ({}: {error})", plan.ask[0]),
    };
    let is_active = is_installed && plan.active.contains(&state.as_str());
    if place.json {
        print_json(&json!({
            "event": "status", "name": place.name, "installed": is_installed,
            "active": is_active, "state": state, "path": plan.path,
        }));
    } else if is_installed {
        let style = if is_active { GOOD } else { WARN };
        say(&format!("{}  {}", paint(style, state), plan.path.display()));
    } else {
        say(&format!(
            "not installed (looked for {})",
            plan.path.display()
        ));
    }
    Ok(if is_active { DONE } else { FAILED })
}

/// Runs a command to its end.
fn output_of(words: &[String]) -> io::Result<process::Output> {
    process::Command::new(&words[0]).args(&words[1..]).output()
}

/// The first line of what a command printed, if it is not blank.
fn first_line(printed: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(printed);
    let line = text.lines().next().unwrap_or_default().trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// Advice if systemctl cannot reach this user's manager, as in a shell of su or of a script.
fn without_bus(line: &str) -> Option<String> {
    let is_bus = line.contains("connect to bus") || line.contains("connect to user scope bus");
    is_bus.then(|| {
        format!(
            "{line}: no service manager of this user runs, or this shell cannot find it: run loginctl \
             enable-linger, set XDG_RUNTIME_DIR=/run/user/$(id -u), and try again; or use --system with sudo"
        )
    })
}

/// An order for commands that need only the service's place.
fn order_of(place: &PlaceArgs) -> Result<ServiceSpec, ServiceError> {
    ServiceSpec::new(&place.name, place.system, None, &[], DRAIN_TIMEOUT)
}

fn plan_for(order: &ServiceSpec) -> Result<Plan, ServiceError> {
    if cfg!(target_os = "linux") {
        systemd::plan(order)
    } else if cfg!(target_os = "macos") {
        launchd::plan(order)
    } else if cfg!(windows) {
        schtasks::plan(order)
    } else {
        Err(ServiceError::NoSystem)
    }
}

fn show(plan: &Plan, json: bool) {
    let commands: Vec<_> = plan.start.iter().map(Step::to_string).collect();
    if json {
        print_json(&json!({
            "event": "would_install", "path": plan.path, "content": plan.content,
            "commands": commands,
        }));
        return;
    }
    say(&format!("# {}", plan.path.display()));
    say_lines(&plan.content.trim_end());
    for command in commands {
        say(&format!("# then: {command}"));
    }
}

fn tell(json: bool, event: &str, plan: &Plan) {
    if json {
        print_json(&json!({ "event": event, "path": plan.path }));
    } else {
        say(&format!(
            "{}  {}",
            paint(GOOD, format_args!("{event:<8}")),
            plan.path.display()
        ));
    }
}

/// Runs the steps in order, up to the first failure that is not allowed.
fn carry_out(steps: &[Step], json: bool) -> Result<u8, ServiceError> {
    for step in steps {
        let output = match output_of(&step.words) {
            Ok(output) => output,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                warn(&format!(
                    "there is no {} here; left to do: {step}",
                    step.words[0]
                ));
                continue;
            }
            Err(source) => {
                let command = step.to_string();
                return Err(ServiceError::Run { command, source });
            }
        };
        if json {
            let ok = output.status.success();
            print_json(&json!({ "event": "ran", "command": step.to_string(), "ok": ok }));
        } else if output.status.success() {
            say(&format!("{}  {step}", paint(GOOD, "ran     ")));
        }
        if !output.status.success() && !step.may_fail {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let line = stderr.lines().next().unwrap_or("no error message");
            let message = without_bus(line).unwrap_or_else(|| line.to_owned());
            return Err(ServiceError::Failed {
                command: step.to_string(),
                message,
            });
        }
    }
    Ok(DONE)
}
