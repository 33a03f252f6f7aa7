//! Writes control messages as FlatBuffers tables.

use std::fmt;

use flatbuffers::{FlatBufferBuilder, ForwardsUOffset, UnionWIPOffset, Vector, WIPOffset};

use super::{
    AgentHello, BulkNonce, GoAway, Lost, Mode, Open, Refusal, Register, RegisterAck, RelayHello,
    Scheme, Withdrawal,
};
use crate::generated as table;
use crate::ids::TunnelId;
use crate::limits::{STRING_BYTES_MAX, URLS_MAX};

type Builder = FlatBufferBuilder<'static>;
type Root = WIPOffset<UnionWIPOffset>;
type List = WIPOffset<Vector<'static, ForwardsUOffset<&'static str>>>;

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
    /// Writes the table and returns its offset. The order in which strings and vectors are created is that of the
    /// bytes.
    fn build(&self, builder: &mut Builder) -> Root;
}

impl Message for RelayHello {
    fn build(&self, builder: &mut Builder) -> Root {
        let args = table::HelloArgs {
            version_min: self.version_min,
            version_max: self.version_max,
            nonce: Some(builder.create_vector(&self.nonce)),
            sessions_max: self.sessions_max,
            software: Some(builder.create_string(&line(&self.relay_version))),
            exporter: self.exporter.map(|it| builder.create_vector(&it)),
            ..Default::default()
        };
        table::Hello::create(builder, &args).as_union_value()
    }
}

impl Message for AgentHello {
    fn build(&self, builder: &mut Builder) -> Root {
        let args = table::HelloArgs {
            version_min: self.version,
            version_max: self.version,
            software: Some(builder.create_string(&self.agent_version)),
            key: Some(builder.create_vector(self.key.as_bytes())),
            machine: Some(builder.create_vector(self.machine.as_bytes())),
            instance: Some(builder.create_vector(self.instance.as_bytes())),
            link_index: self.link_index,
            links: self.links,
            relay_name: Some(builder.create_string(&self.relay_name)),
            signature: Some(builder.create_vector(&self.signature)),
            bound_signature: self.bound_signature.map(|it| builder.create_vector(&it)),
            ..Default::default()
        };
        table::Hello::create(builder, &args).as_union_value()
    }
}

impl Message for Register {
    fn build(&self, builder: &mut Builder) -> Root {
        let args = table::RegisterArgs {
            request: self.request,
            name: self.name.as_ref().map(|name| builder.create_string(name)),
            label: Some(builder.create_string(&self.label)),
            scheme: match self.scheme {
                Scheme::Tcp => table::Scheme::Tcp,
                Scheme::Http => table::Scheme::Http,
                Scheme::Https => table::Scheme::Https,
                Scheme::Stdio => table::Scheme::Stdio,
            },
            authority: Some(builder.create_string(&self.authority)),
            base_path: Some(builder.create_string(&self.base_path)),
            dcc: Some(builder.create_string(&self.dcc)),
            capabilities: Some(list(builder, &self.capabilities)),
            token: Some(builder.create_string(self.token.reveal())),
            expose_all: self.expose_all,
        };
        table::Register::create(builder, &args).as_union_value()
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
                let count = granted.urls.len().min(URLS_MAX);
                args.urls = Some(list(builder, &granted.urls[..count]));
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

fn list(builder: &mut Builder, texts: &[String]) -> List {
    let texts: Vec<_> = texts
        .iter()
        .map(|text| builder.create_string(text))
        .collect();
    builder.create_vector(&texts)
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
        let tunnel = Some(builder.create_string(self.0.as_str()));
        table::Unregister::create(builder, &table::UnregisterArgs { tunnel }).as_union_value()
    }
}

impl Message for Open {
    fn build(&self, builder: &mut Builder) -> Root {
        let args = table::OpenArgs {
            tunnel: Some(builder.create_string(self.tunnel.as_str())),
            mode: match self.mode {
                Mode::Bytes => table::Mode::Bytes,
                Mode::Messages => table::Mode::Messages,
            },
        };
        table::Open::create(builder, &args).as_union_value()
    }
}

/// The relay offers a bulk lane to a session.
pub(crate) struct BulkOffer<'a>(pub(crate) &'a BulkNonce);

impl Message for BulkOffer<'_> {
    fn build(&self, builder: &mut Builder) -> Root {
        let nonce = Some(builder.create_vector(self.0.as_bytes()));
        table::BulkOffer::create(builder, &table::BulkOfferArgs { nonce }).as_union_value()
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
        let args = table::GoAwayArgs {
            last_session: self.last_session,
            reason: self.reason.code(),
            deadline_ms: self.deadline_ms,
            message: Some(builder.create_string(&line(&self.message))),
        };
        table::GoAway::create(builder, &args).as_union_value()
    }
}

impl Message for Lost {
    fn build(&self, builder: &mut Builder) -> Root {
        let (sessions, received): (Vec<u32>, Vec<u64>) =
            self.sessions.iter().map(|it| (it.0.0, it.1)).unzip();
        let args = table::LostArgs {
            nonce: Some(builder.create_vector(&self.nonce)),
            last_session: self.last_session.0,
            sessions: Some(builder.create_vector(&sessions)),
            received: Some(builder.create_vector(&received)),
        };
        table::Lost::create(builder, &args).as_union_value()
    }
}
