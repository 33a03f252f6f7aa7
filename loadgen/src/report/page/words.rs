//! Texts of the page, and its style sheet.

use crate::path::{PathKind, Wrapping};
use crate::scenario::Scenario;

pub(super) const LEAD: &str = "The same scenarios over several paths from a client to a server on one \
     machine: directly, through two bare forwarders in a row, through relay and agent and, if \
     measured, through other programs for the same purpose.";

pub(super) const PATHS: &str = "In each round every path is measured \
     once, in random order, so that a slowdown of the machine affects all paths alike. The processes between client and \
     target are the hops of a path: the near hop is next to the client (a forwarder, the relay), the far hop \
     next to the target (a forwarder, the agent).";

pub(super) const SUMMARY: &str = "The relay's median over the rounds, then its ratio to another \
     path in the same round: median, smallest and largest. \
     <span class=\"better\">▲</span> better in every round, <span class=\"worse\">▼</span> worse \
     in every round, <span class=\"level\">≈</span> the rounds disagree; with fewer than three \
     rounds there is no mark. The best forwarder or peer is chosen for each value; its \
     name follows the ratio.";

pub(super) const EPOLL: &str = "For hosts where io_uring is refused: <b>relay</b> uses io_uring if \
     possible, <b>relay-epoll</b> runs with --driver=epoll. First the ratio to <b>relay</b>, then to the others as \
     above. <b>relay-epoll</b> is never the best forwarder or peer that other paths are compared with.";

pub(super) const SCALING: &str = "CPU time of all processes between client and target, per round \
     trip. A flat or falling curve means that a round trip costs no more when there are many connections.";

pub(super) const METHOD: &str = "Bars show the median over the rounds, whiskers the smallest and \
     the largest round; an arrow means that the whisker continues. Every byte that comes back is \
     compared with the one that was sent, and a difference ends the run. CPU times are those of \
     the processes, user and system time. A round counts as doubtful if other processes took more \
     than 10 % of the machine during it, or the hypervisor more than 3 %. On loopback all \
     processes share the machine, so rates are less reliable than CPU times and ratios.";

/// Description of a kind of path.
pub(super) fn path(kind: PathKind) -> &'static str {
    match kind {
        PathKind::Direct => "client to target without a hop between: the machine's own cost",
        PathKind::ForwarderTokio => {
            "two bare forwarders in a row, on tokio (epoll): no names, no multiplexing, no auth"
        }
        PathKind::ForwarderTokioUring => {
            "two bare forwarders in a row, on tokio-uring (io_uring); ratios are to the better forwarder"
        }
        PathKind::ForwarderMonoio => {
            "two bare forwarders in a row, on monoio (io_uring); ratios are to the best forwarder"
        }
        PathKind::DirectOver(_) => {
            "client to a target that speaks TLS, WebSocket (ws), both (wss) or QUIC itself"
        }
        PathKind::Peer(_) => "a peer: another program for the same purpose",
        PathKind::PeerOver(..) => {
            "a peer with TLS between client and near hop (caller), between near and far hop (link), or on both"
        }
        PathKind::RelayOver(wrapped) if wrapped.caller == Wrapping::PassedWebSocket => {
            "relay and agent that pass a WebSocket on to a target that speaks WebSocket"
        }
        PathKind::RelayOver(_) => {
            "relay and agent with their defaults, with TLS, WebSocket (ws), both (wss) or QUIC between client and \
             relay (caller), between relay and agent (link), or on both"
        }
        PathKind::Relay => "a relay and its agent that were already running",
        PathKind::RelayEpoll => {
            "relay and agent, with the relay on epoll (--driver=epoll): for hosts where \
             io_uring is refused"
        }
    }
}

/// Description of a scenario, in a few sentences.
pub(super) fn scenario(scenario: Scenario) -> &'static str {
    match scenario {
        Scenario::RoundTrips { .. } if scenario.rate().is_some() => {
            "Messages fall due at a constant rate, and latency is measured from the moment at which a \
             message was due: a stall counts against every message that fell due during it."
        }
        Scenario::RoundTrips { .. } => {
            "Each connection sends its next message when the answer to its previous message is complete; \
             the server echoes every message."
        }
        Scenario::Bulk { .. } => {
            "As many bytes as possible within the measured time. The receiving end checks every byte. CPU \
             time is per GiB moved, both directions together."
        }
        Scenario::Connect { .. } => {
            "Each connection is opened, gets one small answer and is closed; then another connection is \
             opened in its place. Latency is from the attempt to connect to the last byte of the \
             answer."
        }
        Scenario::Idle { .. } => {
            "Fresh processes; sessions are opened, make one round trip each and then do nothing. \
             Memory is the growth of a hop's resident memory, divided by the sessions. Kernel memory \
             is not included. CPU time is that of the hops while the sessions are idle."
        }
        Scenario::Handshakes { .. } => {
            "Each connection makes a TLS handshake, is ended by the client, and counts when the server has ended it \
             too; then another connection is opened in its place. Handshakes per CPU second count the CPU time of the \
             program that does them: the near hop, on the direct path the target."
        }
        Scenario::Fanout { .. } => {
            "One message on every connection at the same moment; when the last answer has arrived, \
             the next burst starts. Latency is measured from the start of the burst, so it includes the \
             generator's own time for sending."
        }
        Scenario::Calls { .. } => {
            "Each connection is kept, and calls a tool when the answer to its previous call is \
             complete: a POST with 200 B of arguments, answered with JSON of 1.1 KiB."
        }
        Scenario::FirstEvents { .. } => {
            "Calls fall due at a constant rate, low enough that the machine is idle in between. The \
             target answers with a stream of events, the first at once and the second 10 ms later. \
             Latency is from the moment at which the call was due to the last byte of the first \
             event."
        }
        Scenario::Streams { .. } => {
            "Fresh processes; event streams are opened, deliver one event each and are then idle. \
             Memory is the growth of a hop's resident memory, divided by the streams. Kernel memory is \
             not included. CPU time is that of the hops while the streams are idle."
        }
        Scenario::Mixed { .. } => {
            "Small messages fall due at a constant rate while one connection downloads over the same \
             tunnel, as many bytes as possible if no rate is named. Latency is that of the small messages, \
             MiB/s that of the download."
        }
    }
}

pub(super) const STYLE: &str = "\
body{font:15px/1.5 system-ui,'DejaVu Sans',sans-serif;color:#1a1a1a;background:#fff;\
max-width:1180px;margin:2rem auto;padding:0 1.2rem}\
h1{font-size:1.7rem;margin:.2rem 0}h2{font-size:1.25rem;margin:2.2rem 0 .3rem;\
border-top:1px solid #ddd;padding-top:1.1rem}h3{font-size:1rem;margin:1.2rem 0 .3rem}\
p{max-width:52rem;margin:.4rem 0}.lead{font-size:1.05rem;color:#444}\
ul.paths{list-style:none;padding:0}.dot{display:inline-block;width:.8em;height:.8em;\
margin-right:.5em;border-radius:2px}\
table{border-collapse:collapse;margin:.8rem 0;font-size:.88rem;font-variant-numeric:tabular-nums}\
th,td{border:1px solid #ddd;padding:.2rem .55rem;text-align:right;vertical-align:top}\
th{background:#f6f6f6;font-weight:600}th.t,th[rowspan],td.t,.grid td:first-child,\
.grid th:first-child,.facts th,.facts td{text-align:left}th[rowspan]{max-width:17rem}\
.better{color:#00694c}.worse{color:#a83200}.level,.none{color:#666}td.better,td.worse{\
font-weight:600}th small{display:block;font-weight:400;color:#8a4b00}td i{font-weight:400;color:#666}.range{color:#777;font-weight:400;fill:#777}\
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(34rem,100%),1fr));\
gap:1rem 1.6rem;margin:.6rem 0}figure{margin:0;max-width:38rem}figcaption span{color:#666;font-size:.85rem}\
svg{width:100%;height:auto;display:block;font:12px system-ui,'DejaVu Sans',sans-serif}\
.whisker{stroke:#1a1a1a;stroke-width:1.2;fill:none}.grid{stroke:#e4e4e4}table.grid{stroke:none}\
.curve{fill:none;stroke-width:2}.tick{fill:#555;font-size:11px}.axis{fill:#333}\
.value{font-weight:600}.value .range{font-weight:400;font-size:10.5px}\
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;font-size:.85rem}\
svg.key{display:inline-block;width:30px;height:8px;vertical-align:middle}\
.remarks{font-size:.88rem;color:#444;max-width:56rem}.doubt{color:#8a4b00;font-weight:600}\
details{margin:.5rem 0;overflow-x:auto}summary{cursor:pointer;color:#0b5394}\
pre{background:#f6f6f6;padding:.6rem .8rem;overflow-x:auto;font-size:.8rem;white-space:pre-wrap;\
overflow-wrap:anywhere}@media print{details{display:block}}";
