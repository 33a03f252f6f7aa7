//! OAuth login at a server that is its own authorization server, for each URL that the server may be
//! configured with: its own address, its public URL, or the relay's host.

use anyhow::{Result, ensure};
use serde_json::json;
use tieline_e2e::behaviour::{TestAgent, TestRelay};
use tieline_e2e::interop::{Needs, Setup};
use tieline_e2e::path::Path;
use tieline_e2e::tunnel::UrlForm;

use crate::Case;

/// All paths except `tieline connect`: there, the `Authorization` header carries the relay's token and has no
/// room for the server's.
const PATHS: &[Path] = &[
    Path::Direct,
    Path::RELAY,
    Path::Tunnel(UrlForm::Kind),
    Path::ANY_OF_KIND,
    Path::Tunnel(UrlForm::Domain),
    Path::HTTPS,
];

/// Paths of the tests in which the server is configured with a URL at the relay: one for each scheme of that URL.
const TOLD: &[Path] = &[Path::RELAY, Path::HTTPS];

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, check| Case::new("login", name, Needs::PythonAndNode, check);
    vec![
        case("at_a_server_that_knows_its_own_address", own).on(PATHS),
        case("at_a_server_that_knows_its_public_url", public).on(TOLD),
        case("at_a_server_that_knows_the_relays_host", host).on(TOLD),
    ]
}

fn own(setup: &Setup, path: Path) -> Result<()> {
    let server = setup.login_server(None)?;
    let way = path.open(server.url(), setup.trust())?;
    log_in(setup, way.url())
}

fn public(setup: &Setup, path: Path) -> Result<()> {
    told(setup, path, "/w/studio/mcp")
}

fn host(setup: &Setup, path: Path) -> Result<()> {
    told(setup, path, "/mcp")
}

/// Logs in at a server that is configured with `place` at the relay as its own URL.
fn told(setup: &Setup, path: Path, place: &str) -> Result<()> {
    let trust = setup.trust();
    let is_tls = path == Path::HTTPS;
    let (scheme, relay) = match is_tls {
        true => ("https", trust.relay()),
        false => ("http", TestRelay::with()),
    };
    let relay = relay.start()?;
    let front = format!("{scheme}://{}", relay.http_address());
    let server = setup.login_server(Some(&format!("{front}{place}")))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let agent = TestAgent::to(server.url()).named("studio");
    let _agent = match is_tls {
        true => runtime.block_on(trust.start_agent(agent, &relay))?,
        false => runtime.block_on(agent.start(&relay))?,
    };
    log_in(setup, &format!("{front}/w/studio/mcp"))
}

fn log_in(setup: &Setup, url: &str) -> Result<()> {
    let expected = json!({"text": "logged in", "logins": 1});
    for report in [setup.login_python(url)?, setup.login_typescript(url)?] {
        ensure!(report == expected, "{report:#}");
    }
    Ok(())
}
