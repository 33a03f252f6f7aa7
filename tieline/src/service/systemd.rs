//! Linux: a systemd unit, for the user's manager or the machine's.

use std::path::PathBuf;

use super::plan::{MARK, Plan, ServiceError, ServiceSpec, Step};

/// Folder of the units that an administrator adds (systemd.unit(5)).
const SYSTEM_DIR: &str = "/etc/systemd/system";

/// Restrictions that every user's manager can enforce. An agent needs the network, its state folder and the
/// files that its settings name.
const HARDENED: &str = "\
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
UMask=0077
";

/// Restrictions that only the machine's manager can enforce. A user's manager would need namespaces, which
/// many systems forbid users to create; the service would not start there.
const SYSTEM_ONLY: &str = "\
CapabilityBoundingSet=
AmbientCapabilities=
DevicePolicy=closed
PrivateDevices=yes
ProcSubset=pid
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=full
RemoveIPC=yes
";

pub(super) fn plan(order: &ServiceSpec) -> Result<Plan, ServiceError> {
    let unit = format!("{}.service", order.name);
    let dir = if order.system {
        PathBuf::from(SYSTEM_DIR)
    } else {
        order.config.join("systemd").join("user")
    };
    let scope: &[&str] = if order.system { &[] } else { &["--user"] };
    let systemctl = |words: &[&str]| Step::new(&[&["systemctl"], scope, words].concat());
    Ok(Plan {
        path: dir.join(&unit),
        content: content(order),
        // Not `enable --now`, which leaves a running service with its old flags.
        start: vec![
            systemctl(&["daemon-reload"]),
            systemctl(&["enable", &unit]),
            systemctl(&["restart", &unit]),
        ],
        stop: vec![systemctl(&["disable", "--now", &unit])],
        forget: vec![systemctl(&["daemon-reload"])],
        ask: systemctl(&["is-active", &unit]).words,
        active: &["active"],
        hint: (!order.system).then(|| {
            "the service runs while you are logged in; to keep it running: loginctl enable-linger".to_owned()
        }),
    })
}

fn content(order: &ServiceSpec) -> String {
    let mut command = order.command.iter();
    let program = command.next().map(|program| quoted(program, false));
    let words = command.map(|word| quoted(word, true));
    let command: Vec<_> = program.into_iter().chain(words).collect();
    let user = match &order.user {
        Some(user) => format!("User={}\n", user.replace('%', "%%")),
        None => String::new(),
    };
    // A user's manager has no network target; the agent dials until there is a network.
    let (target, network, system) = if order.system {
        let network = "Wants=network-online.target\nAfter=network-online.target\n";
        ("multi-user.target", network, SYSTEM_ONLY)
    } else {
        ("default.target", "", "")
    };
    format!(
        "# {MARK}\n\
         [Unit]\n\
         Description=Tieline agent ({name})\n\
         {network}\
          # No start limit: an agent that cannot start is started again until it can.\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         ExecStart={command}\n\
         WorkingDirectory={dir}\n\
         {user}\
         Restart=on-failure\n\
         RestartSec=5\n\
          # Exit codes 2 (wrong usage) and 3 (refused for good): a restart does not help.\n\
         RestartPreventExitStatus=2 3\n\
          # Time for calls in flight to finish.\n\
         TimeoutStopSec={stop_seconds}\n\
         \n\
         {HARDENED}\
         {system}\
         \n\
         [Install]\n\
         WantedBy={target}\n",
        name = order.name,
        command = command.join(" "),
        dir = order.dir.replace('%', "%%"),
        stop_seconds = order.stop_seconds,
    )
}

/// Quotes a word of a command line and escapes specifiers. With `has_variables`, also escapes `$`: systemd
/// expands variables in arguments, not in the program's path (systemd.service(5), "Command lines").
fn quoted(word: &str, has_variables: bool) -> String {
    let mut text = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '%' => text.push_str("%%"),
            '$' if has_variables => text.push_str("$$"),
            other => text.push(other),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::super::plan::order;
    use super::*;

    #[test]
    fn a_users_unit_runs_serve_with_the_given_flags() {
        let plan = plan(&order(false, &["--relay", "tcp://r:1", "--to", "h:1"])).unwrap();
        assert_eq!(
            plan.path,
            PathBuf::from("/home/ada/.config/systemd/user/tieline.service")
        );
        let text = &plan.content;
        assert!(text.contains(
            "\nExecStart=\"/opt/tie line/tieline\" \"serve\" \"--relay\" \"tcp://r:1\" \"--to\" \"h:1\"\n"
        ), "{text}");
        assert!(text.contains("\nWorkingDirectory=/home/ada\n"), "{text}");
        assert!(text.contains("\nWantedBy=default.target\n"), "{text}");
        assert!(!text.contains("User="), "{text}");
        assert_eq!(
            plan.start[2].to_string(),
            "systemctl --user restart tieline.service"
        );
    }

    #[test]
    fn a_machines_unit_runs_as_a_user() {
        let plan = plan(&order(true, &[])).unwrap();
        assert_eq!(
            plan.path,
            PathBuf::from("/etc/systemd/system/tieline.service")
        );
        assert!(plan.content.contains("\nUser=ada\n"));
        assert!(plan.content.contains("\nAfter=network-online.target\n"));
        assert!(plan.content.contains("\nWantedBy=multi-user.target\n"));
        assert_eq!(plan.start[0].to_string(), "systemctl daemon-reload");
    }

    #[test]
    fn no_word_is_taken_for_more_than_text() {
        assert_eq!(
            quoted(r#"a "b" \ %h $HOME 'c'"#, true),
            r#""a \"b\" \\ %%h $$HOME 'c'""#
        );
        assert_eq!(quoted("/opt/$x/%n", false), r#""/opt/$x/%%n""#);
        let mut hostile = order(true, &[]);
        hostile.dir = r#"/srv/%h/"a" b"#.to_owned();
        hostile.user = Some(r"STUDIO\ada".to_owned());
        let text = content(&hostile);
        assert!(
            text.contains("\nWorkingDirectory=/srv/%%h/\"a\" b\n"),
            "{text}"
        );
        assert!(text.contains("\nUser=STUDIO\\ada\n"), "{text}");
    }

    #[test]
    fn a_unit_forbids_what_an_agent_never_does() {
        for system in [false, true] {
            let text = content(&order(system, &[]));
            for line in HARDENED.lines() {
                assert!(text.contains(&format!("\n{line}\n")), "{line}: {text}");
            }
            assert!(text.contains("\nTimeoutStopSec=40\n"), "{text}");
            assert_eq!(text.contains("\nProtectSystem=full\n"), system, "{text}");
        }
    }
}
