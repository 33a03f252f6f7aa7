//! macOS: a property list for launchd, for the user or the machine.

use std::path::PathBuf;

use super::plan::{MARK, Plan, ServiceError, ServiceSpec, Step};

/// Seconds between two starts of a program that fails: launchd cannot tell a final refusal from a
/// crash.
const THROTTLE_SECONDS: u32 = 30;

pub(super) fn plan(order: &ServiceSpec) -> Result<Plan, ServiceError> {
    let label = format!("dev.tieline.{}", order.name);
    let (dir, log): (PathBuf, PathBuf) = if order.system {
        ("/Library/LaunchDaemons".into(), "/Library/Logs".into())
    } else {
        let library = order.home.join("Library");
        (library.join("LaunchAgents"), library.join("Logs"))
    };
    let log = log.join(format!("{label}.log")).display().to_string();
    let path = dir.join(format!("{label}.plist"));
    let file = path.display().to_string();
    Ok(Plan {
        content: content(order, &label, &log),
        // Unloads a service that runs with its old flags; fails if none is loaded.
        start: vec![
            Step::new(&["launchctl", "unload", &file]).may_fail(),
            Step::new(&["launchctl", "load", "-w", &file]),
        ],
        stop: vec![Step::new(&["launchctl", "unload", "-w", &file])],
        forget: Vec::new(),
        ask: Step::new(&["launchctl", "list", &label]).words,
        // `launchctl list` prints the properties of a loaded job, or nothing.
        active: &["{"],
        hint: Some(format!("its log is {log}")),
        path,
    })
}

fn content(order: &ServiceSpec, label: &str, log: &str) -> String {
    let words: Vec<_> = order
        .command
        .iter()
        .map(|word| format!("    <string>{}</string>\n", escaped(word)))
        .collect();
    let user = match &order.user {
        Some(user) => format!(
            "  <key>UserName</key>\n  <string>{}</string>\n",
            escaped(user)
        ),
        None => String::new(),
    };
    let stop_seconds = order.stop_seconds;
    let (words, dir, log) = (words.concat(), escaped(&order.dir), escaped(log));
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!-- {MARK} -->
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>Label</key>
  <string>{label}</string>
  <key>ProgramArguments</key>
  <array>
{words}  </array>
  <key>WorkingDirectory</key>
  <string>{dir}</string>
{user}  <key>RunAtLoad</key>
  <true/>
  <key>KeepAlive</key>
  <dict>
    <key>SuccessfulExit</key>
    <false/>
  </dict>
  <key>ExitTimeOut</key>
  <integer>{stop_seconds}</integer>
  <key>ThrottleInterval</key>
  <integer>{THROTTLE_SECONDS}</integer>
  <key>StandardErrorPath</key>
  <string>{log}</string>
</dict>
</plist>
"#
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::plan::order;
    use super::*;

    #[test]
    fn a_property_list_holds_each_word_as_text() {
        let plan = plan(&order(false, &["--to", "http://h:1/?a<b&c"])).unwrap();
        assert!(
            plan.path
                .ends_with("Library/LaunchAgents/dev.tieline.tieline.plist")
        );
        let text = &plan.content;
        assert!(
            text.contains("<string>/opt/tie line/tieline</string>"),
            "{text}"
        );
        assert!(
            text.contains("<string>http://h:1/?a&lt;b&amp;c</string>"),
            "{text}"
        );
        assert!(!text.contains("UserName"), "{text}");
    }
}
