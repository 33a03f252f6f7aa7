//! The packet size of a link over QUIC on a lossy path, where losses look like packets that are too big.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tieline_e2e::behaviour::{SOON, echo_round_trip, within};
use tokio::net::TcpStream;

use crate::Fact;
use crate::near::{Near, TUNNEL, message};

/// How long the link is watched: longer than it may be below its size.
const WATCHED: Duration = Duration::from_secs(80);

/// Longest time until the size has recovered.
const RECOVERED_AFTER: Duration = Duration::from_secs(60);

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Datagram size from which on it counts as recovered: the path has room for 1472 bytes, and the search stops at 1452 or
/// a step below.
const RECOVERED_BYTES: u16 = 1_400;

/// Bytes that are echoed at a time.
const PIECE: usize = 64 * 1024;

pub(crate) fn facts() -> Vec<Fact> {
    vec![Fact::new(
        "the_mtu_of_a_quic_link_recovers_within_60_s_at_1_percent_of_loss",
        "--delay 10ms --rate 50mbit --loss 1% --seed 15",
        "mtu",
    )]
}

/// Keeps both directions of a link busy; ends with an error only.
async fn load(mut stream: TcpStream) -> Result<()> {
    let piece = message(PIECE);
    loop {
        within(SOON, "an echo", echo_round_trip(&mut stream, &piece)).await??;
    }
}

pub(crate) async fn recovers() -> Result<()> {
    let mut near = Near::start(&[])?;
    near.agent("quic")?;
    let load = tokio::spawn(load(near.relay.raw(TUNNEL).await?));
    let began = Instant::now();
    let mut small_since = Some(began);
    let (mut longest, mut drops, mut lowest) = (Duration::ZERO, 0, u16::MAX);
    while began.elapsed() < WATCHED {
        let paths = near.paths().await?;
        let mtu = paths.first().and_then(|path| path.mtu);
        let mtu = mtu.context("no size of the link's datagrams")?;
        lowest = lowest.min(mtu);
        if mtu >= RECOVERED_BYTES {
            small_since = None;
        } else {
            drops += u32::from(small_since.is_none());
            let since = small_since.get_or_insert_with(Instant::now);
            longest = longest.max(since.elapsed());
        }
        if load.is_finished() {
            break;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    if load.is_finished() {
        match load.await? {
            Ok(()) => bail!("the load has ended"),
            Err(error) => return Err(error.context("the load")),
        }
    }
    // Before the load breaks off.
    near.has_first_link().await?;
    load.abort();
    let loss = near.paths().await?.first().and_then(|it| it.loss_percent);
    println!(
        "datagrams of {lowest} bytes at least; smaller again {drops} times, {:.1} s at the longest; loss {loss:?} %",
        longest.as_secs_f64()
    );
    ensure!(longest <= RECOVERED_AFTER, "small for {longest:?}");
    Ok(())
}
