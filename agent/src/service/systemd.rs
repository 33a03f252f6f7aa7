//! Linux: a systemd unit, of the user or of the machine.

use std::path::PathBuf;

use super::plan::{MARK, Order, Plan, ServiceError, Step};

/// Where an administrator's units lie (systemd.unit(5)).
const SYSTEM_DIR: &str = "/etc/systemd/system";

pub(super) fn plan(order: &Order) -> Result<Plan, ServiceError> {
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
        // Not `--now`: that leaves a service that runs with the flags of before.
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
            "it runs while you are logged in; for longer: loginctl enable-linger".to_owned()
        }),
    })
}

fn content(order: &Order) -> String {
    let command: Vec<_> = order.command.iter().map(|word| quoted(word)).collect();
    let user = match &order.user {
        Some(user) => format!("User={}\n", user.replace('%', "%%")),
        None => String::new(),
    };
    // A user's manager knows nothing of the network; the agent dials until there is one.
    let (target, network) = if order.system {
        let network = "Wants=network-online.target\nAfter=network-online.target\n";
        ("multi-user.target", network)
    } else {
        ("default.target", "")
    };
    format!(
        "# {MARK}\n\
         [Unit]\n\
         Description=Tieline agent ({name})\n\
         {network}\
         # It dials again by itself; this is for when it cannot even start.\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         ExecStart={command}\n\
         WorkingDirectory={dir}\n\
         {user}\
         Restart=on-failure\n\
         RestartSec=5\n\
         # Wrong usage and a refusal for good: starting again helps neither.\n\
         RestartPreventExitStatus=2 3\n\
         \n\
         [Install]\n\
         WantedBy={target}\n",
        name = order.name,
        command = command.join(" "),
        dir = order.dir.replace('%', "%%"),
    )
}

/// A word of a command line, safe from specifiers and variables (systemd.service(5), "Command
/// lines").
fn quoted(word: &str) -> String {
    let mut text = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '%' | '$' => text.extend([c, c]),
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
            quoted(r#"a "b" \ %h $HOME 'c'"#),
            r#""a \"b\" \\ %%h $$HOME 'c'""#
        );
    }
}
