//! An agent that speaks the protocol itself: quick enough to race for names, and free to break
//! every rule.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bytes::{Bytes, BytesMut};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use tieline_wire::{
    AgentHello, AgentKey, Event, GoAway, Granted, InstanceId, MachineId, Moment, Mux, Reason,
    Refusal, Register, RelayHello, Scheme, SessionId, Settings, Transmit, TunnelId,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::soon;

/// Largest single read, in bytes.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Which tunnels an agent may hold: its key, and the machine that it claims to run on.
#[derive(Debug)]
pub struct WireKey {
    pair: Ed25519KeyPair,
    machine: MachineId,
}

impl WireKey {
    /// A new key.
    ///
    /// # Errors
    /// The system has no random numbers.
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

    /// The name that its target called `label` has if it asks for none.
    #[must_use]
    pub fn derived_name(&self, label: &str) -> TunnelId {
        TunnelId::derive(&self.public(), &self.machine, label)
    }

    /// The public half.
    ///
    /// # Panics
    /// Never: an Ed25519 key has 32 bytes.
    #[must_use]
    pub fn public(&self) -> AgentKey {
        let bytes = self.pair.public_key().as_ref();
        AgentKey::new(bytes.try_into().expect("an Ed25519 key has 32 bytes"))
    }

    /// The hello of the run `instance`, in answer to the relay's.
    ///
    /// # Panics
    /// Never: an Ed25519 signature has 64 bytes.
    #[must_use]
    pub fn hello(&self, relay: &RelayHello, relay_name: &str, instance: u128) -> AgentHello {
        self.hello_of_link(relay, relay_name, instance, (0, 1))
    }

    /// The same for one of several links: its index, and how many there are.
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
    /// The link's state.
    pub mux: Mux,
    input: Bytes,
    out: Transmit,
    started_at: Instant,
}

impl WireAgent {
    /// A connection that has sent its preface and read the relay's hello.
    ///
    /// # Errors
    /// The relay cannot be reached, or does not introduce itself.
    pub async fn greeted(relay: SocketAddr) -> Result<(Self, RelayHello)> {
        let stream = TcpStream::connect(relay).await?;
        stream.set_nodelay(true)?;
        // The deadlines are the relay's business.
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
            other => bail!("a hello was due, not {other:?}"),
        }
    }

    /// A link of the run `instance` of the agent that holds `key`.
    ///
    /// # Errors
    /// The relay cannot be reached, or does not introduce itself.
    pub async fn dial(relay: SocketAddr, key: &WireKey, instance: u128) -> Result<Self> {
        let (mut agent, hello) = Self::greeted(relay).await?;
        let hello = key.hello(&hello, &relay.to_string(), instance);
        agent.mux.hello(&hello);
        agent.flush().await?;
        Ok(agent)
    }

    /// Asks for a tunnel, without waiting for the answer.
    ///
    /// # Errors
    /// The link is gone.
    pub async fn ask(&mut self, name: Option<&str>) -> Result<()> {
        self.mux.register(&registration(name));
        self.flush().await
    }

    /// Asks for a tunnel.
    ///
    /// # Errors
    /// The link ended before the answer.
    pub async fn register(&mut self, name: Option<&str>) -> Result<Result<Granted, Refusal>> {
        self.ask_for(&registration(name)).await
    }

    /// Asks for what `register` says.
    ///
    /// # Errors
    /// The link ended before the answer.
    pub async fn ask_for(&mut self, register: &Register) -> Result<Result<Granted, Refusal>> {
        self.mux.register(register);
        self.flush().await?;
        loop {
            match self.event().await?.context("closed without an answer")? {
                Event::RegisterAck(ack) => return Ok(ack.outcome),
                Event::GoAway(away) => bail!("the relay says {away:?}"),
                _ => {}
            }
        }
    }

    /// A link with a tunnel called `name`.
    ///
    /// # Errors
    /// There is none.
    pub async fn registered(relay: SocketAddr, key: &WireKey, name: &str) -> Result<Self> {
        let mut agent = Self::dial(relay, key, 1).await?;
        agent.register(Some(name)).await??;
        Ok(agent)
    }

    /// The next event; `None` once the relay has closed the link.
    ///
    /// # Errors
    /// The relay broke the protocol, or nothing comes for too long.
    pub async fn event(&mut self) -> Result<Option<Event>> {
        soon("an event of the link", self.next_event()).await?
    }

    async fn next_event(&mut self) -> Result<Option<Event>> {
        loop {
            let now = self.now();
            if let Some(event) = self.mux.handle_input(now, &mut self.input)? {
                return Ok(Some(event));
            }
            // The relay may be gone and its last words still here.
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
    /// The link ends before.
    pub async fn opened(&mut self) -> Result<SessionId> {
        loop {
            match self.event().await?.context("closed before a session")? {
                Event::Open { session, .. } => return Ok(session),
                Event::GoAway(away) => bail!("the relay says {away:?}"),
                _ => {}
            }
        }
    }

    /// Reads to the end of the link: what the relay said before it closed.
    ///
    /// # Errors
    /// The relay does not close it.
    pub async fn farewell(&mut self) -> Result<Option<GoAway>> {
        let mut said = None;
        while let Some(event) = self.event().await? {
            if let Event::GoAway(away) = event {
                said = Some(away);
            }
        }
        Ok(said)
    }

    /// The reason that the relay closed the link with.
    ///
    /// # Errors
    /// The relay does not close it, or closes it without a word.
    pub async fn reason(&mut self) -> Result<Reason> {
        let away = self.farewell().await?;
        Ok(away.context("the relay closed the link silently")?.reason)
    }

    /// Answers every session with `text`, reads nothing, and ends each in order; until the relay
    /// closes the link. Each event is shown to `heard` first.
    ///
    /// # Errors
    /// The relay broke the protocol.
    pub async fn answer_with(
        mut self,
        text: &str,
        mut heard: impl FnMut(&Event),
    ) -> Result<Option<GoAway>> {
        let text = Bytes::copy_from_slice(text.as_bytes());
        let mut said = None;
        // No limit: an agent that holds a name may wait for long.
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
                Event::GoAway(away) => said = Some(away),
                _ => {}
            }
        }
        Ok(said)
    }

    /// Sends bytes past the mux, behind what it has to say.
    ///
    /// # Errors
    /// The link is gone.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.flush().await?;
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Sends what the mux has to say.
    ///
    /// # Errors
    /// The link is gone.
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

/// Asks for a raw TCP tunnel.
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
