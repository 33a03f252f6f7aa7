//! An agent that drives the wire protocol directly: fast enough to race for names, and able to violate
//! every rule.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::{Bytes, BytesMut};
use tieline_wire::{
    AgentHello, AgentKey, Event, GoAway, Granted, InstanceId, LinkEnd, MachineId, Moment, Mux,
    Refusal, Register, RelayHello, Scheme, SessionId, Settings, Transmit, TunnelId,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::soon;

/// Largest single read, in bytes.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Identity of an agent, which decides the tunnels it may hold: its key and its claimed machine id.
#[derive(Debug)]
pub struct WireKey {
    pair: Ed25519KeyPair,
    machine: MachineId,
}

impl WireKey {
    /// A new key.
    ///
    /// # Errors
    /// The system provides no random numbers.
    pub fn new() -> Result<Self> {
        let mut seed = [0; 32];
        SystemRandom::new()
            .fill(&mut seed)
            .map_err(|_| anyhow!("no random numbers"))?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| anyhow!("no key"))?;
        Ok(Self {
            pair,
            machine: MachineId::new([7; 16]),
        })
    }

    /// The same key on another machine.
    #[must_use]
    pub fn on_machine(self, machine: [u8; 16]) -> Self {
        Self {
            machine: MachineId::new(machine),
            ..self
        }
    }

    /// Name that the tunnel of the target `label` gets if the agent requests no name.
    #[must_use]
    pub fn derived_name(&self, label: &str) -> TunnelId {
        TunnelId::derive(&self.public(), &self.machine, label)
    }

    /// Public key.
    ///
    /// # Panics
    /// Never: an Ed25519 key has 32 bytes.
    #[must_use]
    pub fn public(&self) -> AgentKey {
        let bytes = self.pair.public_key().as_ref();
        AgentKey::new(bytes.try_into().expect("an Ed25519 key has 32 bytes"))
    }

    /// The agent's hello for the run `instance`, in answer to the relay's hello.
    ///
    /// # Panics
    /// Never: an Ed25519 signature has 64 bytes.
    #[must_use]
    pub fn hello(&self, relay: &RelayHello, relay_name: &str, instance: u128) -> AgentHello {
        self.hello_of_link(relay, relay_name, instance, (0, 1))
    }

    /// The agent's hello on one of several links: (link index, number of links).
    ///
    /// # Panics
    /// Never: an Ed25519 signature has 64 bytes.
    #[must_use]
    pub fn hello_of_link(
        &self,
        relay: &RelayHello,
        relay_name: &str,
        instance: u128,
        (link_index, links): (u16, u16),
    ) -> AgentHello {
        let mut hello = AgentHello {
            version: relay.choose_version().unwrap_or(1),
            key: self.public(),
            machine: self.machine,
            instance: InstanceId::new(instance.to_le_bytes()),
            link_index,
            links,
            relay_name: relay_name.to_owned(),
            agent_version: "test/1".to_owned(),
            signature: [0; 64],
            bound_signature: None,
        };
        let signature = self.pair.sign(&hello.transcript(&relay.nonce));
        hello.signature = signature
            .as_ref()
            .try_into()
            .expect("an Ed25519 signature has 64 bytes");
        hello
    }
}

/// One link to a relay, driven by the test.
#[derive(Debug)]
pub struct WireAgent {
    stream: TcpStream,
    /// Protocol state of the link.
    pub mux: Mux,
    input: Bytes,
    out: Transmit,
    started_at: Instant,
}

impl WireAgent {
    /// Connects, sends the preface and reads the relay's hello.
    ///
    /// # Errors
    /// The relay cannot be reached, or sends no hello.
    pub async fn greeted(relay: SocketAddr) -> Result<(Self, RelayHello)> {
        let stream = TcpStream::connect(relay).await?;
        stream.set_nodelay(true)?;
        // A long timeout of this agent's own, so that only the relay's timeouts take effect.
        let settings = Settings {
            stale: Duration::from_secs(3600),
            ..Settings::default()
        };
        let mut agent = Self {
            stream,
            mux: Mux::agent(settings, Moment::default()),
            input: Bytes::new(),
            out: Transmit::new(),
            started_at: Instant::now(),
        };
        match agent.event().await? {
            Some(Event::RelayHello(hello)) => Ok((agent, hello)),
            other => bail!("expected the relay's hello, got {other:?}"),
        }
    }

    /// Opens a link of the run `instance` of the agent with this key.
    ///
    /// # Errors
    /// The relay cannot be reached, or sends no hello.
    pub async fn dial(relay: SocketAddr, key: &WireKey, instance: u128) -> Result<Self> {
        let (mut agent, hello) = Self::greeted(relay).await?;
        let hello = key.hello(&hello, &relay.to_string(), instance);
        agent.mux.hello(&hello);
        agent.flush().await?;
        Ok(agent)
    }

    /// Requests a tunnel and does not wait for the answer.
    ///
    /// # Errors
    /// The link is closed.
    pub async fn ask(&mut self, name: Option<&str>) -> Result<()> {
        self.mux.register(&registration(name));
        self.flush().await
    }

    /// Requests a tunnel and waits for the answer.
    ///
    /// # Errors
    /// The link ended before the answer.
    pub async fn register(&mut self, name: Option<&str>) -> Result<Result<Granted, Refusal>> {
        self.ask_for(&registration(name)).await
    }

    /// Sends `register` and waits for the answer.
    ///
    /// # Errors
    /// The link ended before the answer.
    pub async fn ask_for(&mut self, register: &Register) -> Result<Result<Granted, Refusal>> {
        self.mux.register(register);
        self.flush().await?;
        loop {
            match self.event().await?.context("closed without an answer")? {
                Event::RegisterAck(ack) => return Ok(ack.outcome),
                Event::GoAway(away) => bail!("the relay sent {away:?}"),
                _ => {}
            }
        }
    }

    /// Opens a link and registers a tunnel called `name`.
    ///
    /// # Errors
    /// The link failed, or the relay refused the tunnel.
    pub async fn registered(relay: SocketAddr, key: &WireKey, name: &str) -> Result<Self> {
        let mut agent = Self::dial(relay, key, 1).await?;
        agent.register(Some(name)).await??;
        Ok(agent)
    }

    /// Reads the next event; `None` if the relay has closed the link.
    ///
    /// # Errors
    /// The relay violated the protocol, or no event comes in time.
    pub async fn event(&mut self) -> Result<Option<Event>> {
        soon("an event on the link", self.next_event()).await?
    }

    async fn next_event(&mut self) -> Result<Option<Event>> {
        loop {
            let now = self.now();
            if let Some(event) = self.mux.handle_input(now, &mut self.input)? {
                return Ok(Some(event));
            }
            // A failed write is ignored: the relay may have closed the link with its last frames still unread.
            let _gone = self.flush().await;
            let mut buffer = BytesMut::with_capacity(READ_BYTES_MAX);
            match self.stream.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => self.input = buffer.freeze(),
            }
        }
    }

    /// Reads until a session opens.
    ///
    /// # Errors
    /// The link ends first.
    pub async fn opened(&mut self) -> Result<SessionId> {
        loop {
            match self.event().await?.context("closed before a session")? {
                Event::Open { session, .. } => return Ok(session),
                Event::GoAway(away) => bail!("the relay sent {away:?}"),
                _ => {}
            }
        }
    }

    /// Reads to the end of the link; returns the relay's GOAWAY, if there was one.
    ///
    /// # Errors
    /// The relay does not close the link.
    pub async fn farewell(&mut self) -> Result<Option<GoAway>> {
        let mut farewell = None;
        while let Some(event) = self.event().await? {
            if let Event::GoAway(away) = event {
                farewell = Some(away);
            }
        }
        Ok(farewell)
    }

    /// Reason of the GOAWAY with which the relay closed the link.
    ///
    /// # Errors
    /// The relay does not close the link, or closes it without GOAWAY.
    pub async fn reason(&mut self) -> Result<LinkEnd> {
        let away = self.farewell().await?;
        Ok(away
            .context("the relay closed the link without GOAWAY")?
            .reason)
    }

    /// Answers every session with `text`, finishes it and discards its input, until the relay closes
    /// the link. Passes each event to `heard` first.
    ///
    /// # Errors
    /// The relay violated the protocol.
    pub async fn answer_with(
        mut self,
        text: &str,
        mut heard: impl FnMut(&Event),
    ) -> Result<Option<GoAway>> {
        let text = Bytes::copy_from_slice(text.as_bytes());
        let mut farewell = None;
        // No time limit, because an agent may have to hold its name for long.
        while let Some(event) = self.next_event().await? {
            heard(&event);
            match event {
                Event::Open { session, .. } => {
                    self.mux.opened(session);
                    self.mux.send(session, text.clone(), false)?;
                    self.mux.finish(session);
                }
                Event::Data {
                    session, payload, ..
                } => self.mux.consumed(session, payload.len()),
                Event::GoAway(away) => farewell = Some(away),
                _ => {}
            }
        }
        Ok(farewell)
    }

    /// Sends raw bytes after the frames that the mux has queued.
    ///
    /// # Errors
    /// The link is closed.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.flush().await?;
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Sends the frames that the mux has queued.
    ///
    /// # Errors
    /// The link is closed.
    pub async fn flush(&mut self) -> Result<()> {
        loop {
            self.mux.poll_transmit(self.now(), &mut self.out);
            if self.out.is_empty() {
                return Ok(());
            }
            let slices = self.out.slices();
            let sent = self.stream.write_vectored(&slices).await?;
            self.out.advance(sent);
        }
    }

    fn now(&self) -> Moment {
        Moment::default() + self.started_at.elapsed()
    }
}

/// Registration of a raw TCP tunnel.
#[must_use]
pub fn registration(name: Option<&str>) -> Register {
    Register {
        request: 1,
        name: name.map(str::to_owned),
        label: "test".to_owned(),
        scheme: Scheme::Tcp,
        authority: "127.0.0.1:1".to_owned(),
        ..Register::default()
    }
}
