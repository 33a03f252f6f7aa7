//! Rules about imports between crates and modules, and about what may be used where.

use crate::Finding;
use crate::source::{PathUse, Source};

/// Modules of a crate, top row first. A module may import from lower rows and from its own folder.
type Rows = &'static [&'static [&'static str]];

/// Crates whose modules have rows; `docs/STYLE.md` has the same rows. The modules of `loadgen` import each other in
/// circles.
const CRATES: &[(&str, Rows)] = &[
    ("wire", WIRE),
    ("token", TOKEN),
    ("hop", HOP),
    ("bridge", BRIDGE),
    ("transport", TRANSPORT),
    ("relay", RELAY),
    ("agent", AGENT),
    ("tieline", PROGRAM),
];

const WIRE: Rows = &[
    &["lib"],
    &["mux"],
    &["message", "frame", "weak"],
    &["ids"],
    &["limits", "error", "generated", "backlog"],
    &["reason"],
];

const TOKEN: Rows = &[
    &["lib"],
    &["jwks"],
    &["key"],
    &["pem", "provider", "unverified"],
    &["ed25519", "es256", "rs256"],
    &["error"],
    &["hs256", "form", "pattern"],
];

const HOP: Rows = &[
    &["lib"],
    &["connection", "tries", "caller"],
    &["pool", "events", "cors", "site"],
    &[
        "answer",
        "body",
        "browser",
        "documents",
        "failure",
        "headers",
        "reporting",
        "rewrite",
        "scanner",
    ],
    &["continue_wait", "endpoints", "escape", "refusal", "track"],
    &["informational", "method"],
];

const BRIDGE: Rows = &[
    &["lib", "tests"],
    &["bridge"],
    &["child"],
    &["call", "subscriptions"],
    &["session"],
    &["outside", "gathering", "modern", "start"],
    &["greeting", "surface"],
    &["client", "error", "replay"],
    &["headers", "own"],
    &["json", "lines", "rounds", "sse"],
    &["ids", "message", "names", "restarts", "settings", "timers"],
];

const TRANSPORT: Rows = &[
    &["lib", "tests"],
    &["quic"],
    &["tls", "websocket"],
    &["socket"],
];

const RELAY: Rows = &[
    &[
        "main",
        "lib",
        "inspector",
        "doors",
        "takeover",
        "supervisor",
    ],
    &["control"],
    &["shard"],
    &["listen"],
    &["directory"],
    &["link", "registry", "splice"],
    &["session"],
    &["quic"],
    &["audit", "limits", "state"],
    &["auth", "certificates"],
    &["cli"],
    &["config"],
    &["metrics"],
    &["clock", "error", "host"],
    &["io"],
];

const AGENT: Rows = &[
    &["lib"],
    &["supervise"],
    &["status", "network"],
    &["link"],
    &["config"],
    &["targets", "token"],
    &["stdio"],
    &["event", "identity", "reconnect", "transport"],
    &["address"],
    &["plain", "error", "socket", "bell", "sleep"],
];

/// The program `tieline`.
const PROGRAM: Rows = &[
    &["main", "lib", "command", "cli"],
    &[
        "completions",
        "demo",
        "diag",
        "init",
        "list",
        "serve",
        "service",
        "status",
    ],
    &["connect", "token_show"],
    &["outbound", "settings"],
    &["ca", "proxy"],
    &["advice", "paint", "signals", "descriptors", "exit"],
];

/// Folders whose modules have rows of their own, as the rooms of a house.
const ROOMS: &[(&str, Rows)] = &[("relay/src/listen/http/", HTTP_FRONT)];

/// Rooms of the HTTP front. Its `mod.rs`, above the first row, shows some of their types to the other modules.
const HTTP_FRONT: Rows = &[
    &["serve"],
    &["events"],
    &["outbound"],
    &["mapping"],
    &["frontend"],
    &["policy"],
    &["gateway"],
    &["problem"],
    &["target"],
    &["target_query"],
    &["inbound"],
];

/// Numbers of the rows in [`RELAY`] that run on shards, from 1: `shard` down to `audit` and `limits`.
const SHARD_ROWS: std::ops::RangeInclusive<usize> = 3..=9;

/// Types that share memory between threads, which shards must not use.
const SHARED_TYPES: &[&str] = &[
    "Mutex",
    "RwLock",
    "Condvar",
    "DashMap",
    "dashmap",
    "parking_lot",
    "crossbeam",
];

/// Places where `unsafe` is allowed: a file, or a folder with `/` at the end.
const UNSAFE_DOORS: &[&str] = &[
    "relay/src/io/",
    "wire/src/generated.rs",
    "loadgen/src/emulator/kernel.rs",
];

/// Name of files in tests and benches that may contain `unsafe`, too.
const UNSAFE_TEST_FILE: &str = "counting_allocator.rs";

/// Row of a module, counted from 1.
fn row_of(rows: Rows, module: &str) -> Option<usize> {
    let row = rows.iter().position(|row| row.contains(&module))?;
    Some(row + 1)
}

/// The rows of the crate that a source belongs to, and the source's top-level module.
fn rows_and_module(source: &Source) -> Option<(Rows, &str)> {
    let (home, inside) = source.path.split_once("/src/")?;
    let (_, rows) = CRATES.iter().find(|(name, _)| *name == home)?;
    let module = inside.split('/').next()?.trim_end_matches(".rs");
    source.is_rust().then_some((*rows, module))
}

pub(crate) fn imports_point_downwards(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        let Some((rows, own)) = rows_and_module(source) else {
            continue;
        };
        let Some(row) = row_of(rows, own) else {
            let what = format!("`{own}` has no row in relay/tests/tidy/layering.rs");
            findings.push(Finding::new(source, 1, what));
            continue;
        };
        for path in source
            .paths()
            .iter()
            .filter(|path| !path.is_test && row > 1)
        {
            let written = path.segments.join("::");
            if own == "io" && path.segments[0] == "tieline_wire" {
                let what = format!("`{written}`: io never sees a frame");
                findings.push(Finding::new(source, path.line, what));
            }
            let Some(target) = path.in_crate.as_ref().map(|path| path.first()) else {
                continue;
            };
            let target = target.map_or("", String::as_str);
            // A name that is not a module in the table is an item of lib.rs, in row 1.
            let target_row = row_of(rows, target).unwrap_or(1);
            if target != own && target_row <= row {
                let what = format!(
                    "`{written}` is in row {target_row} and `{own}` in row {row}: imports go to \
                     lower rows only; return a value upwards instead"
                );
                findings.push(Finding::new(source, path.line, what));
            }
        }
    }
    findings
}

/// Folders with rooms: a room imports from lower rooms only.
pub(crate) fn rooms_import_downwards(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (folder, rows) in ROOMS {
        let inside = sources
            .iter()
            .filter(|source| source.is_rust() && source.path.starts_with(folder));
        for source in inside {
            upward_between_rooms(source, folder, rows, &mut findings);
        }
    }
    findings
}

fn upward_between_rooms(source: &Source, folder: &str, rows: Rows, findings: &mut Vec<Finding>) {
    let depth = depth_of(folder);
    let module = source.module();
    let Some(own) = module.get(depth) else {
        return;
    };
    let Some(row) = row_of(rows, own) else {
        if source.tokens.iter().any(|token| !token.is_test) {
            let what = format!("`{own}` has no row in relay/tests/tidy/layering.rs");
            findings.push(Finding::new(source, 1, what));
        }
        return;
    };
    for (path, target) in imports_below(source, &module[..depth]) {
        // A name that is not a room is an item of the folder's `mod.rs`, above all rooms.
        let target_row = row_of(rows, &target).unwrap_or(0);
        if target != *own && target_row <= row {
            let written = path.segments.join("::");
            let what = format!(
                "`{written}` is in room {target_row} and `{own}` in room {row}: imports go to lower rooms only"
            );
            findings.push(Finding::new(source, path.line, what));
        }
    }
}

/// Number of modules that a folder such as `relay/src/listen/http/` stands for.
fn depth_of(folder: &str) -> usize {
    let inside = folder.split_once("/src/").map_or("", |(_, inside)| inside);
    inside.split_terminator('/').count()
}

/// Imports outside tests from the modules of `folder`, each with the module's name in that folder.
fn imports_below(source: &Source, folder: &[String]) -> impl Iterator<Item = (PathUse, String)> {
    let folder = folder.to_vec();
    let paths = source.paths().into_iter().filter(|path| !path.is_test);
    paths.filter_map(move |path| {
        let inside = path.in_crate.as_ref()?.strip_prefix(&folder[..])?;
        let name = inside.first()?.clone();
        Some((path, name))
    })
}

pub(crate) fn the_directory_knows_names_alone(sources: &[Source]) -> Vec<Finding> {
    const CRATES: &[&str] = &["http", "hyper", "tieline_hop"];
    const MODULES: &[&str] = &["io", "link", "splice"];
    let mut findings = Vec::new();
    let is_in = |source: &&Source| source.path.starts_with("relay/src/directory/");
    for source in sources.iter().filter(is_in) {
        for path in source.paths().iter().filter(|path| !path.is_test) {
            let module = path.in_crate.as_ref().and_then(|path| path.first());
            let is_module = module.is_some_and(|it| MODULES.contains(&it.as_str()));
            // A single word is a local variable.
            let is_crate = path.in_crate.is_none() && path.segments.len() > 1;
            if is_module || (is_crate && CRATES.contains(&path.segments[0].as_str())) {
                let written = path.segments.join("::");
                let what = format!("`{written}`: the directory knows neither HTTP nor a socket");
                findings.push(Finding::new(source, path.line, what));
            }
        }
    }
    findings
}

/// Files of the relay outside `io` that may name the plain socket below a stream: the kernel moves the bytes of lanes.
const PLAIN_SOCKET_FILES: &[&str] = &[
    "relay/src/session/lanes.rs",
    "relay/src/splice/frontend.rs",
    "relay/src/splice/lane.rs",
];

pub(crate) fn bytes_move_through_streams(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        let may_name = source.path.starts_with("relay/src/io/")
            || PLAIN_SOCKET_FILES.contains(&source.path.as_str());
        if may_name || !source.path.starts_with("relay/src/") {
            continue;
        }
        for path in source.paths().iter().filter(|path| !path.is_test) {
            let in_crate = path.in_crate.as_deref().unwrap_or_default();
            if matches!(in_crate, [io, .., name] if io == "io" && name == "Socket") {
                let what = "`io::Socket`: move bytes through `io::Stream`, which may be TLS";
                findings.push(Finding::new(source, path.line, what));
            }
        }
    }
    findings
}

pub(crate) fn pure_crates_stay_pure(sources: &[Source]) -> Vec<Finding> {
    const MODULES: &[&[&str]] = &[
        &["std", "net"],
        &["core", "net"],
        &["std", "thread"],
        &["std", "fs"],
        &["std", "process"],
        &["std", "os"],
        &["tokio"],
        &["io_uring"],
        &["rustix"],
        &["socket2"],
    ];
    let mut findings = Vec::new();
    for source in sources {
        let mut folders = source.path.split('/');
        let home = folders.next().unwrap_or("");
        let is_in = matches!(folders.next(), Some("src" | "tests"));
        if !matches!(home, "wire" | "token" | "hop" | "bridge" | "transport") || !is_in {
            continue;
        }
        // Two endpoints of QUIC in memory are told addresses in the types of the standard library.
        if source.path.starts_with("transport/src/quic/tests/") {
            continue;
        }
        // The bridge is told the time by its driver.
        let is_told_time = home == "bridge";
        for path in source.paths() {
            let segments: Vec<_> = path.segments.iter().map(String::as_str).collect();
            // A test may read its corpus from files.
            let is_corpus = path.is_test && segments.starts_with(&["std", "fs"]);
            let outside = MODULES.iter().any(|module| segments.starts_with(module)) && !is_corpus;
            let clock = segments
                .iter()
                .any(|word| matches!(*word, "Instant" | "SystemTime"));
            if outside || (clock && !is_told_time) {
                let what = format!(
                    "`{}`: {home} does no I/O and has no clock",
                    segments.join("::")
                );
                findings.push(Finding::new(source, path.line, what));
            }
        }
    }
    findings
}

pub(crate) fn crates_keep_apart(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let home = source.path.split('/').next().unwrap_or("");
        let allowed: &[&str] = match home {
            "wire" => &["tieline_wire"],
            "token" => &["tieline_wire", "tieline_token"],
            "hop" => &["tieline_hop"],
            "bridge" => &["tieline_bridge"],
            "transport" => &["tieline_wire", "tieline_transport"],
            "relay" => &[
                "tieline_wire",
                "tieline_token",
                "tieline_hop",
                "tieline_transport",
                "tieline_relay",
            ],
            "agent" => &[
                "tieline_wire",
                "tieline_bridge",
                "tieline_transport",
                "tieline_agent",
            ],
            "tieline" if source.path.starts_with("tieline/src/demo") => {
                &["tieline_wire", "tieline_relay", "tieline_agent"]
            }
            "tieline" => &[
                "tieline_wire",
                "tieline_token",
                "tieline_hop",
                "tieline_agent",
            ],
            "e2e" => &[
                "tieline_wire",
                "tieline_token",
                "tieline_relay",
                "tieline_agent",
                "tieline_e2e",
            ],
            _ => &[],
        };
        for token in &source.tokens {
            let name = token.text.as_str();
            if name.starts_with("tieline_") && is_our_crate(name) && !allowed.contains(&name) {
                let what = format!("`{name}` may not be used in {home}/ outside its one place");
                findings.push(Finding::new(source, token.line, what));
            }
        }
    }
    findings
}

fn is_our_crate(name: &str) -> bool {
    matches!(
        name.trim_start_matches("tieline_"),
        "wire" | "token" | "hop" | "bridge" | "transport" | "relay" | "agent" | "loadgen" | "e2e"
    )
}

pub(crate) fn shards_share_nothing(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        let relay = rows_and_module(source).filter(|_| source.path.starts_with("relay/"));
        let row = relay
            .and_then(|(rows, module)| row_of(rows, module))
            .unwrap_or(0);
        if !SHARD_ROWS.contains(&row) || source.path.starts_with("relay/src/shard/mail/mailbox/") {
            continue;
        }
        for token in source.tokens.iter().filter(|token| !token.is_test) {
            if SHARED_TYPES.contains(&token.text.as_str()) {
                let what = format!("`{}`: shards share nothing; send a message", token.text);
                findings.push(Finding::new(source, token.line, what));
            }
        }
    }
    findings
}

pub(crate) fn unsafe_stays_behind_its_doors(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        let is_door = UNSAFE_DOORS
            .iter()
            .any(|door| match door.strip_suffix('/') {
                Some(_) => source.path.starts_with(door),
                None => source.path == *door,
            });
        let is_allocator = ["/tests/", "/benches/"]
            .iter()
            .any(|folder| source.path.contains(folder))
            && source.path.rsplit('/').next() == Some(UNSAFE_TEST_FILE);
        if is_door || is_allocator {
            continue;
        }
        for line in source.lines_with(&["unsafe"], true) {
            let doors = UNSAFE_DOORS.join(", ");
            let what =
                format!("`unsafe` outside {doors} and a {UNSAFE_TEST_FILE} of tests or benches");
            findings.push(Finding::new(source, line, what));
        }
    }
    findings
}

pub(crate) fn crates_have_no_features(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources
        .iter()
        .filter(|source| source.path.ends_with("Cargo.toml"))
    {
        for (at, line) in source.text.lines().enumerate() {
            if line.trim() == "[features]" {
                let what = "a cargo feature needs an ADR; choose at run time, in the settings";
                findings.push(Finding::new(source, at + 1, what));
            }
        }
    }
    findings
}
