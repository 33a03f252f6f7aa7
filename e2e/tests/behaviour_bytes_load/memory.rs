//! HTTP callers that request much and read nothing: the relay's memory for them stays within the bounds stated
//! in docs/OPERATIONS.md, "Memory".

use std::time::Duration;

use anyhow::{Result, ensure};
use socket2::SockRef;
use tieline_e2e::behaviour::{Child, ChildRelay, Metrics, Target, noise};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{MIB, alone, child};

const CALLERS: u64 = 30;

/// Most concurrent streams of an HTTP/2 connection.
const STREAMS: u32 = 128;

const SHARDS: u64 = 2;
const SHARD_BUDGET_BYTES: u64 = 8 * MIB;

/// Size of one chunk of the endless answer.
const PIECE_BYTES: usize = 64 * 1024;

/// Growth of the relay process itself after its first use.
const SLACK_BYTES: u64 = 16 * MIB;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    let head = [&len[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// A literal header field whose name is an index into the static table (RFC 7541, 6.2.2).
fn literal(name: u8, value: &str) -> Vec<u8> {
    let len = u8::try_from(value.len()).unwrap_or(0x7f);
    [&[name, len], value.as_bytes()].concat()
}

/// HTTP/2 connection start with the largest windows and requests on all available streams.
fn greedy(path: &str) -> Vec<u8> {
    // RFC 9113: SETTINGS_INITIAL_WINDOW_SIZE of 2^31-1, and the same window for the connection.
    let settings = frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    let window = frame(8, 0, 0, &(0x7fff_ffff_u32 - 65_535).to_be_bytes());
    let fields = [
        // Indexed fields `:method: GET` and `:scheme: http`.
        vec![0x82, 0x86],
        literal(4, path),
        literal(1, "localhost"),
    ]
    .concat();
    let asks = (0..STREAMS).map(|number| frame(1, 0x5, 2 * number + 1, &fields));
    let mut all = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..], &window].concat();
    all.extend(asks.flatten());
    all
}

/// Cost of `callers` connections that send `greedy` and never read the endless answer.
struct Cost {
    peak_bytes: u64,
    sessions: i64,
    relay: ChildRelay,
    callers: Vec<TcpStream>,
    _agent: Child,
    _target: Target,
}

async fn cost(callers: u64, greedy: &[u8]) -> Result<Cost> {
    let target = Target::http_requests(|mut http, _| async move {
        http.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await?;
        let piece = noise(1, PIECE_BYTES);
        loop {
            http.write_chunk(&piece).await?;
        }
    })
    .await?;
    let (budget, shards) = (SHARD_BUDGET_BYTES.to_string(), SHARDS.to_string());
    let flags = ["--shards", &shards, "--shard-budget-bytes", &budget];
    let relay = ChildRelay::start(child(), &flags)?;
    let agent = Child::agent(child(), &relay.agent_url(), &target.to_string(), "maya")?;
    let mut first = relay.http().await?;
    first.get("/health").await?;
    let (head, _) = first.answer().await?;
    ensure!(head.status() == 200, "{head:?}");
    let before = relay.process.resident_bytes()?;
    let mut streams = Vec::new();
    for _ in 0..callers {
        let mut caller = relay.http().await?.into_stream();
        SockRef::from(&caller).set_recv_buffer_size(1)?;
        caller.write_all(greedy).await?;
        streams.push(caller);
    }
    // Memory has reached its final size once it stops growing.
    let (mut held, mut same) = (0, 0);
    while same < 5 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = relay.process.resident_bytes()?;
        same = if now <= held + MIB { same + 1 } else { 0 };
        held = held.max(now);
    }
    let peak_bytes = relay.process.resident_bytes_peak()? - before;
    let sessions = relay.metrics().await?.get("relay_sessions");
    println!(
        "{} KiB a caller, {sessions} sessions",
        peak_bytes / 1024 / callers
    );
    Ok(Cost {
        peak_bytes,
        sessions,
        relay,
        callers: streams,
        _agent: agent,
        _target: target,
    })
}

/// Memory allowed for the budgets and the link, plus the growth of the program itself.
const FIXED_BYTES: u64 = 2 * SHARDS * SHARD_BUDGET_BYTES + 352 * 1024 + SLACK_BYTES;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_http2_that_never_read_cost_no_more_than_is_promised() -> Result<()> {
    let _alone = alone().await;
    let it = cost(CALLERS, &greedy("/w/maya/")).await?;
    let promised = CALLERS * 2 * MIB + FIXED_BYTES;
    ensure!(it.peak_bytes <= promised, "{} of {promised}", it.peak_bytes);
    // More sessions than the free streams of every connection, and fewer than were requested.
    let asked = CALLERS * u64::from(STREAMS);
    let free = 8 * CALLERS;
    let sessions = u64::try_from(it.sessions)?;
    ensure!((free + 1..asked).contains(&sessions), "{sessions}");

    // A caller that reads is served next to them.
    let mut polite = it.relay.http().await?;
    polite.get("/w/maya/").await?;
    let head = polite.head().await?;
    ensure!(head.is_some_and(|head| head.status() == 200));
    drop((polite, it.callers));
    let is_free = |metrics: &Metrics| {
        metrics.get("relay_sessions") == 0 && metrics.get("relay_budget_used_bytes") == 0
    };
    it.relay.until("the budget to be released", is_free).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_http1_that_never_read_cost_no_more_than_is_promised() -> Result<()> {
    let _alone = alone().await;
    let callers = 200;
    let it = cost(callers, b"GET /w/maya/ HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
    let promised = callers * 256 * 1024 + FIXED_BYTES;
    ensure!(it.peak_bytes <= promised, "{} of {promised}", it.peak_bytes);
    Ok(())
}
