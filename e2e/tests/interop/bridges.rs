//! Transport bridges: npm's `mcp-remote` and `supergateway` between client and tunnel, and `supergateway`
//! between tunnel and server.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tieline_e2e::interop::{Bridge, Client, Needs, Setup};
use tieline_e2e::path::{Opened, Path};

use crate::Case;
use crate::everything::assert_inventory;
use crate::spacing::one_by_one;

/// Paths of the timed tests, which take seconds each. The other paths differ in how the URL names the
/// tunnel, and [`Path::HTTPS`] in TLS, through which the timed tests of `everything` and `era_2026` pass.
const TIMED: [Path; 3] = [Path::Direct, Path::RELAY, Path::CONNECT];

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, check| Case::new("bridges", name, Needs::PythonAndNode, check);
    vec![
        case("mcp_remote_tells_all_of_a_server", |setup, path| {
            tells_all(setup, path, Bridge::McpRemote)
        }),
        case("mcp_remote_passes_progress_on", |setup, path| {
            passes_progress_on(setup, path, Bridge::McpRemote)
        })
        .on(&TIMED),
        case("mcp_remote_brings_a_token", brings_a_token).on(&[Path::CONNECT]),
        case("supergateway_tells_all_of_a_server", |setup, path| {
            tells_all(setup, path, Bridge::Gateway)
        }),
        case("supergateway_publishes_a_child", publishes_a_child),
        case("supergateway_streams_what_a_child_says", streams_a_child).on(&TIMED),
        case("two_gateways_speak_the_older_transport", older_transport),
    ]
}

/// Lists what npm's `server-everything` offers, through `bridge`.
fn inventory(setup: &Setup, path: Path, bridge: Bridge) -> Result<Value> {
    let server = setup.everything()?;
    let way = path.open(server.url(), setup.trust())?;
    setup.bridged(bridge, "inventory", way.url(), &[])
}

fn tells_all(setup: &Setup, path: Path, bridge: Bridge) -> Result<()> {
    same_as_direct(setup, path, &format!("{bridge:?}"), |path| {
        inventory(setup, path, bridge)
    })
}

/// Checks that `look` reports a complete inventory on the direct path, and the same one on `path`.
fn same_as_direct(
    setup: &Setup,
    path: Path,
    what: &str,
    look: impl Fn(Path) -> Result<Value>,
) -> Result<()> {
    let direct = setup.once(&format!("bridges {what}"), || look(Path::Direct))?;
    assert_inventory(&direct)?;
    if path != Path::Direct {
        let seen = look(path)?;
        ensure!(
            seen == direct,
            "{seen:#}\ndiffers from the report on the direct path:\n{direct:#}"
        );
    }
    Ok(())
}

fn passes_progress_on(setup: &Setup, path: Path, bridge: Bridge) -> Result<()> {
    let server = setup.everything()?;
    let way = path.open(server.url(), setup.trust())?;
    one_by_one(|pace| setup.bridged(bridge, pace, way.url(), &[]))?;
    Ok(())
}

/// `mcp-remote` sends the token itself to the relay, which refuses requests without a token.
fn brings_a_token(setup: &Setup, path: Path) -> Result<()> {
    let server = setup.everything()?;
    let Opened::Tunnel(tunnel) = path.open(server.url(), setup.trust())? else {
        anyhow::bail!("the path has no tunnel");
    };
    let guarded = tunnel.guarded().context("the relay requires no token")?;
    let header = format!("Authorization: Bearer {}", guarded.token);
    let report = setup.bridged(Bridge::McpRemote, "inventory", &guarded.url, &[&header])?;
    assert_inventory(&report)
}

fn publishes_a_child(setup: &Setup, path: Path) -> Result<()> {
    same_as_direct(setup, path, "child", |path| {
        let gateway = setup.gateway("streamableHttp")?;
        let way = path.open(gateway.url(), setup.trust())?;
        setup.client(Client::Era2025, "inventory", way.url())
    })
}

fn streams_a_child(setup: &Setup, path: Path) -> Result<()> {
    let gateway = setup.gateway("streamableHttp")?;
    let way = path.open(gateway.url(), setup.trust())?;
    one_by_one(|pace| setup.client(Client::Era2025, pace, way.url()))?;
    Ok(())
}

/// HTTP+SSE: the server's first event names the URL for messages, which the client must reach on the same path.
fn older_transport(setup: &Setup, path: Path) -> Result<()> {
    same_as_direct(setup, path, "older transport", |path| {
        let gateway = setup.gateway("sse")?;
        let way = path.open(&gateway.root(), setup.trust())?;
        let url = format!("{}/sse", way.url().trim_end_matches('/'));
        setup.bridged(Bridge::GatewaySse, "inventory", &url, &[])
    })
}
