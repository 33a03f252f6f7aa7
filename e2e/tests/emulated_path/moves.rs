//! Links on a path that changes: the agent's address is replaced, or UDP is blocked and later let through.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tieline_e2e::behaviour::{SOON, echo_round_trip, within};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until};

use crate::Fact;
use crate::far::shell;
use crate::near::{Near, TUNNEL, message, ms};

/// Sessions with small messages, and the time between two messages of all of them. A session whose message is lost waits
/// for its repetition; the others, whose turn comes later, see the link as soon as it is back.
const SESSIONS: u32 = 64;
const SPACING: Duration = Duration::from_millis(5);

/// Time before the address changes, and time that is watched in all.
const QUIET: Duration = Duration::from_secs(2);
const WATCHED: Duration = Duration::from_secs(7);

/// Longest silence after a change of the address, besides a round trip.
const BACK_AFTER: Duration = Duration::from_millis(100);

/// Longest time until the tunnel works again after UDP is blocked.
const UNBLOCKED_AFTER: Duration = Duration::from_secs(3);

/// Longest time until QUIC is taken again, once it gets through and the network is another one: 10 s for the network to
/// settle, up to 10 s for an attempt that has begun before, and the handshake.
const RETURNED_AFTER: Duration = Duration::from_secs(45);

/// Time between two looks at the tunnel's links.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Bytes of a transfer that are echoed at a time.
const PIECE: usize = 32 * 1024;

/// Leads packets for the far end's other address onto the path.
const ROUTE_BACK: &str = "ip route add 10.77.1.0/24 dev path0";

/// Replaces the far end's address. The last command is for a kernel that has dropped the route with the address.
const OTHER_ADDRESS: &str = "ip address add 10.77.1.2/24 dev path0 \
                             && ip route replace 10.77.0.0/30 dev path0 src 10.77.1.2 \
                             && ip address del 10.77.0.2/30 dev path0 \
                             && ip route replace 10.77.0.0/30 dev path0 src 10.77.1.2";

/// Drops UDP where it arrives, so that the sender learns nothing.
const BLOCK: &str = "echo 'table inet block { chain arriving { type filter hook input priority 0; \
                     meta l4proto udp drop; }; }' | nft -f -";
const UNBLOCK: &str = "nft delete table inet block";

/// Puts the far end on another network as well: that of the address that it would dial the world from.
const OTHER_NETWORK: &str = "ip address add 10.77.1.2/24 dev path0 \
                             && ip route replace default dev path0 src 10.77.1.2";

/// A change of the network that changes nothing.
const NUDGE: &str = "ip route replace 10.77.2.0/24 dev path0 && ip route del 10.77.2.0/24";

pub(crate) fn facts() -> Vec<Fact> {
    let path = "--delay 25ms --rate 100mbit --queue 1bdp";
    vec![
        Fact::new(
            "a_changed_address_costs_a_quic_link_no_session_and_100_ms",
            path,
            "moves",
        ),
        Fact::new(
            "where_udp_is_blocked_https_is_back_over_wss_within_3_s_and_returns_to_quic",
            path,
            "blocked",
        ),
    ]
}

/// Sends small messages from `first` to `until`; returns when each was answered.
async fn messages(mut stream: TcpStream, first: Instant, until: Instant) -> Result<Vec<Instant>> {
    let mut due = interval_at(first, SPACING * SESSIONS);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut answers = Vec::new();
    while Instant::now() < until {
        due.tick().await;
        let echo = echo_round_trip(&mut stream, b"still there?");
        within(SOON, "an answer", echo).await??;
        answers.push(Instant::now());
    }
    Ok(answers)
}

/// Has pieces echoed until `until`, each at once after the one before; returns their number.
async fn transfer(mut stream: TcpStream, until: Instant) -> Result<u32> {
    let (piece, mut count) = (message(PIECE), 0);
    while Instant::now() < until {
        within(SOON, "a piece", echo_round_trip(&mut stream, &piece)).await??;
        count += 1;
    }
    Ok(count)
}

/// Changes the agent's address in a transfer and beside small messages, and measures the silence.
pub(crate) async fn moves() -> Result<()> {
    let mut near = Near::start(&[])?;
    shell(ROUTE_BACK)?;
    near.agent("quic")?;
    let mut witness = near.relay.raw(TUNNEL).await?;
    // The first message also opens the session at the target.
    echo_round_trip(&mut witness, b"is anyone there?").await?;
    let round_trip = echo_round_trip(&mut witness, b"how far?").await?;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(near.relay.raw(TUNNEL).await?);
    }
    let began = Instant::now();
    let until = began + WATCHED;
    let mut tasks = JoinSet::new();
    for (session, nth) in sessions.into_iter().zip(1..) {
        tasks.spawn(messages(session, began + SPACING * nth, until));
    }
    let transfer = tokio::spawn(transfer(near.relay.raw(TUNNEL).await?, until));
    sleep_until(began + QUIET).await;
    let changed_at = Instant::now();
    near.far.run(OTHER_ADDRESS)?;
    let mut answers = Vec::new();
    while let Some(answered) = tasks.join_next().await {
        answers.extend(answered??);
    }
    let pieces = transfer.await??;
    answers.sort_unstable();
    let silences = answers.windows(2).map(|pair| (pair[0], pair[1] - pair[0]));
    let (since, silence) = silences
        .filter(|(since, _)| *since + BACK_AFTER > changed_at)
        .max_by_key(|(_, silence)| *silence)
        .context("no answers after the change")?;
    let usual = answers.windows(2).map(|pair| pair[1] - pair[0]);
    let usual = usual.filter(|it| *it < silence).max().unwrap_or_default();
    println!(
        "link back {:.0} ms after an address change ({:.0} ms after the order), round trip {:.1} ms; next longest silence \
         {:.0} ms; {} answers, {pieces} pieces of 32 KiB",
        ms(silence),
        ms((since + silence).saturating_duration_since(changed_at)),
        ms(round_trip),
        ms(usual),
        answers.len()
    );
    near.has_first_link().await?;
    ensure!(silence <= round_trip + BACK_AFTER, "silent for {silence:?}");
    Ok(())
}

impl Near {
    /// Waits until a link is over `transport` and its tunnel works; returns the time since `began`.
    async fn is_over(&self, transport: &str, began: Instant, limit: Duration) -> Result<Duration> {
        let arrives = async {
            loop {
                let paths = self.paths().await?;
                if paths.iter().any(|path| path.transport == transport) {
                    break;
                }
                sleep(LOOK_INTERVAL).await;
            }
            self.echo(16).await?;
            anyhow::Ok(began.elapsed())
        };
        within(limit, &format!("a link over {transport}"), arrives).await?
    }
}

/// Blocks UDP under a link over QUIC, and lets it through again.
pub(crate) async fn is_blocked() -> Result<()> {
    let mut near = Near::start(&[])?;
    shell(ROUTE_BACK)?;
    near.agent("https")?;
    let began = Instant::now();
    near.is_over("quic", began, SOON).await?;
    // A caller with a message on its way notices, as callers do.
    let caller = near.relay.raw(TUNNEL).await?;
    let until = began + WATCHED * 10;
    let caller = tokio::spawn(transfer(caller, until));
    near.far.run(BLOCK)?;
    shell(BLOCK)?;
    let blocked_at = Instant::now();
    let back = near.is_over("wss", blocked_at, SOON * 3).await?;
    println!("back over WSS {:.0} ms after UDP was blocked", ms(back));
    caller.abort();

    let mut kept = near.relay.raw(TUNNEL).await?;
    echo_round_trip(&mut kept, b"before").await?;
    near.far.run(UNBLOCK)?;
    shell(UNBLOCK)?;
    near.far.run(OTHER_NETWORK)?;
    let opened_at = Instant::now();
    // The agent looks at its network after a change; one that comes while QUIC is being tried is not looked at.
    let limit = opened_at + RETURNED_AFTER;
    loop {
        near.far.run(NUDGE)?;
        let paths = near.paths().await?;
        if paths.iter().any(|path| path.transport == "quic") {
            break;
        }
        ensure!(Instant::now() < limit, "no return to QUIC: {paths:?}");
        sleep(Duration::from_secs(1)).await;
    }
    near.echo(16).await?;
    println!(
        "returned to QUIC {:.1} s after UDP was let through on another network",
        opened_at.elapsed().as_secs_f64()
    );
    let echo = echo_round_trip(&mut kept, b"and after");
    within(SOON, "the session over WSS", echo).await??;
    ensure!(back <= UNBLOCKED_AFTER, "back after {back:?}");
    Ok(())
}
