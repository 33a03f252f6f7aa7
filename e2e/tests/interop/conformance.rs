//! npm's `conformance` as the client: its report on a server is the same through the tunnel as directly,
//! to the byte, apart from fields that differ between two direct runs.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tieline_e2e::interop::{Needs, Setup};
use tieline_e2e::path::Path;

use crate::Case;

/// Paths of these tests. The suite tests DNS rebinding only at `localhost` and IP addresses, which rules out
/// [`tieline_e2e::tunnel::UrlForm::Domain`]. [`tieline_e2e::tunnel::UrlForm::Kind`] differs from [`Path::RELAY`]
/// only in the first path segments.
const PATHS: [Path; 4] = [Path::Direct, Path::RELAY, Path::CONNECT, Path::HTTPS];

/// Scenarios that the suite itself cannot run over TLS. To test DNS rebinding, it expects a certificate of the foreign
/// host, and names an `http://` page as the origin of requests to the `https://` URL, which the relay refuses. To
/// test header fields, it sends requests in clear text to the port with TLS.
const NOT_OVER_TLS: [&str; 3] = [
    "dns-rebinding-protection",
    "http-header-validation",
    "http-custom-header-server-validation",
];

/// Names of fields that differ between any two runs: times, and random values of the server or the suite.
const RANDOM: [&str; 8] = [
    "timestamp",
    "date",
    "sessionId",
    "sessionIdSent",
    "mcp-session-id",
    "requestState",
    "subscriptionId",
    "io.modelcontextprotocol/subscriptionId",
];

/// Fields that hold an id of an event. The server counts events of all its streams together, so the numbers
/// depend on how many events of other scenarios happened before; which fields hold the same id does not.
const EVENT_IDS: [&str; 4] = ["eventId", "lastEventId", "lastEventIdUsed", "last-event-id"];

/// Scenario with several streams at once: the order of its events, and so their ids, varies between runs.
const STREAMS: &str = "server-server-sse-multiple-streams";

/// Check that a foreign `Host` is refused. Through the tunnel, the relay or the proxy refuses it before the
/// server sees it, with a status and body of its own.
const REFUSED: &str = "localhost-host-rebinding-rejected";

/// Runs of the suite on one path, if checks fail.
const TRIES_MAX: usize = 3;

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, check| Case::new("conformance", name, Needs::PythonAndNode, check).on(&PATHS);
    vec![
        case("says_the_same_for_2025_11_25", |setup, path| {
            says_the_same(setup, path, "2025-11-25")
        }),
        case("says_the_same_for_2026_07_28", |setup, path| {
            says_the_same(setup, path, "2026-07-28")
        }),
    ]
}

/// Checks that the suite's report on `path` equals the direct one. On the direct path this compares two runs,
/// which shows that the removed fields are the only ones that vary.
fn says_the_same(setup: &Setup, path: Path, revision: &str) -> Result<()> {
    let mut direct = setup.once(&format!("conformance {revision}"), || {
        report_in_time(setup, Path::Direct, revision)
    })?;
    ensure!(direct["code"] == 0, "{direct:#}");
    let mut report = report_in_time(setup, path, revision)?;
    let all = scenarios(&report)?;
    ensure!(all.len() > 30, "only {} scenarios", all.len());
    if path == Path::HTTPS {
        take_out_what_tls_prevents(&mut report);
        take_out_what_tls_prevents(&mut direct);
    }
    let mut differences = Vec::new();
    for part in ["code", "printed", "checks"] {
        compare(part, &report[part], &direct[part], &mut differences);
    }
    ensure!(
        differences.is_empty(),
        "the report differs from that on the direct path:\n{}",
        differences.join("\n")
    );
    Ok(())
}

/// Adds to `differences` each place where two JSON values differ, with both values.
fn compare(place: &str, report: &Value, direct: &Value, differences: &mut Vec<String>) {
    match (report, direct) {
        (Value::Object(report), Value::Object(direct)) if report.keys().eq(direct.keys()) => {
            for (name, report) in report {
                let place = format!("{place}/{name}");
                compare(&place, report, &direct[name], differences);
            }
        }
        (Value::Array(report), Value::Array(direct)) if report.len() == direct.len() => {
            for (index, (report, direct)) in report.iter().zip(direct).enumerate() {
                compare(&format!("{place}/{index}"), report, direct, differences);
            }
        }
        _ if report == direct => {}
        _ => differences.push(format!("{place}: {report}, on the direct path {direct}")),
    }
}

/// Removes the scenarios of [`NOT_OVER_TLS`], and the suite's output, which counts their failures. The checks of the
/// other scenarios, which the output sums up, remain.
fn take_out_what_tls_prevents(report: &mut Value) {
    report["printed"].take();
    if let Some(checks) = report["checks"].as_object_mut() {
        let is_kept = |name: &str| {
            let scenario = name.strip_prefix("server-").unwrap_or(name);
            !NOT_OVER_TLS.contains(&scenario)
        };
        checks.retain(|name, _| is_kept(name));
    }
}

fn scenarios(report: &Value) -> Result<&serde_json::Map<String, Value>> {
    report["checks"].as_object().context("no checks reported")
}

/// The report of a run in which no check failed, or of the last try. On a busy machine the suite and its server lose an
/// exchange or miss a time limit now and then, without a tunnel as well; a tunnel at fault fails in each try.
fn report_in_time(setup: &Setup, path: Path, revision: &str) -> Result<Value> {
    let mut report = run_suite(setup, path, revision)?;
    for _ in 1..TRIES_MAX {
        if report["code"] == 0 {
            break;
        }
        let failed = failed_checks(&report)?;
        println!("{revision} on {path:?}: {failed:#?} failed; running the suite again");
        report = run_suite(setup, path, revision)?;
    }
    Ok(report)
}

/// The failed checks of a report, each with its scenario.
fn failed_checks(report: &Value) -> Result<Vec<String>> {
    let mut failed = Vec::new();
    for (scenario, checks) in scenarios(report)? {
        for check in checks.as_array().into_iter().flatten() {
            if check["status"] == "FAILURE" {
                failed.push(format!("{scenario}: {check}"));
            }
        }
    }
    Ok(failed)
}

fn run_suite(setup: &Setup, path: Path, revision: &str) -> Result<Value> {
    let server = setup.conformance_server()?;
    let way = path.open(server.url(), setup.trust())?;
    let excused: &[&str] = match path == Path::HTTPS {
        true => &NOT_OVER_TLS,
        false => &[],
    };
    let report = setup.conformance(way.url(), revision, excused)?;
    let url = way.url();
    let (_, rest) = url.split_once("://").context("the URL has no scheme")?;
    let (host, _) = rest.split_once('/').context("the URL has no path")?;
    let plain = |text: &str| text.replace(url, "<url>").replace(host, "<host>");

    let printed = report["printed"].as_str().context("no output reported")?;
    let printed: Vec<_> = plain(printed).lines().map(without_time).collect();
    let mut checks = serde_json::Map::new();
    for (name, mut scenario) in scenarios(&report)?.clone() {
        let name = without_time(&name);
        take_out(&mut scenario, &plain);
        name_event_ids(&mut scenario, &mut Vec::new());
        for check in scenario.as_array_mut().into_iter().flatten() {
            take_out_of_check(&name, check);
        }
        checks.insert(name, scenario);
    }
    Ok(json!({ "code": report["code"], "printed": printed, "checks": checks }))
}

/// Cuts off the time at the end of a scenario's directory name, as in `-2026-11-22T01-35-37-832Z`.
fn without_time(line: &str) -> String {
    const PATTERN: &[u8] = b"-0000-00-00T00-00-00-000Z";
    let is_like = |tail: &str| {
        tail.bytes().zip(PATTERN).all(|(byte, like)| match like {
            b'0' => byte.is_ascii_digit(),
            _ => byte == *like,
        })
    };
    let split = line.len().checked_sub(PATTERN.len());
    match split.and_then(|at| line.split_at_checked(at)) {
        Some((start, tail)) if is_like(tail) => start.to_owned(),
        _ => line.to_owned(),
    }
}

/// Removes or blanks the values in a scenario's checks that differ between two runs or two paths.
fn take_out(value: &mut Value, plain: &impl Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = plain(text),
        Value::Array(values) => values.iter_mut().for_each(|value| take_out(value, plain)),
        Value::Object(fields) => {
            // The relay and the proxy add `Vary: Origin` to every response; the server does not.
            if fields.get("vary").is_some_and(|vary| vary == "Origin") {
                fields.remove("vary");
            }
            for (name, field) in fields {
                if RANDOM.contains(&name.as_str()) {
                    *field = Value::Null;
                }
                take_out(field, plain);
            }
        }
        _ => {}
    }
}

/// Replaces each event id of a scenario, in fields and in descriptions (`(id: 144)`), by its index in `known`,
/// which lists the ids in order of first appearance.
fn name_event_ids(value: &mut Value, known: &mut Vec<String>) {
    match value {
        Value::String(text) => {
            let Some((before, rest)) = text.split_once("(id: ") else {
                return;
            };
            if let Some((id, after)) = rest.split_once(')') {
                *text = format!("{before}(id: {}){after}", event_name(id, known));
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|it| name_event_ids(it, known)),
        Value::Object(fields) => {
            for (field, value) in fields {
                match value.as_str() {
                    Some(id) if EVENT_IDS.contains(&field.as_str()) => {
                        *value = event_name(id, known).into()
                    }
                    _ => name_event_ids(value, known),
                }
            }
        }
        _ => {}
    }
}

fn event_name(id: &str, known: &mut Vec<String>) -> String {
    let seen = known.iter().position(|it| it == id);
    let place = seen.unwrap_or_else(|| {
        known.push(id.to_owned());
        known.len() - 1
    });
    format!("<event {place}>")
}

/// Removes the values that vary in particular checks only.
fn take_out_of_check(scenario: &str, check: &mut Value) {
    let is_refused = check["id"] == REFUSED && check["status"] == "SUCCESS";
    let details = &mut check["details"];
    if let Some(headers) = details["headers"].as_object_mut() {
        // `Connection` is hop-by-hop: a gateway does not forward it (RFC 9110, section 7.6.1).
        headers.remove("connection");
    }
    if is_refused {
        details["statusCode"].take();
        details["body"].take();
    }
    if scenario == STREAMS {
        for result in details["results"].as_array_mut().into_iter().flatten() {
            result["event"]["id"].take();
        }
    }
}
