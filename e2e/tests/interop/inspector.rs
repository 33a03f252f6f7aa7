//! The command line of npm's inspector as the client.

use anyhow::{Result, ensure};
use serde_json::Value;
use tieline_e2e::interop::{Needs, Server, Setup};
use tieline_e2e::path::Path;

use crate::Case;

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, check| Case::new("inspector", name, Needs::PythonAndNode, check);
    vec![
        case(
            "lists_the_tools_of_server_everything",
            lists_the_tools_of_server_everything,
        ),
        case(
            "calls_a_tool_of_server_everything",
            calls_a_tool_of_server_everything,
        ),
        case(
            "lists_the_tools_of_a_2026_server",
            lists_the_tools_of_a_2026_server,
        ),
    ]
}

/// Runs the inspector on `path`, and checks that it prints the same bytes as on the direct path.
fn same_as_direct(
    setup: &Setup,
    path: Path,
    start: impl Fn() -> Result<Server>,
    arguments: &[&str],
) -> Result<(Server, Value)> {
    let (server, printed) = printed(setup, path, &start, arguments)?;
    if path != Path::Direct {
        let direct = setup.once(&format!("inspector {arguments:?}"), || {
            let (_server, direct) = self::printed(setup, Path::Direct, &start, arguments)?;
            Ok(Value::String(direct))
        })?;
        ensure!(
            direct == *printed,
            "{printed}\ndiffers from the output on the direct path:\n{direct}"
        );
    }
    let result = serde_json::from_str::<Value>(&printed)?["result"].take();
    Ok((server, result))
}

fn printed(
    setup: &Setup,
    path: Path,
    start: impl Fn() -> Result<Server>,
    arguments: &[&str],
) -> Result<(Server, String)> {
    let server = start()?;
    let way = path.open(server.url(), setup.trust())?;
    let printed = setup.inspector(way.url(), arguments)?;
    Ok((server, printed))
}

fn has_tool(printed: &Value, name: &str) -> bool {
    printed["tools"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|tool| tool["name"] == name)
}

fn lists_the_tools_of_server_everything(setup: &Setup, path: Path) -> Result<()> {
    let list = ["--method", "tools/list"];
    let (_server, printed) = same_as_direct(setup, path, || setup.everything(), &list)?;
    ensure!(
        has_tool(&printed, "trigger-long-running-operation"),
        "{printed:#}"
    );
    Ok(())
}

fn calls_a_tool_of_server_everything(setup: &Setup, path: Path) -> Result<()> {
    let call = [
        "--method",
        "tools/call",
        "--tool-name",
        "echo",
        "--tool-arg",
        "message=tie line",
    ];
    let (_server, printed) = same_as_direct(setup, path, || setup.everything(), &call)?;
    ensure!(
        printed["content"][0]["text"] == "Echo: tie line",
        "{printed:#}"
    );
    Ok(())
}

fn lists_the_tools_of_a_2026_server(setup: &Setup, path: Path) -> Result<()> {
    let list = ["--protocol-era", "modern", "--method", "tools/list"];
    let (server, printed) = same_as_direct(setup, path, || setup.sdk_server(), &list)?;
    ensure!(has_tool(&printed, "announce"), "{printed:#}");
    // The first request already names the 2026 protocol version, so the inspector opened no 2025 session.
    let requests = server.requests(std::time::Duration::from_secs(10), 1)?;
    ensure!(
        requests[0]["headers"]["mcp-protocol-version"] == "2026-07-28",
        "{requests:#?}"
    );
    Ok(())
}
