//! The fixture server on the Python SDK, with the same SDK as a client of the 2026-07-28 protocol era: no
//! `initialize`, no session id, `Mcp-Method` headers. Some tests use plain HTTP or a 2025 client.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tieline_e2e::interop::{Client, Needs, Server, Setup};
use tieline_e2e::path::Path;

use crate::spacing::one_by_one;
use crate::{Case, ensure_same};

/// Time limit for the server to report requests that it has already answered.
const TELL_LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, check| Case::new("era_2026", name, Needs::Python, check);
    vec![
        case(
            "calls_need_neither_initialize_nor_session",
            calls_need_no_session,
        ),
        case(
            "headers_reach_the_server_as_sent",
            headers_reach_the_server_as_sent,
        ),
        case(
            "headers_that_contradict_the_body_are_refused",
            contradictions_are_refused,
        ),
        case("progress_arrives_one_by_one", progress_arrives_one_by_one),
        case(
            "closing_the_stream_cancels_the_call",
            closing_the_stream_cancels_the_call,
        ),
        case("subscriptions_carry_events", subscriptions_carry_events),
        case(
            "the_same_server_serves_a_2025_client",
            the_same_server_serves_a_2025_client,
        ),
        case("delete_ends_a_2025_session", delete_ends_a_2025_session),
        case("refusals_arrive_as_they_are", refusals_arrive_as_they_are),
        case("redirects_stay_on_the_path", redirects_stay_on_the_path),
    ]
}

fn report(setup: &Setup, path: Path, client: Client, scenario: &str) -> Result<(Server, Value)> {
    let server = setup.sdk_server()?;
    let way = path.open(server.url(), setup.trust())?;
    let report = setup.client(client, scenario, way.url())?;
    Ok((server, report))
}

/// Runs a scenario on the direct path and on `path`; both reports must be equal.
fn same_as_direct(setup: &Setup, path: Path, client: Client, scenario: &str) -> Result<Value> {
    let direct = setup.once(&format!("era_2026 {client:?} {scenario}"), || {
        Ok(report(setup, Path::Direct, client, scenario)?.1)
    })?;
    if path != Path::Direct {
        let (_server, report) = report(setup, path, client, scenario)?;
        ensure_same(path, report, &direct)?;
    }
    Ok(direct)
}

fn exchanges(report: &Value) -> Result<&Vec<Value>> {
    report["exchanges"]
        .as_array()
        .context("no exchanges reported")
}

fn calls_need_no_session(setup: &Setup, path: Path) -> Result<()> {
    let report = same_as_direct(setup, path, Client::Era2026, "calls")?;
    ensure!(report["protocol_version"] == "2026-07-28", "{report:#}");
    let tools: Vec<_> = report["tools"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|tool| &tool["name"])
        .collect();
    ensure!(
        tools == ["echo", "add", "locate", "slow", "announce"],
        "{tools:?}"
    );
    ensure!(
        report["echo"] == "naïve 工房" && report["sum"] == "42",
        "{report:#}"
    );
    ensure!(report["region"] == "Köln, 工房", "{report:#}");

    let exchanges = exchanges(&report)?;
    ensure!(exchanges[0]["rpc"] == "server/discover", "{exchanges:#?}");
    for exchange in exchanges {
        ensure!(
            exchange["method"] == "POST" && exchange["status"] == 200,
            "{exchange:#}"
        );
        ensure!(exchange["rpc"] != "initialize", "{exchange:#}");
        ensure!(
            exchange["sent"]["mcp-method"] == exchange["rpc"],
            "{exchange:#}"
        );
        for side in ["sent", "got"] {
            ensure!(
                exchange[side].get("mcp-session-id").is_none(),
                "{exchange:#}"
            );
        }
    }
    Ok(())
}

fn headers_reach_the_server_as_sent(setup: &Setup, path: Path) -> Result<()> {
    let (server, report) = report(setup, path, Client::Era2026, "calls")?;
    let sent = exchanges(&report)?;
    let seen = server.requests(TELL_LIMIT, sent.len())?;
    for (sent, seen) in sent.iter().zip(&seen) {
        let mut headers = seen["headers"]
            .as_object()
            .context("no headers reported")?
            .clone();
        let host = headers.remove("host").context("no Host header received")?;
        ensure!(host == format!("127.0.0.1:{}", server.port()), "{seen:#}");
        ensure!(
            Value::Object(headers) == sent["sent"],
            "the client sent {sent:#}\nbut the server received {seen:#}"
        );
    }
    let named = |exchange: &&Value| exchange["sent"].get("mcp-param-region").is_some();
    ensure!(
        sent.iter().filter(named).count() == 1,
        "not exactly one request with Mcp-Param-Region: {sent:#?}"
    );
    Ok(())
}

fn contradictions_are_refused(setup: &Setup, path: Path) -> Result<()> {
    let report = same_as_direct(setup, path, Client::Http, "mismatch")?;
    ensure!(report["right"]["status"] == 200, "{report:#}");
    for wrong in ["wrong_method", "wrong_name", "no_method"] {
        ensure!(report[wrong]["status"] == 400, "{report:#}");
        ensure!(
            report[wrong]["body"]["error"]["code"] == -32020,
            "{report:#}"
        );
    }
    ensure!(report["get"]["status"] == 405, "{report:#}");
    Ok(())
}

fn progress_arrives_one_by_one(setup: &Setup, path: Path) -> Result<()> {
    one_by_one(|pace| Ok(report(setup, path, Client::Era2026, pace)?.1))?;
    Ok(())
}

fn closing_the_stream_cancels_the_call(setup: &Setup, path: Path) -> Result<()> {
    let (server, report) = report(setup, path, Client::Era2026, "cancel")?;
    ensure!(
        report["sum"] == "42",
        "the call after the cancelled one failed: {report}"
    );
    // The call would run for 20 s; closing the stream must cancel it on the server within 5 s.
    server.wait_for_event(Duration::from_secs(5), "slow_cancelled")?;
    Ok(())
}

fn subscriptions_carry_events(setup: &Setup, path: Path) -> Result<()> {
    let (_server, report) = report(setup, path, Client::Era2026, "subscribe")?;
    ensure!(report["event"] == "ToolsListChanged", "{report}");
    Ok(())
}

fn the_same_server_serves_a_2025_client(setup: &Setup, path: Path) -> Result<()> {
    let report = same_as_direct(setup, path, Client::Era2025, "greet")?;
    ensure!(
        report["protocol_version"] == "2025-11-25" && report["sum"] == "42",
        "{report}"
    );
    Ok(())
}

fn delete_ends_a_2025_session(setup: &Setup, path: Path) -> Result<()> {
    let report = same_as_direct(setup, path, Client::Http, "delete")?;
    ensure!(report["delete"]["status"] == 200, "{report:#}");
    for after in ["post_after", "get_after", "delete_after"] {
        ensure!(report[after]["status"] == 404, "{after}: {report:#}");
    }
    Ok(())
}

fn refusals_arrive_as_they_are(setup: &Setup, path: Path) -> Result<()> {
    let report = same_as_direct(setup, path, Client::Http, "refusals")?;
    ensure!(report["unknown_session"]["status"] == 404, "{report:#}");
    ensure!(report["wrong_method"]["status"] == 405, "{report:#}");
    Ok(())
}

fn redirects_stay_on_the_path(setup: &Setup, path: Path) -> Result<()> {
    let (server, report) = report(setup, path, Client::Http, "redirect")?;
    ensure!(report["status"] == 307, "{report:#}");
    ensure!(
        report["leads_to_url"] == true,
        "the redirect does not lead to the client's URL: {report:#}"
    );
    ensure!(report["followed"] == 200, "{report:#}");
    if path != Path::Direct {
        let location = report["location"]
            .as_str()
            .context("no location reported")?;
        let private = format!(":{}", server.port());
        ensure!(
            !location.contains(&private),
            "the redirect names the server's private port: {location}"
        );
    }
    Ok(())
}
