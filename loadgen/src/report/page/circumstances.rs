//! Last section of an HTML page: machine, commit, command, method, settings.

use std::fmt::Write;

use crate::report::Circumstances;
use crate::report::plot::escape;

/// Formats the section; `method` is an HTML paragraph on how the numbers were measured.
pub(in crate::report) fn circumstances(report: &Circumstances, method: &str) -> String {
    let mut out = String::from("<h2>Where and how</h2>\n<table class=\"facts\">");
    for (name, value) in report.facts() {
        let _ = writeln!(
            out,
            "<tr><th>{name}</th><td>{}</td></tr>",
            escape(value.trim_matches('`'))
        );
    }
    for note in &report.notes {
        let _ = writeln!(out, "<tr><th>note</th><td>{}</td></tr>", escape(note));
    }
    let _ = write!(out, "</table>\n<p>{}</p>\n", method);
    for (relay, settings) in report.relays() {
        let _ = writeln!(
            out,
            "<h3>{}: {}</h3>\n<p>Settings in effect:</p>\n<pre>{}</pre>",
            relay.path,
            escape(&relay.described()),
            escape(&settings)
        );
        if let Some(health) = &relay.health {
            let _ = writeln!(
                out,
                "<p>Its answer to /healthz?verbose:</p>\n<pre>{}</pre>",
                escape(health)
            );
        }
    }
    for peer in &report.peers {
        let _ = writeln!(
            out,
            "<h3>{}: {}</h3>",
            escape(&peer.name),
            escape(&peer.version)
        );
        for hop in &peer.hops {
            let _ = writeln!(out, "<pre>{}</pre>", escape(hop.trim_end()));
        }
    }
    out
}
