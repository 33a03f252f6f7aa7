//! One bound name, as the journal stores it.

use data_encoding::HEXLOWER_PERMISSIVE as HEX;
use serde::{Deserialize, Serialize};
use tieline_wire::{AgentKey, InstanceId, MachineId, Scheme, TunnelId};

/// A bound name, and its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) tunnel: TunnelId,
    pub(crate) key: AgentKey,
    pub(crate) machine: MachineId,
    /// The latest run of the agent.
    pub(crate) instance: Option<InstanceId>,
    /// Superseded runs, oldest first, which do not get the name back.
    pub(crate) superseded: Vec<InstanceId>,
    /// Subject of the token that the name was registered with; `None` without authentication.
    pub(crate) sub: Option<String>,
    /// The groups of the token that the name was registered with.
    pub(crate) groups: Vec<String>,
    /// Whether agents with other keys may serve the name too.
    pub(crate) shared: bool,
    pub(crate) scheme: Scheme,
    pub(crate) base_path: String,
    pub(crate) dcc: String,
    pub(crate) capabilities: Vec<String>,
    pub(crate) expose_all: bool,
    /// The second since 1970 at which the agent left; absent while an agent serves the name.
    pub(crate) away_since: Option<u64>,
}

/// A change of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// The name is bound like this from now on.
    Bound(Box<Binding>),
    /// The name is free again.
    Forgotten(TunnelId),
}

impl Note {
    /// Notes that a name is bound.
    pub(crate) fn bound(binding: Binding) -> Self {
        Self::Bound(Box::new(binding))
    }

    /// The name that the note is about.
    pub(crate) const fn tunnel(&self) -> &TunnelId {
        match self {
            Self::Bound(binding) => &binding.tunnel,
            Self::Forgotten(tunnel) => tunnel,
        }
    }

    /// Appends the note as one line of JSON.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let line = match self {
            Self::Bound(binding) => Line::of(binding),
            Self::Forgotten(tunnel) => Line {
                name: tunnel.as_str().to_owned(),
                forgotten: true,
                ..Line::default()
            },
        };
        // Serializing texts and numbers cannot fail.
        let _ = serde_json::to_writer(&mut *out, &line);
        out.push(b'\n');
    }

    /// Parses a line; fields that this version does not know are ignored.
    pub(super) fn read(line: &[u8]) -> Option<Self> {
        let line: Line = serde_json::from_slice(line).ok()?;
        let tunnel = TunnelId::parse(&line.name).ok()?;
        if line.forgotten {
            return Some(Self::Forgotten(tunnel));
        }
        Some(Self::bound(Binding {
            key: AgentKey::new(bytes(&line.key)?),
            machine: MachineId::new(bytes(&line.machine)?),
            instance: bytes(&line.instance).map(InstanceId::new),
            superseded: line
                .superseded
                .iter()
                .filter_map(|it| bytes(it).map(InstanceId::new))
                .collect(),
            sub: line.sub.filter(|sub| !sub.is_empty()),
            groups: line.groups,
            shared: line.shared,
            scheme: match &*line.scheme {
                "http" => Scheme::Http,
                "https" => Scheme::Https,
                "stdio" => Scheme::Stdio,
                _ => Scheme::Tcp,
            },
            base_path: line.base_path,
            dcc: line.dcc,
            capabilities: line.capabilities,
            expose_all: line.expose_all,
            away_since: line.away_since,
            tunnel,
        }))
    }
}

/// A note as a line of the journal.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Line {
    name: String,
    #[serde(skip_serializing_if = "is_false")]
    forgotten: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    machine: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    instance: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    superseded: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "is_false")]
    shared: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    scheme: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    base_path: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    dcc: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    capabilities: Vec<String>,
    #[serde(skip_serializing_if = "is_false")]
    expose_all: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    away_since: Option<u64>,
}

impl Line {
    fn of(binding: &Binding) -> Self {
        Self {
            name: binding.tunnel.as_str().to_owned(),
            forgotten: false,
            key: HEX.encode(binding.key.as_bytes()),
            machine: HEX.encode(binding.machine.as_bytes()),
            instance: binding
                .instance
                .map(|it| HEX.encode(it.as_bytes()))
                .unwrap_or_default(),
            superseded: binding
                .superseded
                .iter()
                .map(|it| HEX.encode(it.as_bytes()))
                .collect(),
            sub: binding.sub.clone(),
            groups: binding.groups.clone(),
            shared: binding.shared,
            scheme: match binding.scheme {
                Scheme::Tcp => "tcp",
                Scheme::Http => "http",
                Scheme::Https => "https",
                Scheme::Stdio => "stdio",
            }
            .to_owned(),
            base_path: binding.base_path.clone(),
            dcc: binding.dcc.clone(),
            capabilities: binding.capabilities.clone(),
            expose_all: binding.expose_all,
            away_since: binding.away_since,
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes a reference.
fn is_false(value: &bool) -> bool {
    !*value
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    HEX.decode(text.as_bytes()).ok()?.try_into().ok()
}
