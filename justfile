# Recipes for developers. CI runs `just ci` and nothing else. `just` without arguments lists the recipes.

set shell := ["bash", "-euo", "pipefail", "-c"]

_list:
    @just --list --unsorted

# Check that all crates compile
[group('check')]
check:
    cargo check --workspace --all-targets

# Format all Rust sources
[group('check')]
fmt:
    cargo fmt --all
    cargo fmt --manifest-path tools/schema/Cargo.toml

# Check formatting and lints, warnings denied; changes no file
[group('check')]
lint:
    cargo fmt --all --check
    cargo fmt --manifest-path tools/schema/Cargo.toml --check
    cargo clippy --workspace --all-targets -- -D warnings

# Lints of the agent for Windows, warnings denied; links and runs nothing
[group('check')]
windows:
    #!/usr/bin/env bash
    set -euo pipefail
    target=x86_64-pc-windows-gnu
    has_target() { compgen -G "$(rustc --print target-libdir --target "$target")/libstd-*.rlib" >/dev/null; }
    if ! has_target; then
        timeout 300 rustup target add "$target" || true
    fi
    if ! has_target; then
        echo "windows: ignored, because the target $target is missing and cannot be installed (rustup target add $target)"
        exit 0
    fi
    # A dependency compiles C code for Windows.
    if ! command -v x86_64-w64-mingw32-gcc >/dev/null; then
        echo "windows: ignored, because a C compiler for Windows is missing (Debian: gcc-mingw-w64-x86-64)"
        exit 0
    fi
    cargo clippy --target "$target" -p tieline-wire -p tieline-token -p tieline-hop -p tieline-bridge -p tieline-transport -p tieline-agent -p tieline --all-targets -- -D warnings

# Our own style rules (docs/STYLE.md), as tests
[group('check')]
tidy:
    cargo test -p tieline-relay --test tidy

# Check licences, sources and duplicates of dependencies, and find unused dependencies
[group('check')]
dependencies:
    cargo deny check --hide-inclusion-graph bans licenses sources
    cargo machete

# Both programs to hand out, in target/dist: smaller than `release`; their debug information is kept in *.debug beside them
[group('build')]
dist:
    cargo build --profile dist --bin tieline-relay --bin tieline
    just _debug-apart target/dist

# Move the debug information of both programs in FOLDER into files of its own, which debuggers find by their names
_debug-apart folder:
    #!/usr/bin/env bash
    set -euo pipefail
    cd '{{ folder }}'
    for program in tieline-relay tieline; do
        # A second run without a build finds nothing to move.
        if readelf --section-headers "$program" | grep -q '\.debug_line'; then
            objcopy --only-keep-debug "$program" "$program.debug"
            # cargo keeps a second link to the program: replace it, do not change it.
            objcopy --strip-all --add-gnu-debuglink="$program.debug" "$program" "$program.small"
            mv "$program.small" "$program"
        fi
        ls -l "$program" "$program.debug"
    done

# Both programs as static binaries for this architecture, in target/*-linux-musl/dist; needs a C compiler for musl (Debian: musl-tools)
[group('build')]
static:
    #!/usr/bin/env bash
    set -euo pipefail
    target=$(uname -m)-unknown-linux-musl
    if ! command -v musl-gcc >/dev/null; then
        echo 'just static needs musl-gcc: apt install musl-tools' >&2
        exit 1
    fi
    if ! compgen -G "$(rustc --print target-libdir --target "$target")/libstd-*.rlib" >/dev/null; then
        rustup target add "$target"
    fi
    cargo build --profile dist --target "$target" --bin tieline-relay --bin tieline
    just _debug-apart "target/$target/dist"
    for program in tieline-relay tieline; do
        # ldd lists a shared library as NAME => PATH; a static program has none.
        if ldd "target/$target/dist/$program" 2>&1 | grep -F '=>' >&2; then
            echo "target/$target/dist/$program is not static" >&2
            exit 1
        fi
    done

# All tests, or the tests whose name contains FILTER
[group('test')]
test filter='':
    cargo test --workspace {{ if filter == '' { '' } else { '-- ' + quote(filter) } }}

# Simulation of two muxes over a link; SEED=n just sim replays one run
[group('test')]
sim:
    cargo test -p tieline-wire --test simulation -- --nocapture

# Model check (loom) of mailbox wake-ups and the table of limits, with up to PREEMPTIONS forced thread switches; 3 minutes
[group('test')]
loom preemptions='4':
    LOOM_MAX_PREEMPTIONS={{ preemptions }} cargo test -p tieline-relay --lib -- mailbox::tests::model limits::tests::model

# Tests of the emulated path and of relay and agent on it, 8 minutes, on a machine with nothing else to do; needs root, TUN devices, ip and nft, and fails where one is missing
[group('test')]
emulated *arguments:
    TIELINE_INTEROP=require cargo test -p tieline-loadgen --test emulator -- {{ arguments }}
    TIELINE_INTEROP=require cargo test -p tieline-e2e --test emulated_path -- {{ arguments }}

# Every transport of links with every kind of caller, with MIB of payload in each
[group('test')]
matrix mib='64':
    MATRIX_MIB={{ mib }} cargo test -p tieline-e2e --test behaviour_matrix -- --nocapture

# Cost of SIZE concurrent links, names and frontends; `ulimit -n` must be twice SIZE
[group('test')]
fanout size='10000':
    FANOUT={{ size }} cargo test -p tieline-e2e --test behaviour_fanout -- --nocapture --test-threads 1

# Each fuzz target for SECONDS, from the seeds in the `fuzz/corpus` folders
[group('test')]
fuzz seconds='60':
    #!/usr/bin/env bash
    set -euo pipefail
    if ! rustc +nightly --version >/dev/null 2>&1; then
        echo 'just fuzz needs a nightly compiler: rustup toolchain install nightly --profile minimal' >&2
        exit 1
    fi
    if ! cargo fuzz --version >/dev/null 2>&1; then
        echo 'just fuzz needs cargo-fuzz: cargo install cargo-fuzz --locked' >&2
        exit 1
    fi
    for place in wire/frame_decode wire/message_verify wire/mux_operations token/keys transport/websocket transport/tls_first_flight transport/session_stream relay/packets; do
        crate=${place%/*} target=${place#*/}
        # libFuzzer writes new inputs to the first folder; the seeds stay as they are in git.
        found=$PWD/target/fuzz/$target
        mkdir -p "$found"
        echo "fuzz: $target for {{ seconds }} s"
        (cd "$crate" && cargo +nightly fuzz run "$target" "$found" "fuzz/corpus/$target" -- -max_total_time={{ seconds }})
    done

# Cost of the path through relay and agent at the main points of every scenario, 3.5 minutes; writes docs/bench. `just bench http` runs bench-http, `just bench tls` bench-tls
[group('bench')]
bench *arguments:
    just {{ if arguments =~ '^(http|tls)( |$)' { 'bench-' + arguments } else { "_bench bench --rounds 3 --duration 1s --warm-up 200ms " + arguments } }}

# Cost of calls, first events and open event streams over HTTP, compared with nginx as a reverse proxy, 5 rounds; 7 minutes
[group('bench')]
bench-http *arguments: (peers 'nginx') (_bench 'bench-http' '--suite' 'http' '--known-peers' 'target/peers' '--rounds' '5' '--duration' '2s' '--warm-up' '300ms' arguments)

# What TLS and WebSockets add on each hop, handshakes, memory, compared with those of nginx, HAProxy, rathole and wstunnel that are in target/peers or on PATH; 25 minutes
[group('bench')]
bench-tls *arguments: (_bench 'bench-tls' '--suite' 'tls' '--known-peers' 'target/peers' '--rounds' '5' '--duration' '1s' '--warm-up' '300ms' arguments)

# Cost in all scenarios, 1 to 4,096 connections, 10,000 idle sessions, 5 rounds; 25 minutes
[group('bench')]
bench-full *arguments: (_bench 'bench-full' '--suite' 'full' '--repeat-noisy' '2' arguments)

# Cost compared with nginx, HAProxy, rathole and bore, which are first installed in target/peers; 25 minutes
[group('bench')]
bench-peers *arguments: peers (_bench 'bench-peers' '--suite' 'peers' '--known-peers' 'target/peers' '--repeat-noisy' '2' arguments)

# Cost per session and per tunnel for 1 to 10,000 of them, 5 minutes; `ulimit -n` must be 20,000
[group('bench')]
bench-scaling *arguments:
    cargo build --release -p tieline-relay -p tieline -p tieline-agent -p tieline-loadgen --bins --example fleet
    target/release/tieline-loadgen scaling --rounds 3 --duration 1s --warm-up 200ms {{ arguments }}

# Install nginx, HAProxy, rathole and bore, or only NAMES, in target/peers; changes nothing else on the machine
[group('bench')]
peers *names:
    tools/peers/install target/peers {{ names }}

# Cost of frame codec and mux without sockets: ns per frame, bytes per session, 1 minute; writes docs/bench/wire.md
[group('bench')]
bench-wire:
    #!/usr/bin/env bash
    set -euo pipefail
    # A bench runs in the folder of its package, so the path must be absolute.
    export CRITERION_HOME="$PWD/target/criterion"
    cargo bench -p tieline-wire --bench codec --bench mux
    cargo bench -p tieline-wire --bench state >"$CRITERION_HOME/state.jsonl"
    tools/bench/wire.py "$CRITERION_HOME" >target/wire.md
    mv target/wire.md docs/bench/wire.md
    cat docs/bench/wire.md

# Instructions of relay and agent per round trip and MiB, by perf or valgrind, 2 minutes; writes docs/bench/instructions.md
[group('bench')]
instructions *arguments:
    cargo build --release -p tieline-relay -p tieline -p tieline-loadgen
    target/release/tieline-loadgen instructions {{ arguments }}

# Cost of bare forwarders on tokio, tokio-uring and monoio, compared with the relay, 5 rounds; 4 minutes
[group('bench')]
bench-runtimes *arguments: (_bench 'bench-runtimes' '--path' 'direct,forwarder,forwarder-monoio,relay,relay-epoll' '--scenario' '1x256,64x256,512x1024,bulk-down-1' '--rounds' '5' '--duration' '1s' '--warm-up' '300ms' arguments)

# Cost of all transports, on links and for callers, compared with their direct paths (QUIC: quinn to quinn), 5 rounds; 15 minutes
[group('bench')]
bench-transports *arguments: (_bench 'bench-transports' '--path' 'direct,direct-tls,direct-ws,direct-wss,direct-quic,relay,relay-tls-link,relay-ws-link,relay-wss-link,relay-quic-link,relay-tls-caller,relay-ws-caller,relay-wss-caller,relay-quic-caller,relay-quic' '--scenario' '1x256,64x256,bulk-up-1,bulk-down-1,idle-2000' '--rounds' '5' '--duration' '1s' '--warm-up' '300ms' arguments)

# What sessions of one link do to each other, and how far one session fills a long path, for links of each transport on an emulated path, 3 rounds; needs root and TUN devices; 30 minutes
[group('bench')]
bench-path *arguments:
    cargo build --release -p tieline-relay -p tieline -p tieline-loadgen
    tools/bench/path.py {{ arguments }}

_bench name *arguments:
    cargo build --release -p tieline-relay -p tieline -p tieline-loadgen
    target/release/tieline-loadgen bench --name {{ name }} {{ arguments }}

# Generate wire/src/generated.rs from wire/schema/wire.fbs; `just schema --check` only compares
[group('generate')]
schema *arguments:
    CMAKE_TOOLCHAIN_FILE="$PWD/tools/schema/flatc-only.cmake" \
        cargo run --manifest-path tools/schema/Cargo.toml -- {{ arguments }}

# Build the API documentation, warnings denied
[group('generate')]
doc:
    RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps

# Run a relay with default settings, on loopback
[group('run')]
run-relay *arguments:
    cargo run --release --bin tieline-relay -- {{ arguments }}

# Run an agent: just run-agent --relay tcp://127.0.0.1:9001 --to http://127.0.0.1:3001/mcp
[group('run')]
run-agent *arguments:
    cargo run --release --bin tieline -- serve {{ arguments }}

# Run relay, agent and a small MCP server in one process, make two calls through the whole path, then exit
[group('run')]
demo:
    cargo run --release --bin tieline -- demo --once

# Create an object in Blender through a tunnel; needs Python 3.11, and downloads 400 MB the first time
[group('run')]
dcc-demo:
    #!/usr/bin/env bash
    set -euo pipefail
    # bpy (Blender as a Python module) is built for exactly this version of Python.
    if ! python=$(command -v python3.11); then
        echo 'just dcc-demo needs python3.11' >&2
        exit 1
    fi
    pins=e2e/fixtures/dcc/requirements.txt
    if ! cmp -s "$pins" target/dcc/pins; then
        rm -rf target/dcc
        "$python" -m venv target/dcc
        target/dcc/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: -r "$pins"
        cp "$pins" target/dcc/pins
    fi
    cargo build --release --bin tieline-relay --bin tieline
    target/dcc/bin/python e2e/fixtures/dcc/demo.py target/release/tieline-relay target/release/tieline

# Run all checks in order, and print the time of each
[group('ci')]
ci:
    #!/usr/bin/env bash
    set -euo pipefail
    took=''
    step() {
        local name=$1 start=$SECONDS
        shift
        printf '\n== %s: %s\n' "$name" "$*"
        "$@" || { printf '== %s: FAILED after %d s\n' "$name" $((SECONDS - start)) >&2; exit 1; }
        printf '== %s: %d s\n' "$name" $((SECONDS - start))
        took+=$(printf '%-14s%5d s' "$name" $((SECONDS - start)))$'\n'
    }
    # Includes tidy, which is one of the relay's tests.
    step test cargo test --workspace
    step lint just lint
    step windows just windows
    step doc just doc
    step schema just schema --check
    step dependencies just dependencies
    step demo just demo
    printf '\n%s%-14s%5d s\n' "$took" all $SECONDS
