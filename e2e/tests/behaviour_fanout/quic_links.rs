//! Many links over QUIC on which nothing happens: memory of relay and agents per link.

use anyhow::{Result, ensure};
use tieline_e2e::behaviour::{Child, ChildRelay, QuicCaller, TestCertificate, TunnelRow};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;

use super::links::all_there;
use super::{alone, child, flags, growth, limit, note, size};

/// Most links: their handshakes begin at one moment, and many more would take longer than an agent waits for its own.
const LINKS_MAX: usize = 1_000;

/// Memory limit of the relay per link with its tunnel, in KiB.
const IDLE_KIB_MAX: f64 = 48.0;

on_each_driver!(an_idle_link_over_quic_costs_little_memory);

async fn an_idle_link_over_quic_costs_little_memory(driver: DriverChoice) -> Result<()> {
    let _alone = alone().await;
    let size = size()?.min(LINKS_MAX);
    let certificate = TestCertificate::new("relay.test")?;
    let files = certificate.files();
    let (cert, key) = (
        files.cert.display().to_string(),
        files.key.display().to_string(),
    );
    let quic = [
        "--quic-listen",
        "127.0.0.1:0",
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
    ];
    let relay = ChildRelay::start(child(), &[&flags(driver)[..], &quic].concat())?;
    let address = relay.quic_address()?;
    // What the relay allocates with its first connection, and keeps for all, is not counted.
    drop(QuicCaller::connect(address, &certificate, "tieline").await?);
    let before = relay.process.resident_bytes()?;

    let (_target, to) = Child::echo(child())?;
    let (url, to) = (format!("quic://{address}"), to.to_string());
    let ca = certificate.cert();
    let (fleet, up) = Child::fleet(child(), &url, Some(&ca), &to, size, limit(size))?;
    all_there(&relay, size).await?;
    let near = growth(&relay.process, before, size)?;
    let far = growth(&fleet, 0, size)?;
    // A relay with too many handshakes at once refuses some, and these agents dial again.
    note(&format!(
        "{size} idle links over QUIC with a tunnel each up in {} ms, with {} attempts that failed, {near:.1} KiB each \
         in the relay, {far:.1} KiB in the agents' process",
        up.ms, up.disconnects
    ));
    let is_over_quic =
        |row: &TunnelRow| matches!(&row.paths[..], [path] if path.transport == "quic");
    let rows = relay.tunnels().await?;
    ensure!(rows.iter().all(is_over_quic), "{rows:?}");
    ensure!(near < IDLE_KIB_MAX, "{near} KiB for an idle link over QUIC");
    Ok(())
}
