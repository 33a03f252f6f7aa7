//! npm's `server-everything` as the server; the Python SDK in the 2025 protocol era, or plain HTTP, as the
//! client.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tieline_e2e::interop::{Client, Needs, Setup};
use tieline_e2e::path::Path;

use crate::spacing::{heard_at_s, in_time, one_by_one};
use crate::{Case, ensure_same};

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, check| Case::new("everything", name, Needs::PythonAndNode, check);
    vec![
        case(
            "initialize_and_every_list_answer",
            initialize_and_every_list_answer,
        ),
        case(
            "a_refused_2026_client_falls_back",
            a_refused_2026_client_falls_back,
        ),
        case(
            "echo_returns_short_and_long_messages",
            echo_returns_short_and_long_messages,
        ),
        case("progress_arrives_one_by_one", progress_arrives_one_by_one),
        case("short_calls_pass_a_long_one", short_calls_pass_a_long_one),
        case(
            "get_stream_carries_notifications",
            get_stream_carries_notifications,
        ),
        case(
            "get_stream_carries_requests_to_the_client",
            get_stream_carries_requests,
        ),
        case("delete_ends_the_session", delete_ends_the_session),
        case("refusals_arrive_as_they_are", refusals_arrive_as_they_are),
        case(
            "last_event_id_brings_what_was_missed",
            last_event_id_brings_what_was_missed,
        ),
    ]
}

/// Runs a scenario on the direct path and on `path`; both reports must be equal.
fn same_as_direct(setup: &Setup, path: Path, client: Client, scenario: &str) -> Result<Value> {
    let direct = setup.once(&format!("everything {client:?} {scenario}"), || {
        report(setup, Path::Direct, client, scenario)
    })?;
    if path != Path::Direct {
        ensure_same(path, report(setup, path, client, scenario)?, &direct)?;
    }
    Ok(direct)
}

fn report(setup: &Setup, path: Path, client: Client, scenario: &str) -> Result<Value> {
    let server = setup.everything()?;
    let way = path.open(server.url(), setup.trust())?;
    setup.client(client, scenario, way.url())
}

pub(crate) fn assert_inventory(report: &Value) -> Result<()> {
    ensure!(report["protocol_version"] == "2025-11-25", "{report:#}");
    ensure!(
        report["server"]["name"] == "mcp-servers/everything",
        "{report:#}"
    );
    let tools = report["tools"].as_array().context("no tools reported")?;
    for wanted in ["echo", "get-sum", "trigger-long-running-operation"] {
        ensure!(
            tools.iter().any(|tool| tool["name"] == wanted),
            "{wanted} is not in {tools:#?}"
        );
    }
    for list in ["resources", "templates", "prompts", "image_sha256"] {
        ensure!(
            report[list].as_array().is_some_and(|list| !list.is_empty()),
            "no {list} reported"
        );
    }
    ensure!(
        report["sum"].as_str().is_some_and(|sum| sum.contains("42")),
        "{}",
        report["sum"]
    );
    Ok(())
}

fn initialize_and_every_list_answer(setup: &Setup, path: Path) -> Result<()> {
    assert_inventory(&same_as_direct(setup, path, Client::Era2025, "inventory")?)
}

fn a_refused_2026_client_falls_back(setup: &Setup, path: Path) -> Result<()> {
    assert_inventory(&same_as_direct(setup, path, Client::Era2025, "auto")?)
}

fn echo_returns_short_and_long_messages(setup: &Setup, path: Path) -> Result<()> {
    let report = report(setup, path, Client::Era2025, "echo")?;
    ensure!(
        report["same"] == serde_json::json!([true, true, true]),
        "{report}"
    );
    Ok(())
}

fn progress_arrives_one_by_one(setup: &Setup, path: Path) -> Result<()> {
    let report = one_by_one(|pace| report(setup, path, Client::Era2025, pace))?;
    let text = report["text"].as_str().context("no text reported")?;
    ensure!(
        text.starts_with("Long running operation completed"),
        "{text}"
    );
    Ok(())
}

fn short_calls_pass_a_long_one(setup: &Setup, path: Path) -> Result<()> {
    let all_right = |scenario: &str| {
        let report = report(setup, path, Client::Era2025, scenario)?;
        let right = report["right"]
            .as_array()
            .context("no list `right` reported")?;
        ensure!(
            right.len() == 32 && right.iter().all(|right| right == true),
            "{report}"
        );
        Ok(report)
    };
    in_time(&["concurrent", "concurrent_slow"], all_right, |report| {
        let (sums_s, long_s) = (
            report["sums_done_s"].as_f64(),
            report["long_done_s"].as_f64(),
        );
        ensure!(
            sums_s < long_s,
            "the short calls waited for the long one: {report}"
        );
        Ok(())
    })?;
    Ok(())
}

fn get_stream_carries_notifications(setup: &Setup, path: Path) -> Result<()> {
    let opened_once = |scenario: &str| {
        let report = report(setup, path, Client::Era2025, scenario)?;
        let opened = &report["opened"];
        ensure!(opened[0]["status"] == 200, "{report:#}");
        ensure!(opened[0]["type"] == "text/event-stream", "{report:#}");
        ensure!(
            opened.as_array().is_some_and(|all| all.len() == 1),
            "the GET stream was not opened exactly once: {report:#}"
        );
        ensure!(heard_at_s(&report).len() == 2, "{report:#}");
        Ok(report)
    };
    in_time(&["get_stream"; 3], opened_once, |report| {
        // The server sends one message at once and the next 5 s later; the stream is idle in between.
        let at_s = heard_at_s(report);
        ensure!(at_s[0] < 2.0, "the first message came late: {at_s:?}");
        ensure!(
            (4.0..7.0).contains(&(at_s[1] - at_s[0])),
            "the messages were not 5 s apart: {at_s:?}"
        );
        Ok(())
    })?;
    Ok(())
}

fn get_stream_carries_requests(setup: &Setup, path: Path) -> Result<()> {
    let report = same_as_direct(setup, path, Client::Era2025, "roots")?;
    let text = report["text"].as_str().context("no text reported")?;
    ensure!(text.contains("file:///shows/tieline"), "{text}");
    ensure!(report["asked"] == true, "{report}");
    Ok(())
}

fn delete_ends_the_session(setup: &Setup, path: Path) -> Result<()> {
    let report = same_as_direct(setup, path, Client::Http, "delete")?;
    ensure!(
        report["before"] == 200 && report["stream"] == 200,
        "{report:#}"
    );
    ensure!(report["delete"]["status"] == 200, "{report:#}");
    for after in ["post_after", "get_after", "delete_after"] {
        ensure!(report[after]["status"] == 400, "{after}: {report:#}");
    }
    Ok(())
}

fn refusals_arrive_as_they_are(setup: &Setup, path: Path) -> Result<()> {
    let report = same_as_direct(setup, path, Client::Http, "refusals")?;
    ensure!(report["no_session"]["status"] == 400, "{report:#}");
    ensure!(report["not_acceptable"]["status"] == 406, "{report:#}");
    ensure!(report["wrong_path"]["status"] == 404, "{report:#}");
    Ok(())
}

fn last_event_id_brings_what_was_missed(setup: &Setup, path: Path) -> Result<()> {
    let report = report(setup, path, Client::Http, "resume")?;
    let events: Vec<_> = report["events"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|event| &event["message"])
        .collect();
    let progress: Vec<_> = events
        .iter()
        .filter_map(|message| message["params"]["progress"].as_u64())
        .collect();
    ensure!(
        progress == [1, 2, 3, 4],
        "progress missing or repeated: {report:#}"
    );
    ensure!(
        events.last().is_some_and(|message| message["id"] == 7),
        "the last event is not the result of the call: {report:#}"
    );
    let statuses = report["statuses"]
        .as_array()
        .context("no statuses reported")?;
    ensure!(statuses.iter().all(|status| status == 200), "{report:#}");
    Ok(())
}
