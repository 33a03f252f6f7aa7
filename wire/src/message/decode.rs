//! Reads control messages from a peer: verifies them, and checks each field against its limit.

use flatbuffers::{Follow, Verifiable, VerifierOptions, root_with_opts};

use super::{
    AgentHello, Bulk, BulkNonce, GoAway, Granted, Lost, Mode, Open, Refusal, Register, RegisterAck,
    RelayHello, Scheme, Token, Withdrawal,
};
use crate::error::Error;
use crate::generated as table;
use crate::ids::{AgentKey, Generation, InstanceId, MachineId, SessionId, TunnelId};
use crate::limits::{
    CAPABILITIES_MAX, CAPABILITY_BYTES_MAX, LOST_SESSIONS_MAX, STRING_BYTES_MAX, TABLE_BYTES_MAX,
    TABLE_DEPTH_MAX, TABLES_MAX, TOKEN_BYTES_MAX, URL_BYTES_MAX, URLS_MAX,
};
use crate::reason::{LinkEnd, RefusalReason};

/// A message that can be read from a table.
pub(crate) trait Decode: Sized {
    /// Reads the message.
    ///
    /// # Errors
    /// [`LinkEnd::Table`]; the link must be closed.
    fn decode(bytes: &[u8]) -> Result<Self, Error>;
}

fn root<'a, T>(bytes: &'a [u8]) -> Result<T::Inner, Error>
where
    T: Follow<'a> + Verifiable + 'a,
{
    let options = VerifierOptions {
        max_depth: TABLE_DEPTH_MAX,
        max_tables: TABLES_MAX,
        max_apparent_size: TABLE_BYTES_MAX as usize * 2,
        ignore_missing_null_terminator: false,
    };
    root_with_opts::<T>(&options, bytes).map_err(|error| bad(error.to_string()))
}

fn bad(detail: impl Into<String>) -> Error {
    Error::peer(LinkEnd::Table, detail)
}

fn text(what: &str, value: Option<&str>, longest: usize) -> Result<String, Error> {
    let value = value.unwrap_or_default();
    if value.len() > longest {
        return Err(bad(format!(
            "{what} has {} bytes, the limit is {longest}",
            value.len()
        )));
    }
    // Texts reach logs, headers and terminals.
    if value.chars().any(char::is_control) {
        return Err(bad(format!("{what} contains a control character")));
    }
    Ok(value.to_owned())
}

fn tunnel(value: Option<&str>) -> Result<TunnelId, Error> {
    TunnelId::parse(value.unwrap_or_default()).map_err(|error| bad(error.to_string()))
}

fn array<const N: usize>(
    what: &str,
    value: Option<flatbuffers::Vector<'_, u8>>,
) -> Result<[u8; N], Error> {
    value
        .and_then(|vector| vector.bytes().try_into().ok())
        .ok_or_else(|| bad(format!("{what} is not {N} bytes")))
}

/// Like [`array`], for a field that may be absent.
fn optional_array<const N: usize>(
    what: &str,
    value: Option<flatbuffers::Vector<'_, u8>>,
) -> Result<Option<[u8; N]>, Error> {
    value.map(|value| array(what, Some(value))).transpose()
}

impl Decode for RelayHello {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let hello = root::<table::Hello<'_>>(bytes)?;
        Ok(Self {
            nonce: array("nonce", hello.nonce())?,
            version_min: hello.version_min(),
            version_max: hello.version_max(),
            relay_version: text("software", hello.software(), STRING_BYTES_MAX)?,
            sessions_max: hello.sessions_max(),
            exporter: optional_array("exporter", hello.exporter())?,
        })
    }
}

impl Decode for AgentHello {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let hello = root::<table::Hello<'_>>(bytes)?;
        if hello.version_min() != hello.version_max() {
            return Err(bad("an agent's hello does not choose a version"));
        }
        Ok(Self {
            version: hello.version_max(),
            key: AgentKey::new(array("key", hello.key())?),
            machine: MachineId::new(array("machine", hello.machine())?),
            instance: InstanceId::new(array("instance", hello.instance())?),
            link_index: hello.link_index(),
            links: hello.links(),
            relay_name: text("relay name", hello.relay_name(), STRING_BYTES_MAX)?,
            agent_version: text("software", hello.software(), STRING_BYTES_MAX)?,
            signature: array("signature", hello.signature())?,
            bound_signature: optional_array("bound signature", hello.bound_signature())?,
        })
    }
}

impl Decode for Register {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let register = root::<table::Register<'_>>(bytes)?;
        let words = register.capabilities().unwrap_or_default();
        if words.len() > CAPABILITIES_MAX {
            return Err(bad(format!(
                "{} capabilities, the limit is {CAPABILITIES_MAX}",
                words.len()
            )));
        }
        let capabilities = words
            .iter()
            .map(|word| text("capability", Some(word), CAPABILITY_BYTES_MAX))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            request: register.request(),
            name: register
                .name()
                .map(|name| text("name", Some(name), STRING_BYTES_MAX))
                .transpose()?,
            label: text("label", register.label(), STRING_BYTES_MAX)?,
            scheme: match register.scheme() {
                table::Scheme::Tcp => Scheme::Tcp,
                table::Scheme::Http => Scheme::Http,
                table::Scheme::Https => Scheme::Https,
                table::Scheme::Stdio => Scheme::Stdio,
                other => return Err(bad(format!("unknown scheme {}", other.0))),
            },
            authority: text("authority", register.authority(), STRING_BYTES_MAX)?,
            base_path: text("base path", register.base_path(), STRING_BYTES_MAX)?,
            dcc: text("dcc", register.dcc(), STRING_BYTES_MAX)?,
            capabilities,
            token: Token::new(text("token", register.token(), TOKEN_BYTES_MAX)?),
            expose_all: register.expose_all(),
        })
    }
}

/// Meaning of a `RegisterAck` table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Acked {
    Answered(RegisterAck),
    Withdrawn(Withdrawal),
}

impl Decode for Acked {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let ack = root::<table::RegisterAck<'_>>(bytes)?;
        let request = ack.request();
        let outcome = if ack.reason() == 0 {
            let urls = ack.urls().unwrap_or_default();
            if urls.len() > URLS_MAX {
                return Err(bad(format!("{} URLs, the limit is {URLS_MAX}", urls.len())));
            }
            Ok(Granted {
                tunnel: tunnel(ack.tunnel())?,
                urls: urls
                    .iter()
                    .map(|url| text("URL", Some(url), URL_BYTES_MAX))
                    .collect::<Result<_, _>>()?,
                generation: Generation(ack.generation()),
                heartbeat_ms: ack.heartbeat_ms(),
                expires_in_s: ack.expires_in_s(),
            })
        } else {
            let refusal = Refusal {
                reason: RefusalReason::from_code(ack.reason()),
                message: text("message", ack.message(), STRING_BYTES_MAX)?,
            };
            // A refused registration has no tunnel name yet, so a name means a withdrawal.
            if ack.tunnel().is_some_and(|name| !name.is_empty()) {
                return Ok(Self::Withdrawn(Withdrawal {
                    request,
                    tunnel: tunnel(ack.tunnel())?,
                    refusal,
                }));
            }
            Err(refusal)
        };
        Ok(Self::Answered(RegisterAck { request, outcome }))
    }
}

impl Decode for Open {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let open = root::<table::Open<'_>>(bytes)?;
        Ok(Self {
            tunnel: tunnel(open.tunnel())?,
            mode: match open.mode() {
                table::Mode::Bytes => Mode::Bytes,
                table::Mode::Messages => Mode::Messages,
                other => return Err(bad(format!("unknown mode {}", other.0))),
            },
        })
    }
}

impl Decode for GoAway {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let away = root::<table::GoAway<'_>>(bytes)?;
        Ok(Self {
            last_session: away.last_session(),
            reason: LinkEnd::from_code(away.reason()),
            deadline_ms: away.deadline_ms(),
            message: text("message", away.message(), STRING_BYTES_MAX)?,
        })
    }
}

impl Decode for BulkNonce {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        array("nonce", root::<table::BulkOffer<'_>>(bytes)?.nonce()).map(Self::new)
    }
}

impl Decode for Bulk {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let bytes_total = root::<table::Bulk<'_>>(bytes)?.bytes_total();
        Ok(Self { bytes_total })
    }
}

impl Decode for Lost {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let lost = root::<table::Lost<'_>>(bytes)?;
        let (ids, received) = (
            lost.sessions().unwrap_or_default(),
            lost.received().unwrap_or_default(),
        );
        if ids.len() != received.len() || ids.len() > LOST_SESSIONS_MAX {
            return Err(bad(format!(
                "a lost link lists {} sessions and {} counts, the limit is {LOST_SESSIONS_MAX}",
                ids.len(),
                received.len()
            )));
        }
        let last_session = lost.last_session();
        let sessions: Vec<_> = ids.iter().map(SessionId).zip(received.iter()).collect();
        let is_rising = sessions.is_sorted_by(|one, next| one.0 < next.0);
        let (first, last) = (sessions.first(), sessions.last());
        if !is_rising
            || first.is_some_and(|it| it.0.0 == 0)
            || last.is_some_and(|it| it.0.0 > last_session)
        {
            return Err(bad("sessions of a lost link are out of order or range"));
        }
        Ok(Self {
            nonce: array("nonce", lost.nonce())?,
            last_session: SessionId(last_session),
            sessions,
        })
    }
}

impl Decode for super::Opened {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        root::<table::Opened<'_>>(bytes).map(|_| Self)
    }
}

/// An agent gives up this tunnel.
pub(crate) struct Unregistered(pub(crate) TunnelId);

impl Decode for Unregistered {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        tunnel(root::<table::Unregister<'_>>(bytes)?.tunnel()).map(Self)
    }
}
