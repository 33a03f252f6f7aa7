//! Control messages as Rust values.
//!
//! `encode` writes them as FlatBuffers tables, `decode` verifies and reads a peer's tables.

use std::fmt;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

use crate::ids::{AgentKey, Generation, InstanceId, MachineId, SessionId, TunnelId};
use crate::limits::{LANE_HELLO_BYTES, LANE_PREFACE, VERSION_MAX, VERSION_MIN};
use crate::reason::{LinkEnd, RefusalReason};

mod check;
mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub use check::{FieldError, is_hidden};
pub(crate) use decode::{Acked, Decode, Unregistered};
pub(crate) use encode::{Bulk, BulkOffer, Encoder, Message, Opened, Unregister};

/// A credential; `Debug` hides it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Wraps a token.
    #[must_use]
    pub const fn new(token: String) -> Self {
        Self(token)
    }

    /// The token itself; never log it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// True if there is no token.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() {
            "Token(none)"
        } else {
            "Token(***)"
        })
    }
}

/// Secret that an agent shows on a bulk lane to prove which session the lane is for; valid for one
/// connection.
///
/// `Debug` hides it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BulkNonce([u8; 16]);

impl BulkNonce {
    /// Wraps 16 random bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes themselves; never log them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// First bytes that an agent sends on the lane.
    #[must_use]
    pub fn lane_hello(&self) -> [u8; LANE_HELLO_BYTES] {
        let mut hello = [0; LANE_HELLO_BYTES];
        hello[..LANE_PREFACE.len()].copy_from_slice(&LANE_PREFACE);
        hello[LANE_PREFACE.len()..].copy_from_slice(&self.0);
        hello
    }

    /// The nonce in an agent's first bytes; `None` if they are not a lane hello.
    #[must_use]
    pub fn from_lane_hello(hello: &[u8]) -> Option<Self> {
        let nonce = hello.strip_prefix(&LANE_PREFACE)?;
        nonce.try_into().ok().map(Self)
    }
}

impl fmt::Debug for BulkNonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BulkNonce(***)")
    }
}

/// First message of the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayHello {
    /// Random; the agent signs it, so a signature is valid for one link only.
    pub nonce: [u8; 32],
    /// Lowest handshake version the relay speaks.
    pub version_min: u16,
    /// Highest handshake version the relay speaks.
    pub version_max: u16,
    /// Name and version of the relay's software, for a log.
    pub relay_version: String,
    /// Most sessions that the relay opens on this link at a time.
    pub sessions_max: u32,
    /// Exporter of the TLS connection that the link is in, if the relay ends TLS itself.
    pub exporter: Option<[u8; 32]>,
}

impl RelayHello {
    /// The hello of this build.
    #[must_use]
    pub fn new(nonce: [u8; 32], sessions_max: u32) -> Self {
        Self {
            nonce,
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            relay_version: concat!("tieline-relay/", env!("CARGO_PKG_VERSION")).to_owned(),
            sessions_max,
            exporter: None,
        }
    }

    /// The hello of a relay whose own end of TLS has `exporter`.
    #[must_use]
    pub fn with_exporter(self, exporter: Option<[u8; 32]>) -> Self {
        Self { exporter, ..self }
    }

    /// True if the agent's TLS connection, which has `exporter`, ends at this relay: nothing between them ends TLS.
    #[must_use]
    pub fn is_other_end_of(&self, exporter: Option<[u8; 32]>) -> bool {
        exporter.is_some() && self.exporter == exporter
    }

    /// The highest version that both sides speak.
    #[must_use]
    pub fn choose_version(&self) -> Option<u16> {
        let highest = self.version_max.min(VERSION_MAX);
        (highest >= self.version_min.max(VERSION_MIN)).then_some(highest)
    }

    /// True if an agent may choose `version`.
    pub(crate) fn offers(&self, version: u16) -> bool {
        let lowest = self.version_min.max(VERSION_MIN);
        let highest = self.version_max.min(VERSION_MAX);
        (lowest..=highest).contains(&version)
    }
}

/// First message of an agent: its identity, with a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentHello {
    /// The handshake version that the agent chose.
    pub version: u16,
    /// The agent's public key.
    pub key: AgentKey,
    /// The host that the agent runs on.
    pub machine: MachineId,
    /// This run of the agent's process.
    pub instance: InstanceId,
    /// Index of this link among the agent's links, from 0.
    pub link_index: u16,
    /// How many links the agent intends to hold.
    pub links: u16,
    /// The relay's name as the agent dialled it, so that one relay cannot use a signature that was
    /// made for another.
    pub relay_name: String,
    /// Name and version of the agent's software.
    pub agent_version: String,
    /// Ed25519 signature over [`AgentHello::transcript`].
    pub signature: [u8; 64],
    /// Ed25519 signature over [`AgentHello::bound_transcript`], if the agent's connection has an exporter.
    pub bound_signature: Option<[u8; 64]>,
}

/// Whether an agent's proof is bound to the TLS connection that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// The agent has signed the exporter of this side's connection: nothing between them ends TLS.
    Bound,
    /// The agent has signed no exporter, or this side has none.
    None,
    /// The agent has signed the exporter of another connection: something between them ends TLS.
    Other,
}

impl ChannelBinding {
    /// Stable word for logs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Bound => "bound",
            Self::None => "none",
            Self::Other => "other",
        }
    }
}

impl AgentHello {
    /// The bytes that the agent signs, for the relay's nonce.
    #[must_use]
    pub fn transcript(&self, nonce: &[u8; 32]) -> Vec<u8> {
        self.signed(b"tieline agent hello 1\0".to_vec(), nonce)
    }

    /// The bytes that the agent signs besides, for the relay's nonce and the `exporter` of its TLS connection.
    #[must_use]
    pub fn bound_transcript(&self, nonce: &[u8; 32], exporter: &[u8; 32]) -> Vec<u8> {
        let mut bytes = b"tieline bound agent hello 1\0".to_vec();
        bytes.extend_from_slice(exporter);
        self.signed(bytes, nonce)
    }

    /// The fields that both signatures cover, behind `bytes`.
    fn signed(&self, mut bytes: Vec<u8>, nonce: &[u8; 32]) -> Vec<u8> {
        bytes.extend_from_slice(nonce);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&self.link_index.to_le_bytes());
        bytes.extend_from_slice(&self.links.to_le_bytes());
        bytes.extend_from_slice(self.machine.as_bytes());
        bytes.extend_from_slice(self.instance.as_bytes());
        for text in [&self.relay_name, &self.agent_version] {
            bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`LinkEnd::BadSignature`].
    pub fn verify(&self, nonce: &[u8; 32]) -> Result<(), LinkEnd> {
        // `ring` accepts weak keys, as RFC 8032 allows; for them a signature of any message can be forged.
        if self.key.is_weak() {
            return Err(LinkEnd::BadSignature);
        }
        match self.has_signed(&self.transcript(nonce), &self.signature) {
            true => Ok(()),
            false => Err(LinkEnd::BadSignature),
        }
    }

    /// Whether the proof is bound to the connection whose exporter is `exporter` on this side; of a hello that was
    /// verified for `nonce`.
    #[must_use]
    pub fn binding(&self, nonce: &[u8; 32], exporter: Option<&[u8; 32]>) -> ChannelBinding {
        let (Some(exporter), Some(signature)) = (exporter, &self.bound_signature) else {
            return ChannelBinding::None;
        };
        match self.has_signed(&self.bound_transcript(nonce, exporter), signature) {
            true => ChannelBinding::Bound,
            false => ChannelBinding::Other,
        }
    }

    fn has_signed(&self, transcript: &[u8], signature: &[u8; 64]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, self.key.as_bytes());
        key.verify(transcript, signature).is_ok()
    }
}

/// Protocol between an agent and its target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// Bytes over TCP.
    #[default]
    Tcp,
    /// HTTP over TCP.
    Http,
    /// HTTP over TLS.
    Https,
    /// MCP over the standard streams of a program: the agent serves HTTP, and bridges to the program.
    Stdio,
}

/// An agent's request to publish one target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Register {
    /// Number of the request; the acknowledgement repeats it.
    pub request: u32,
    /// The requested name; without it the relay derives one.
    pub name: Option<String>,
    /// Tells the targets of one machine apart; part of a derived name.
    pub label: String,
    /// How the agent speaks to the target.
    pub scheme: Scheme,
    /// The target's host and port, as in a `Host` header and in a URL; the port may be left out.
    pub authority: String,
    /// The path at which the target serves MCP; [`Register::is_base_path`] says which are valid.
    pub base_path: String,
    /// The kind of application, such as `maya`, or empty: a segment of URLs.
    pub dcc: String,
    /// Capabilities of the target, as words that the relay passes on.
    pub capabilities: Vec<String>,
    /// The credential, if the relay requires one.
    pub token: Token,
    /// Callers may use every path of an HTTP target, not only those under `base_path`.
    pub expose_all: bool,
}

/// The relay's answer to [`Register`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterAck {
    /// Number of the answered request.
    pub request: u32,
    /// The published tunnel, or why it was refused.
    pub outcome: Result<Granted, Refusal>,
}

/// A published tunnel: its URLs work on every shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The tunnel's name.
    pub tunnel: TunnelId,
    /// The tunnel's public URLs.
    pub urls: Vec<String>,
    /// Voids every older claim to the name.
    pub generation: Generation,
    /// Longest interval between bytes from the agent, in milliseconds; a third of the stale timeout.
    pub heartbeat_ms: u32,
    /// Seconds until the relay ends the tunnel unless it is registered again; 0: never.
    pub expires_in_s: u32,
}

/// A refused registration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind of refusal; [`RefusalReason::is_final`] says whether a retry can help.
    pub reason: RefusalReason,
    /// Message for the agent's operator.
    pub message: String,
}

impl Refusal {
    /// A refusal with a message of its own.
    #[must_use]
    pub fn new(reason: RefusalReason, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { reason, message }
    }

    /// A refusal with the sentence of its reason as the message.
    #[must_use]
    pub fn standard(reason: RefusalReason) -> Self {
        Self::new(reason, reason.to_string())
    }
}

/// The relay takes back a tunnel that it granted, unasked: not an answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withdrawal {
    /// Number of the registration that was granted last.
    pub request: u32,
    /// The tunnel that the relay takes back.
    pub tunnel: TunnelId,
    /// Reason for the withdrawal; [`RefusalReason::is_final`] says whether another registration can help.
    pub refusal: Refusal,
}

/// The relay's request to open a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The tunnel of this link that the session is for.
    pub tunnel: TunnelId,
    /// Whether the ends of messages matter.
    pub mode: Mode,
}

/// Meaning of a session's `Data` frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A stream of bytes.
    #[default]
    Bytes,
    /// Messages, each ended by a flag.
    Messages,
}

/// Announces that the sender will close the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoAway {
    /// Highest session id that the sender has seen.
    pub last_session: u32,
    /// Reason for the close.
    pub reason: LinkEnd,
    /// Time that running sessions have left, in milliseconds.
    pub deadline_ms: u32,
    /// Message for the operator, or empty.
    pub message: String,
}

/// Bytes that had reached an agent over a lost link; reported over the next link of the same run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The relay's nonce on the lost link.
    pub nonce: [u8; 32],
    /// The highest session id that the agent had seen opened on the lost link.
    pub last_session: SessionId,
    /// Sessions that were open when the link was lost, in rising order, with the payload bytes of each
    /// that had arrived. Sessions that had ended, or that went over a lane, are left out.
    pub sessions: Vec<(SessionId, u64)>,
}

impl Lost {
    /// Payload bytes of `session` that had reached the agent; `None` if the report does not say.
    #[must_use]
    pub fn received(&self, session: SessionId) -> Option<u64> {
        if session > self.last_session {
            return Some(0);
        }
        let place = self.sessions.binary_search_by_key(&session, |it| it.0);
        place.ok().map(|place| self.sessions[place].1)
    }
}
