//! The `scaling` command, with stand-ins for relay, agent and fleet.

use std::fs;

use serde_json::Value;

use crate::reports::assert_is_well_formed;
use crate::stand_in::{relay_and_agent, script};
use crate::{loadgen, number, stderr};

/// Reports that the tunnels are up, and runs until its input ends.
const FLEET: &str = r#"
while [ "$1" != --agents ]; do shift; done
echo "{\"event\":\"up\",\"agents\":$2,\"ms\":7,\"disconnects\":0}"
read nothing
echo the input has ended >> FOLDER/ended"#;

#[test]
fn one_and_ten_sessions_and_tunnels_make_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let (relay, agent) = relay_and_agent(folder.path());
    let fleet = script(folder.path(), "fleet", FLEET);
    let out = folder.path().join("out");
    let output = loadgen(&["scaling", "--sessions", "10,1", "--tunnels", "1,10"])
        .args(["--callers", "20", "--rate", "500", "--idle", "100ms"])
        .args(["--rounds", "2", "--duration", "100ms", "--warm-up", "20ms"])
        .args([
            "--relay-bin",
            &relay,
            "--agent-bin",
            &agent,
            "--fleet-bin",
            &fleet,
        ])
        .args(["--out", out.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        !folder.path().join("ended").exists(),
        "a fleet lost its input"
    );

    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    let json: Value = serde_json::from_str(&read("scaling.json")).unwrap();
    for (series, values) in [
        (
            "sessions",
            &[
                "relay_cpu_us",
                "agent_cpu_us",
                "p50_us",
                "direct_p99_us",
                "relay_mib",
            ][..],
        ),
        (
            "tunnels",
            &[
                "relay_cpu_us",
                "p99_us",
                "connect_p50_us",
                "up_ms",
                "idle_ms",
            ],
        ),
    ] {
        let points = json[series]["points"].as_array().unwrap();
        let counts: Vec<_> = points.iter().map(|point| number(&point["count"])).collect();
        assert_eq!(counts, [1.0, 10.0]);
        for point in points {
            assert_eq!(point["rounds"].as_array().unwrap().len(), 2);
            for value in values {
                assert!(
                    point["values"][value]["median"].is_number(),
                    "{value}: {point}"
                );
            }
        }
        let ratio = &json[series]["changes"]["p50_us"];
        assert!(
            number(&ratio["ratio"]["median"]) > 0.0 && ratio["to"] == 10,
            "{ratio}"
        );
    }
    assert_eq!(json["load"]["requests_per_s"], 500);
    // A heartbeat interval is long, so idle tunnels are measured in the first round only.
    let rounds = &json["tunnels"]["points"][0]["rounds"];
    assert!(rounds[0]["idle_ms"].is_number() && rounds[1].get("idle_ms").is_none());

    let document = read("scaling.md");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    for word in [
        "machine",
        "kernel",
        "commit",
        "command",
        "seed",
        "relay CPU",
        "connect p99",
    ] {
        assert!(
            document.contains(word) && told.contains(word),
            "{word}: {document}\n{told}"
        );
    }
    let page = read("scaling.html");
    assert_is_well_formed(&page);
    for word in [
        "id=\"sessions\"",
        "id=\"tunnels\"",
        "Time to connect",
        "<circle",
        "Linux",
    ] {
        assert!(page.contains(word), "{word}");
    }
}

#[test]
fn what_cannot_work_is_said_before_anything_starts() {
    let fleet = loadgen(&["scaling", "--fleet-bin", "/nonexistent/fleet"]).output();
    // The shell lowers the hard limit, so the program cannot raise it again.
    let limited = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 300 && exec \"$0\" scaling --only sessions"])
        .arg(env!("CARGO_BIN_EXE_tieline-loadgen"))
        .output();
    for (output, words) in [
        (fleet, ["/nonexistent/fleet", "--example fleet"]),
        (limited, ["10000 sessions", "ulimit -n"]),
    ] {
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = stderr(&output);
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}
