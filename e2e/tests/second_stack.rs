//! Callers over QUIC on s2n-quic: an implementation besides quinn-proto, on which relay, agent and the other tests are built.

use anyhow::{Result, bail, ensure};
use s2n_quic::client::Connect;
use s2n_quic::connection::Error as ConnectionError;
use s2n_quic::provider::tls::rustls::Client as Tls;
use s2n_quic::stream::{BidirectionalStream, Error as StreamError, ReceiveStream};
use s2n_quic::{Client, Connection};
use tieline_e2e::behaviour::{
    Digest, PatientTarget, Target, TestAgent, TestCertificate, TestRelay, is_reset, noise,
    read_to_close, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tieline_wire::{CallerRefusal, SessionEnd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

on_each_driver!(
    streams_carry_bytes_side_by_side,
    an_answer_comes_after_the_callers_end,
    resets_pass_in_both_directions,
    a_refused_stream_is_told_why,
    another_protocol_is_refused_in_the_handshake,
);

/// Code of a caller's resets, which has no meaning at the relay.
const CODE: u32 = 4242;

fn relay(driver: DriverChoice, certificate: &TestCertificate) -> Result<TestRelay> {
    let relay = TestRelay::with().driver(driver).shards(2);
    relay.quic(certificate).start()
}

/// A connection, and the client whose socket it uses.
struct Caller {
    connection: Connection,
    _client: Client,
}

impl Caller {
    async fn connect(relay: &TestRelay, certificate: &TestCertificate) -> Result<Self> {
        let attempt = Self::attempt(relay, certificate, "tieline").await?;
        Ok(attempt?)
    }

    /// Connects with `protocol`; the inner error is that of the connection.
    async fn attempt(
        relay: &TestRelay,
        certificate: &TestCertificate,
        protocol: &str,
    ) -> Result<Result<Self, ConnectionError>> {
        let tls = Tls::from(certificate.client(Some(protocol))?);
        let client = Client::builder().with_tls(tls)?;
        let client = client.with_io("127.0.0.1:0")?.start()?;
        let to = Connect::new(relay.quic_address()).with_server_name("localhost");
        let connection = soon("the handshake", client.connect(to)).await?;
        Ok(connection.map(|connection| Self {
            connection,
            _client: client,
        }))
    }

    /// Opens a stream to `tunnel`.
    async fn open(&mut self, tunnel: &str) -> Result<BidirectionalStream> {
        let opened = self.connection.open_bidirectional_stream();
        let mut stream = soon("room for a stream", opened).await??;
        let mut preamble = u16::try_from(tunnel.len())?.to_be_bytes().to_vec();
        preamble.extend_from_slice(tunnel.as_bytes());
        stream.write_all(&preamble).await?;
        Ok(stream)
    }
}

/// Code of the reset with which a stream ends.
async fn reset_code(stream: &mut ReceiveStream) -> Result<u64> {
    loop {
        match soon("a reset", stream.receive()).await? {
            Ok(Some(_)) => {}
            Err(StreamError::StreamReset { error, .. }) => return Ok(error.into()),
            other => bail!("{other:?}"),
        }
    }
}

async fn streams_carry_bytes_side_by_side(driver: DriverChoice) -> Result<()> {
    const LEN: usize = 2 * 1024 * 1024;
    let certificate = TestCertificate::new("relay.test")?;
    let relay = relay(driver, &certificate)?;
    let echo = Target::echo().await?;
    let agent = TestAgent::of(&echo).start(&relay).await?;
    let mut caller = Caller::connect(&relay, &certificate).await?;
    let mut running = Vec::new();
    for seed in 0..4 {
        let stream = caller.open(agent.tunnel()).await?;
        running.push(tokio::spawn(async move {
            let (mut reads, mut writes) = tokio::io::split(stream);
            let sending = async {
                writes.write_all(&noise(seed, LEN)).await?;
                writes.shutdown().await
            };
            let (sent, (heard, end)) = tokio::join!(sending, read_to_close(&mut reads));
            sent?;
            end?;
            anyhow::Ok(heard == Digest::of_noise(seed, LEN))
        }));
    }
    for echoed in running {
        let is_same = soon("an echo", echoed).await???;
        ensure!(is_same);
    }
    relay
        .until("no session", |metrics| metrics.get("relay_sessions") == 0)
        .await?;
    Ok(())
}

async fn an_answer_comes_after_the_callers_end(driver: DriverChoice) -> Result<()> {
    let mut target = PatientTarget::start().await?;
    let certificate = TestCertificate::new("relay.test")?;
    let relay = relay(driver, &certificate)?;
    let agent = TestAgent::of(target.target()).start(&relay).await?;
    let mut caller = Caller::connect(&relay, &certificate).await?;
    let mut stream = caller.open(agent.tunnel()).await?;
    target.answers(&mut stream).await
}

async fn resets_pass_in_both_directions(driver: DriverChoice) -> Result<()> {
    let (tell, mut ends) = mpsc::channel(1);
    let target = Target::tcp(move |mut stream| {
        let tell = tell.clone();
        async move {
            stream.write_all(b"some").await?;
            let (_, end) = read_to_close(&mut stream).await;
            tell.send(is_reset(&end)).await?;
            Ok(())
        }
    })
    .await?;
    let certificate = TestCertificate::new("relay.test")?;
    let relay = relay(driver, &certificate)?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut caller = Caller::connect(&relay, &certificate).await?;
    for stops in [false, true] {
        let mut stream = caller.open(agent.tunnel()).await?;
        soon("some", stream.read_exact(&mut [0; 4])).await??;
        let (mut reads, mut writes) = stream.split();
        if stops {
            reads.stop_sending(CODE.into())?;
        } else {
            writes.reset(CODE.into())?;
            let code = reset_code(&mut reads).await?;
            ensure!(
                code == u64::from(SessionEnd::FrontendReset.code()),
                "{code}"
            );
        }
        let is_reset = soon("the target's end", ends.recv()).await?;
        ensure!(is_reset == Some(true), "{is_reset:?}");
    }
    Ok(())
}

async fn a_refused_stream_is_told_why(driver: DriverChoice) -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = relay(driver, &certificate)?;
    let echo = Target::echo().await?;
    let agent = TestAgent::of(&echo).start(&relay).await?;
    let mut caller = Caller::connect(&relay, &certificate).await?;
    let mut live = caller.open(agent.tunnel()).await?;
    let (mut refused, _writes) = caller.open("nobody-has-this-name").await?.split();
    let code = reset_code(&mut refused).await?;
    ensure!(code == CallerRefusal::UnknownTunnel as u64, "{code}");
    live.write_all(b"some").await?;
    soon("the echo", live.read_exact(&mut [0; 4])).await??;
    Ok(())
}

async fn another_protocol_is_refused_in_the_handshake(driver: DriverChoice) -> Result<()> {
    let certificate = TestCertificate::new("relay.test")?;
    let relay = relay(driver, &certificate)?;
    match Caller::attempt(&relay, &certificate, "h3").await? {
        // CRYPTO_ERROR with the alert no_application_protocol (RFC 7301).
        Err(ConnectionError::Transport { code, .. }) if code.as_u64() == 0x178 => Ok(()),
        Err(other) => bail!("{other}"),
        Ok(_) => bail!("the relay took the protocol"),
    }
}
