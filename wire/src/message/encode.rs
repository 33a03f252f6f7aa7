//! Writes control messages as FlatBuffers tables.

use std::fmt;

use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, WIPOffset};

use super::{
    AgentHello, BulkNonce, GoAway, Lost, Mode, Open, Refusal, Register, RegisterAck, RelayHello,
    Scheme, Withdrawal,
};
use crate::generated as table;
use crate::ids::TunnelId;
use crate::limits::{STRING_BYTES_MAX, URLS_MAX};

type Builder = FlatBufferBuilder<'static>;
type Root = WIPOffset<UnionWIPOffset>;

/// A builder that is reused for all messages, so that it keeps its memory.
pub(crate) struct Encoder(FlatBufferBuilder<'static>);

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoder")
    }
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self(FlatBufferBuilder::new())
    }

    /// Writes one message; the bytes are valid until the next call.
    pub(crate) fn encode(&mut self, message: &impl Message) -> &[u8] {
        self.0.reset();
        let root = message.build(&mut self.0);
        self.0.finish_minimal(root);
        self.0.finished_data()
    }
}

/// Makes free text acceptable to the peer: one line, no longer than the limit. The text may contain
/// words of a third party, and must not cost the link.
fn line(text: &str) -> String {
    let longest = text.len().min(STRING_BYTES_MAX);
    let end = (0..=longest).rev().find(|at| text.is_char_boundary(*at));
    // Some control characters take two bytes and a space takes one, so the text does not grow.
    text[..end.unwrap_or(0)].replace(char::is_control, " ")
}

/// A message that is sent as a table.
pub(crate) trait Message {
    /// Writes the table and returns its offset.
    fn build(&self, builder: &mut Builder) -> Root;
}

impl Message for RelayHello {
    fn build(&self, builder: &mut Builder) -> Root {
        let nonce = builder.create_vector(&self.nonce);
        let software = builder.create_string(&line(&self.relay_version));
        table::Hello::create(
            builder,
            &table::HelloArgs {
                version_min: self.version_min,
                version_max: self.version_max,
                nonce: Some(nonce),
                sessions_max: self.sessions_max,
                software: Some(software),
                ..Default::default()
            },
        )
        .as_union_value()
    }
}

impl Message for AgentHello {
    fn build(&self, builder: &mut Builder) -> Root {
        let software = builder.create_string(&self.agent_version);
        let key = builder.create_vector(self.key.as_bytes());
        let machine = builder.create_vector(self.machine.as_bytes());
        let instance = builder.create_vector(self.instance.as_bytes());
        let relay_name = builder.create_string(&self.relay_name);
        let signature = builder.create_vector(&self.signature);
        table::Hello::create(
            builder,
            &table::HelloArgs {
                version_min: self.version,
                version_max: self.version,
                software: Some(software),
                key: Some(key),
                machine: Some(machine),
                instance: Some(instance),
                link_index: self.link_index,
                links: self.links,
                relay_name: Some(relay_name),
                signature: Some(signature),
                ..Default::default()
            },
        )
        .as_union_value()
    }
}

impl Message for Register {
    fn build(&self, builder: &mut Builder) -> Root {
        let name = self.name.as_ref().map(|name| builder.create_string(name));
        let label = builder.create_string(&self.label);
        let authority = builder.create_string(&self.authority);
        let base_path = builder.create_string(&self.base_path);
        let dcc = builder.create_string(&self.dcc);
        let words: Vec<_> = self
            .capabilities
            .iter()
            .map(|word| builder.create_string(word))
            .collect();
        let capabilities = builder.create_vector(&words);
        let token = builder.create_string(self.token.reveal());
        table::Register::create(
            builder,
            &table::RegisterArgs {
                request: self.request,
                name,
                label: Some(label),
                scheme: match self.scheme {
                    Scheme::Tcp => table::Scheme::Tcp,
                    Scheme::Http => table::Scheme::Http,
                    Scheme::Https => table::Scheme::Https,
                },
                authority: Some(authority),
                base_path: Some(base_path),
                dcc: Some(dcc),
                capabilities: Some(capabilities),
                token: Some(token),
                expose_all: self.expose_all,
            },
        )
        .as_union_value()
    }
}

impl Message for RegisterAck {
    fn build(&self, builder: &mut Builder) -> Root {
        let mut args = table::RegisterAckArgs {
            request: self.request,
            ..Default::default()
        };
        match &self.outcome {
            Ok(granted) => {
                args.tunnel = Some(builder.create_string(granted.tunnel.as_str()));
                let urls: Vec<_> = granted
                    .urls
                    .iter()
                    .take(URLS_MAX)
                    .map(|url| builder.create_string(url))
                    .collect();
                args.urls = Some(builder.create_vector(&urls));
                args.generation = granted.generation.0;
                args.heartbeat_ms = granted.heartbeat_ms;
                args.expires_in_s = granted.expires_in_s;
            }
            Err(refusal) => refuse(builder, &mut args, refusal),
        }
        table::RegisterAck::create(builder, &args).as_union_value()
    }
}

impl Message for Withdrawal {
    fn build(&self, builder: &mut Builder) -> Root {
        let mut args = table::RegisterAckArgs {
            request: self.request,
            tunnel: Some(builder.create_string(self.tunnel.as_str())),
            ..Default::default()
        };
        refuse(builder, &mut args, &self.refusal);
        table::RegisterAck::create(builder, &args).as_union_value()
    }
}

fn refuse(builder: &mut Builder, args: &mut table::RegisterAckArgs<'static>, refusal: &Refusal) {
    args.reason = refusal.reason.code();
    args.is_final = refusal.reason.is_final();
    args.message = Some(builder.create_string(&line(&refusal.message)));
}

/// An agent gives up one tunnel.
pub(crate) struct Unregister<'a>(pub(crate) &'a TunnelId);

impl Message for Unregister<'_> {
    fn build(&self, builder: &mut Builder) -> Root {
        let tunnel = builder.create_string(self.0.as_str());
        table::Unregister::create(
            builder,
            &table::UnregisterArgs {
                tunnel: Some(tunnel),
            },
        )
        .as_union_value()
    }
}

impl Message for Open {
    fn build(&self, builder: &mut Builder) -> Root {
        let tunnel = builder.create_string(self.tunnel.as_str());
        let mode = match self.mode {
            Mode::Bytes => table::Mode::Bytes,
            Mode::Messages => table::Mode::Messages,
        };
        table::Open::create(
            builder,
            &table::OpenArgs {
                tunnel: Some(tunnel),
                mode,
            },
        )
        .as_union_value()
    }
}

/// The relay offers a bulk lane to a session.
pub(crate) struct BulkOffer<'a>(pub(crate) &'a BulkNonce);

impl Message for BulkOffer<'_> {
    fn build(&self, builder: &mut Builder) -> Root {
        let nonce = builder.create_vector(self.0.as_bytes());
        table::BulkOffer::create(builder, &table::BulkOfferArgs { nonce: Some(nonce) })
            .as_union_value()
    }
}

/// One direction continues on the session's bulk lane.
pub(crate) struct Bulk {
    pub(crate) bytes_total: u64,
}

impl Message for Bulk {
    fn build(&self, builder: &mut Builder) -> Root {
        let bytes_total = self.bytes_total;
        table::Bulk::create(builder, &table::BulkArgs { bytes_total }).as_union_value()
    }
}

/// The session's target accepted the connection.
pub(crate) struct Opened;

impl Message for Opened {
    fn build(&self, builder: &mut Builder) -> Root {
        table::Opened::create(builder, &table::OpenedArgs {}).as_union_value()
    }
}

impl Message for GoAway {
    fn build(&self, builder: &mut Builder) -> Root {
        let message = builder.create_string(&line(&self.message));
        table::GoAway::create(
            builder,
            &table::GoAwayArgs {
                last_session: self.last_session,
                reason: self.reason.code(),
                deadline_ms: self.deadline_ms,
                message: Some(message),
            },
        )
        .as_union_value()
    }
}

impl Message for Lost {
    fn build(&self, builder: &mut Builder) -> Root {
        let nonce = builder.create_vector(&self.nonce);
        let (sessions, received): (Vec<u32>, Vec<u64>) =
            self.sessions.iter().map(|it| (it.0.0, it.1)).unzip();
        let sessions = builder.create_vector(&sessions);
        let received = builder.create_vector(&received);
        table::Lost::create(
            builder,
            &table::LostArgs {
                nonce: Some(nonce),
                last_session: self.last_session.0,
                sessions: Some(sessions),
                received: Some(received),
            },
        )
        .as_union_value()
    }
}
