//! Windows: a scheduled task. A console program cannot be a Windows service, which must talk to the
//! service manager, but a task can start a console program at log-in or with the machine.

use std::path::Path;

use super::plan::{MARK, Plan, ServiceError, ServiceSpec, Step};

pub(super) fn plan(order: &ServiceSpec) -> Result<Plan, ServiceError> {
    // A task of the machine runs as SYSTEM, so no user may be able to change its program.
    let folder = if order.system {
        let program = Path::new(&order.command[0]);
        if program.starts_with(&order.home) {
            return Err(ServiceError::Writable {
                program: program.to_owned(),
                instead: order.programs.join("tieline"),
            });
        }
        order.programs.join("tieline")
    } else {
        order.home.join("AppData").join("Local").join("tieline")
    };
    let path = folder.join(format!("{}.cmd", order.name));
    let file = format!("\"{}\"", path.display());
    let mut create = vec![
        "schtasks",
        "/Create",
        "/F",
        "/TN",
        &order.name,
        "/TR",
        &file,
    ];
    create.extend_from_slice(if order.system {
        &["/SC", "ONSTART", "/RU", "SYSTEM"]
    } else {
        &["/SC", "ONLOGON", "/RL", "LIMITED"]
    });
    Ok(Plan {
        content: content(order)?,
        start: vec![
            Step::new(&create),
            Step::new(&["schtasks", "/Run", "/TN", &order.name]),
        ],
        stop: vec![
            Step::new(&["schtasks", "/End", "/TN", &order.name]),
            Step::new(&["schtasks", "/Delete", "/F", "/TN", &order.name]),
        ],
        forget: Vec::new(),
        ask: Step::new(&[
            "powershell",
            "-NoProfile",
            "-Command",
            &format!("(Get-ScheduledTask -TaskName '{}').State", order.name),
        ])
        .words,
        active: &["Running"],
        hint: None,
        path,
    })
}

fn content(order: &ServiceSpec) -> Result<String, ServiceError> {
    let mut words = Vec::new();
    for word in order.command.iter().chain([&order.dir]) {
        // The command interpreter cannot escape a quote inside quotes.
        if word.contains('"') {
            return Err(ServiceError::Text(word.clone()));
        }
        words.push(format!("\"{}\"", word.replace('%', "%%")));
    }
    let dir = words.pop().unwrap_or_default();
    Ok(format!(
        "@rem {MARK}\r\n@cd /d {dir}\r\n@{}\r\n",
        words.join(" ")
    ))
}

#[cfg(test)]
mod tests {
    use super::super::plan::order;
    use super::*;

    #[test]
    fn a_task_runs_a_file_with_each_word_in_quotes() {
        let plan = plan(&order(false, &["--name", "100% x"])).unwrap();
        assert!(
            plan.content
                .ends_with("@\"/opt/tie line/tieline\" \"serve\" \"--name\" \"100%% x\"\r\n"),
            "{}",
            plan.content
        );
        assert!(
            plan.start[0]
                .to_string()
                .ends_with("/SC ONLOGON /RL LIMITED")
        );
        assert!(super::plan(&order(false, &["a\"b"])).is_err());
    }

    #[test]
    fn a_task_of_the_machine_runs_nothing_that_a_user_may_change() {
        let machine = plan(&order(true, &[])).unwrap();
        assert!(machine.path.starts_with("/programs/tieline"), "{machine:?}");
        assert!(machine.start[0].to_string().contains("/RU SYSTEM"));
        let mut own = order(true, &[]);
        own.command[0] = "/home/ada/.cargo/bin/tieline".to_owned();
        let error = plan(&own).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("/programs"), "{error}");
        assert!(
            plan(&order(false, &[]))
                .unwrap()
                .path
                .starts_with("/home/ada")
        );
    }
}
