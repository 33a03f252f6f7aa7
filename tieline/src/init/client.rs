//! The supported MCP clients: file, key and form of each one's configuration.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use http::Uri;
use serde::Serialize;
use serde_json::Value;

use super::layout::Layout;

/// An MCP client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Client {
    /// Claude Code: .mcp.json
    ClaudeCode,
    /// Cursor: .cursor/mcp.json
    Cursor,
    /// VS Code: .vscode/mcp.json
    Vscode,
    /// Claude Desktop: a block to paste
    ClaudeDesktop,
}

/// Transport of an MCP server over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// Streamable HTTP.
    Http,
    /// The older transport, HTTP with SSE.
    Sse,
}

impl Transport {
    /// The transport's name in configurations of clients.
    const fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Sse => "sse",
        }
    }
}

impl Client {
    /// The client's configuration file in a project; `None` for Claude Desktop.
    #[must_use]
    pub fn file(self, dir: &Path) -> Option<PathBuf> {
        match self {
            Self::ClaudeCode => Some(dir.join(".mcp.json")),
            Self::Cursor => Some(dir.join(".cursor").join("mcp.json")),
            Self::Vscode => Some(dir.join(".vscode").join("mcp.json")),
            Self::ClaudeDesktop => None,
        }
    }

    /// True if the project's folder has files of this client.
    #[must_use]
    pub fn is_used_in(self, dir: &Path) -> bool {
        match self {
            Self::ClaudeCode => dir.join(".mcp.json").exists() || dir.join(".claude").is_dir(),
            Self::Cursor => dir.join(".cursor").is_dir(),
            Self::Vscode => dir.join(".vscode").is_dir(),
            Self::ClaudeDesktop => false,
        }
    }

    /// Key of the object that holds the client's servers.
    #[must_use]
    pub const fn list(self) -> &'static str {
        match self {
            Self::Vscode => "servers",
            _ => "mcpServers",
        }
    }

    /// The client's entry for the server at `url`.
    #[must_use]
    pub fn entry(self, url: &str, transport: Transport) -> Entry {
        Entry(match self {
            Self::ClaudeCode | Self::Vscode => {
                vec![("type", transport.word().into()), ("url", url.into())]
            }
            // Cursor finds out the server's transport by itself.
            Self::Cursor => vec![("url", url.into())],
            // Claude Desktop starts servers and talks to them over standard input, so mcp-remote
            // connects it to HTTP.
            Self::ClaudeDesktop => {
                let mut words = vec!["-y", "mcp-remote", url];
                if is_plain_remote(url) {
                    words.push("--allow-http");
                }
                if transport == Transport::Sse {
                    words.extend(["--transport", "sse-only"]);
                }
                vec![("command", "npx".into()), ("args", words.into())]
            }
        })
    }
}

/// True for an `http://` URL of another machine, which mcp-remote refuses without --allow-http.
fn is_plain_remote(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else {
        return false;
    };
    let end = rest.find(['/', ':', '?']).unwrap_or(rest.len());
    !matches!(&rest[..end], "localhost" | "127.0.0.1")
}

/// One server's entry in a configuration, with the fields in the order that people write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry(Vec<(&'static str, Value)>);

impl Entry {
    /// Renders the entry for a line that is indented by `indent`.
    pub(super) fn render(&self, layout: &Layout, indent: &str) -> String {
        let fields: Vec<_> = self.fields().collect();
        layout.object(indent, &fields)
    }

    /// A whole configuration with this entry, for pasting.
    #[must_use]
    pub fn block(&self, list: &str, name: &str) -> String {
        let layout = Layout::of("");
        let entry = self.render(&layout, "    ");
        let servers = layout.object("  ", &[(name, entry)]);
        layout.object("", &[(list, servers)])
    }

    /// Name and JSON text of each field.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.0.iter().map(|(name, value)| (*name, rendered(value)))
    }

    /// True if `present` has the same fields with the same values; more fields, such as headers, may be there.
    pub(super) fn is_in(&self, present: &Value) -> bool {
        let is_there = |(name, value): &(&str, Value)| present.get(name) == Some(value);
        self.0.iter().all(is_there)
    }

    /// True if `present` means the same as this entry: clients have several names for one transport, and a
    /// URL has several forms.
    pub(super) fn is_meant_by(&self, present: &Value) -> bool {
        let means = |(name, ours): &(&str, Value)| {
            let theirs = present.get(name);
            match (*name, ours.as_str(), theirs.and_then(Value::as_str)) {
                ("type", Some(ours), Some(theirs)) => transport(ours) == transport(theirs),
                ("url", Some(ours), Some(theirs)) => same_place(ours, theirs),
                _ => theirs == Some(ours),
            }
        };
        self.0.iter().all(means)
    }
}

/// Normal form of a transport's name.
fn transport(word: &str) -> String {
    let word = word.to_ascii_lowercase().replace(['-', '_'], "");
    match word.as_str() {
        "streamablehttp" => "http".to_owned(),
        _ => word,
    }
}

/// True if two URLs lead to the same place: case of scheme and host, a default port, and a final slash
/// make no difference.
fn same_place(one: &str, other: &str) -> bool {
    let parts = |url: &str| {
        let uri: Uri = url.trim().parse().ok()?;
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let host = uri.host()?.to_ascii_lowercase();
        let usual = if scheme == "https" { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(usual);
        let path = uri.path().trim_end_matches('/').to_owned();
        Some((scheme, host, port, path, uri.query().map(str::to_owned)))
    };
    one == other || parts(one).is_some_and(|it| Some(it) == parts(other))
}

/// JSON text of a field's value, on one line as people write it.
fn rendered(value: &Value) -> String {
    match value {
        Value::Array(words) => {
            let words: Vec<_> = words.iter().map(Value::to_string).collect();
            format!("[{}]", words.join(", "))
        }
        text => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claude_desktop_gets_a_program_in_between() {
        let entry =
            Client::ClaudeDesktop.entry("https://relay.example/w/maya/mcp", Transport::Http);
        assert_eq!(
            entry.block("mcpServers", "maya"),
            r#"{
  "mcpServers": {
    "maya": {
      "command": "npx",
      "args": ["-y", "mcp-remote", "https://relay.example/w/maya/mcp"]
    }
  }
}"#
        );
        for (url, allowed) in [
            ("http://localhost:51822/w/x/mcp", false),
            ("http://127.0.0.1/w/x/mcp", false),
            ("http://relay.example:9080/w/x/mcp", true),
            ("http://localhost.example/mcp", true),
        ] {
            let entry = Client::ClaudeDesktop.entry(url, Transport::Http);
            let block = entry.block("mcpServers", "x");
            assert_eq!(block.contains("--allow-http"), allowed, "{url}");
        }
    }

    #[test]
    fn the_older_transport_has_its_own_word_in_each_client() {
        let block = |client: Client| {
            let entry = client.entry("http://h/sse", Transport::Sse);
            entry.block(client.list(), "x")
        };
        for (client, words) in [
            (Client::ClaudeCode, "\"type\": \"sse\""),
            (Client::Vscode, "\"type\": \"sse\""),
            (Client::ClaudeDesktop, "\"--transport\", \"sse-only\""),
        ] {
            assert!(block(client).contains(words), "{}", block(client));
        }
        assert!(
            !block(Client::Cursor).contains("sse\","),
            "{}",
            block(Client::Cursor)
        );
    }

    #[test]
    fn an_entry_that_says_more_says_the_same() {
        let entry = Client::ClaudeCode.entry("http://h/mcp", Transport::Http);
        let present = |text| entry.is_in(&serde_json::from_str(text).unwrap());
        assert!(present(
            r#"{"url":"http://h/mcp","type":"http","headers":{}}"#
        ));
        assert!(!present(r#"{"url":"http://h/mcp"}"#));
        let meant = |text| entry.is_meant_by(&serde_json::from_str(text).unwrap());
        for same in [
            r#"{"type":"streamable-http","url":"http://h/mcp"}"#,
            r#"{"type":"streamableHttp","url":"http://h/mcp"}"#,
            r#"{"type":"HTTP","url":"HTTP://H:80/mcp/"}"#,
        ] {
            assert!(meant(same), "{same}");
        }
        for other in [
            r#"{"type":"sse","url":"http://h/mcp"}"#,
            r#"{"type":"http","url":"https://h/mcp"}"#,
            r#"{"type":"http","url":"http://h/mcp?x"}"#,
            r#"{"type":"http","url":"http://h:81/mcp"}"#,
            r#"{"type":"http","url":"h"}"#,
            r#"{"url":"http://h/mcp"}"#,
        ] {
            assert!(!meant(other), "{other}");
        }
        assert!(!present(r#"{"url":"http://h/","type":"http"}"#));
        assert!(!present("7"));
    }
}
