//! Autobahn's test suite for WebSocket servers, through relay and agent.
//!
//! A tunnel of an HTTP target passes WebSocket on as it is, so each case must end as without the tunnel. A tunnel of
//! bytes (`/tunnel/<tunnel>`) ends WebSocket at the relay: its cases are those with binary messages and with errors.
//!
//! The suite needs CPython 2.7 (`python2.7` on the search path) and packages from PyPI. Without them each test is
//! reported as ignored with the reason. With `TIELINE_INTEROP=require` in the environment the test fails instead.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use libtest_mimic::Arguments;
use tieline_e2e::autobahn::{Autobahn, Report};
use tieline_e2e::behaviour::{Target, TestAgent, TestRelay};
use tieline_e2e::trials::{self, Test};
use tieline_e2e::trust::Trust;
use tieline_relay::ListenAddress;
use tokio::runtime::Runtime;

/// Time limit of one test, which may wait for the run without a tunnel before its own run.
const TEST_LIMIT: Duration = Duration::from_secs(300);

/// Cores per test that runs at a time: the suite gives most cases one second.
const CORES_PER_TEST: usize = 2;

/// Groups of cases: framing, pings, reserved bits and opcodes, fragments, UTF-8, closes, automatic fragments.
///
/// Left out are 9 (limits and performance), which takes minutes, and 12 and 13 (compression), which the ends of the
/// connection agree on and a tunnel does not see.
const CASES: &[&str] = &["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"];

/// Cases of those groups that are left out: 6.4 only measures how soon a server notices bad UTF-8, in pauses of a second.
const EXCLUDED: &[&str] = &["6.4.*"];

/// Number of cases that are left, in the pinned version of the suite.
const CASES_COUNT: usize = 243;

/// Cases that the server itself fails: Python's `websockets` takes a Close between two fragments for an error.
const FAILED_BY_SERVER: &[&str] = &["7.1.5"];

/// Cases that an error message quotes.
const SHOWN_MAX: usize = 30;

/// Cases with text, which is not payload of a TCP target: the relay closes with 1003.
const TEXT: &[&str] = &[
    "1.1.*", "3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.3",
    "5.4", "5.5", "5.6", "5.7", "5.8", "5.15", "5.18", "5.19", "5.20", "6.*", "7.1.1", "7.1.5",
    "7.1.6", "10.*",
];

/// The case with an empty message, which has no bytes that the target could echo.
const EMPTY: &[&str] = &["1.2.1"];

/// Cases with long messages, whose borders are not kept towards the caller.
const LONG: &[&str] = &["1.2.6", "1.2.7", "1.2.8"];

/// Cases with several pings in a row: the relay answers the newest, which RFC 6455 allows (section 5.5.3).
const MANY_PINGS: &[&str] = &["2.10", "2.11"];

/// Cases that do not fit a tunnel of bytes.
const NOT_OF_BYTES: [&[&str]; 4] = [TEXT, EMPTY, LONG, MANY_PINGS];

/// The prepared suite, or the reason why it could not be prepared on this machine.
type Setup = Result<Autobahn, String>;

/// Protocol of an agent's link.
#[derive(Clone, Copy)]
enum Link {
    Tcp,
    Tls,
    Ws,
    Wss,
}

impl Link {
    const fn scheme(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }
}

/// Protocol of callers.
#[derive(Clone, Copy)]
enum Caller {
    Ws,
    Wss,
}

impl Caller {
    const fn scheme(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }
}

/// How agent and callers reach the relay.
#[derive(Clone, Copy)]
struct Route {
    link: Link,
    caller: Caller,
}

impl Route {
    const fn new(link: Link, caller: Caller) -> Self {
        Self { link, caller }
    }

    fn word(self) -> String {
        format!(
            "{}_link_{}_caller",
            self.link.scheme(),
            self.caller.scheme()
        )
    }

    /// Starts a relay and an agent that publishes `target`, and waits until callers can reach the target.
    fn open(self, trust: &Trust, target: &str) -> Result<Tunnel> {
        let plain = ListenAddress::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let relay = trust.relay();
        let relay = relay.config(|config| config.http_listen.insert(0, plain));
        let relay = relay.start()?;
        let &[plain, tls] = relay.relay().http_addresses() else {
            bail!("not two addresses: {:?}", relay.relay().http_addresses());
        };
        let agent = TestAgent::to(target);
        let scheme = self.link.scheme();
        let (agent, url) = match self.link {
            Link::Tcp => (agent, relay.agent_url()),
            Link::Ws => (agent, format!("{scheme}://{plain}")),
            Link::Tls | Link::Wss => {
                let ca = trust.ca();
                let agent = agent.config(move |config| config.with_ca(ca));
                (agent, format!("{scheme}://{tls}"))
            }
        };
        let agent = Runtime::new()?.block_on(agent.start_at(&url))?;
        let front = match self.caller {
            Caller::Ws => plain,
            Caller::Wss => tls,
        };
        Ok(Tunnel {
            front: format!("{}://{front}", self.caller.scheme()),
            agent,
            _relay: relay,
        })
    }
}

/// A relay and one agent.
struct Tunnel {
    /// URL of the relay, as callers dial it.
    front: String,
    agent: TestAgent,
    _relay: TestRelay,
}

/// Each link once, and each protocol of callers with two links.
const ROUTES: [Route; 4] = [
    Route::new(Link::Tcp, Caller::Ws),
    Route::new(Link::Tls, Caller::Wss),
    Route::new(Link::Ws, Caller::Wss),
    Route::new(Link::Wss, Caller::Ws),
];

/// Routes of a tunnel of bytes: WebSocket ends at the relay, so the link makes little difference.
const ROUTES_OF_BYTES: [Route; 2] = [ROUTES[0], ROUTES[1]];

/// Checks one fact on one route.
type Check = fn(&Autobahn, Route) -> Result<()>;

fn test(kind: &str, route: Route, name: &str, check: Check) -> Test<Setup> {
    Test::new(
        format!("{kind}::{}::{name}", route.word()),
        |setup: &Setup| setup.as_ref().err().cloned(),
        move |setup: &Setup| match setup {
            Ok(suite) => check(suite, route),
            Err(why) => Err(anyhow!("{why}")),
        },
    )
}

fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let tests_at_a_time = (cores / CORES_PER_TEST).max(1);
    arguments.test_threads.get_or_insert(tests_at_a_time);
    let name = "every_case_ends_as_without_the_tunnel";
    let http = ROUTES.map(|route| test("http", route, name, passes_on));
    let name = "every_binary_case_ends_as_at_a_websocket_server";
    let bytes = ROUTES_OF_BYTES.map(|route| test("bytes", route, name, ends_websocket));
    let tests = http.into_iter().chain(bytes).collect();
    trials::run("Autobahn", &arguments, TEST_LIMIT, tests, || {
        let directory = trials::directory(env!("CARGO_TARGET_TMPDIR"));
        let suite = Autobahn::prepare(&directory, Trust::new()?);
        Ok(suite.map_err(|error| format!("{error:#}")))
    })
}

/// The run without a tunnel, which must have every case, and good ends of all but [`FAILED_BY_SERVER`].
fn direct(suite: &Autobahn) -> Result<&Report> {
    suite.direct(|| {
        let server = suite.server()?;
        let url = format!("ws://127.0.0.1:{}/", server.port());
        let report = suite.run(&url, CASES, EXCLUDED)?;
        let count = report.len();
        ensure!(count == CASES_COUNT, "{count} cases, not {CASES_COUNT}");
        let bad = report.iter().filter(|(_, verdict)| !verdict.is_good());
        let bad: Vec<_> = bad.map(|(case, _)| case.as_str()).collect();
        ensure!(bad == FAILED_BY_SERVER, "not good: {bad:?}");
        Ok(report)
    })
}

fn passes_on(suite: &Autobahn, route: Route) -> Result<()> {
    let direct = direct(suite)?;
    let server = suite.server()?;
    let tunnel = route.open(suite.trust(), &server.root())?;
    let url = format!("{}{}", tunnel.front, tunnel.agent.path("/"));
    ensure_same(&suite.run(&url, CASES, EXCLUDED)?, direct)
}

fn ends_websocket(suite: &Autobahn, route: Route) -> Result<()> {
    let mut direct = direct(suite)?.clone();
    direct.retain(|case, _| {
        NOT_OF_BYTES
            .iter()
            .all(|patterns| !is_one_of(case, patterns))
    });
    let cases: Vec<_> = direct.keys().map(String::as_str).collect();
    // The target's tasks run on this runtime.
    let runtime = Runtime::new()?;
    let target = runtime.block_on(Target::echo())?;
    let tunnel = route.open(suite.trust(), &target.to_string())?;
    let url = format!("{}/tunnel/{}", tunnel.front, tunnel.agent.tunnel());
    ensure_same(&suite.run(&url, &cases, &[])?, &direct)
}

/// Whether `case` fits one of `patterns`, which are cases, or beginnings in front of `*`.
fn is_one_of(case: &str, patterns: &[&str]) -> bool {
    patterns
        .iter()
        .any(|pattern| match pattern.strip_suffix('*') {
            Some(group) => case.starts_with(group),
            None => case == *pattern,
        })
}

/// Checks that the same cases ran, and ended in the same way.
fn ensure_same(seen: &Report, direct: &Report) -> Result<()> {
    let cases = direct.keys().chain(seen.keys());
    let mut differ: Vec<_> = cases
        .filter(|case| seen.get(*case) != direct.get(*case))
        .map(|case| {
            let (seen, direct) = (seen.get(case), direct.get(case));
            format!("{case}: {seen:?}, without the tunnel {direct:?}")
        })
        .collect();
    differ.sort();
    differ.dedup();
    let count = differ.len();
    differ.truncate(SHOWN_MAX);
    ensure!(count == 0, "{count} cases differ:\n{}", differ.join("\n"));
    Ok(())
}
