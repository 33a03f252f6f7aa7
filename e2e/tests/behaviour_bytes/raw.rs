//! Raw TCP: bytes and half-closes in both directions.

use std::time::Duration;

use anyhow::Result;
use socket2::SockRef;
use tieline_e2e::behaviour::{
    Digest, LONG_BYTES, PatientTarget, Target, TestAgent, TestRelay, half_close, noise,
    read_to_close, soon,
};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

on_each_driver!(
    an_answer_that_starts_two_seconds_after_the_end_of_the_request_arrives,
    a_caller_that_half_closes_gets_the_whole_answer,
    a_target_that_half_closes_first_gets_the_whole_request,
    bytes_sent_at_once_with_the_preamble_arrive,
    urgent_bytes_reach_the_other_side_with_the_rest,
);

async fn an_answer_that_starts_two_seconds_after_the_end_of_the_request_arrives(
    driver: DriverChoice,
) -> Result<()> {
    let target = Target::tcp(|mut stream| async move {
        let (request, end) = read_to_close(&mut stream).await;
        end?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        stream.write_all(&noise(request.len(), LONG_BYTES)).await?;
        Ok(())
    })
    .await?;
    let relay = TestRelay::with().driver(driver).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;

    let mut caller = relay.raw(agent.tunnel()).await?;
    caller.write_all(b"question").await?;
    half_close(&caller)?;
    let (answer, end) = soon("the answer", read_to_close(&mut caller)).await?;
    end?;
    assert_eq!(answer, Digest::of_noise(8, LONG_BYTES));
    Ok(())
}

async fn a_caller_that_half_closes_gets_the_whole_answer(driver: DriverChoice) -> Result<()> {
    let mut target = PatientTarget::start().await?;
    let relay = TestRelay::with().driver(driver).start()?;
    let agent = TestAgent::of(target.target()).start(&relay).await?;

    let mut caller = relay.raw(agent.tunnel()).await?;
    target.answers(&mut caller).await?;
    relay
        .until("no session", |metrics| metrics.get("relay_sessions") == 0)
        .await?;
    Ok(())
}

async fn a_target_that_half_closes_first_gets_the_whole_request(
    driver: DriverChoice,
) -> Result<()> {
    let (tell, mut requests) = mpsc::channel(1);
    let target = Target::tcp(move |mut stream| {
        let tell = tell.clone();
        async move {
            stream.write_all(&noise(3, LONG_BYTES)).await?;
            half_close(&stream)?;
            let (request, end) = read_to_close(&mut stream).await;
            end?;
            tell.send(request).await?;
            Ok(())
        }
    })
    .await?;
    let relay = TestRelay::with().driver(driver).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;

    let mut caller = relay.raw(agent.tunnel()).await?;
    let (answer, end) = soon("the answer", read_to_close(&mut caller)).await?;
    end?;
    assert_eq!(answer, Digest::of_noise(3, LONG_BYTES));
    soon("the request", caller.write_all(&noise(4, LONG_BYTES))).await??;
    half_close(&caller)?;
    let request = soon("the request's end", requests.recv()).await?;
    assert_eq!(request, Some(Digest::of_noise(4, LONG_BYTES)));
    relay
        .until("no session", |metrics| metrics.get("relay_sessions") == 0)
        .await?;
    Ok(())
}

async fn bytes_sent_at_once_with_the_preamble_arrive(driver: DriverChoice) -> Result<()> {
    let target = Target::echo().await?;
    let relay = TestRelay::with().driver(driver).shards(2).start()?;
    let agent = TestAgent::of(&target).named("maya").start(&relay).await?;
    assert_eq!(agent.tunnel(), "maya");

    // Several callers, so that some are accepted on the shard without the link and handed off.
    for seed in 0..8 {
        let mut caller = tokio::net::TcpStream::connect(relay.tcp_address()).await?;
        let early = noise(seed, 10_000);
        caller
            .write_all(&[b"\x00\x04maya".as_slice(), &early].concat())
            .await?;
        half_close(&caller)?;
        let (echo, end) = soon("the echo", read_to_close(&mut caller)).await?;
        end?;
        assert_eq!(echo, Digest::of(&early), "seed {seed}");
    }
    Ok(())
}

async fn urgent_bytes_reach_the_other_side_with_the_rest(driver: DriverChoice) -> Result<()> {
    let target = Target::echo().await?;
    let relay = TestRelay::with().driver(driver).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut caller = relay.raw(agent.tunnel()).await?;
    for round in 0..3 {
        caller.write_all(b"before").await?;
        SockRef::from(&caller).send_out_of_band(b"!")?;
        // The bytes after the urgent byte must be echoed without another byte that would wake a reader.
        caller.write_all(b"after").await?;
        let mut echo = [0; 12];
        soon("the echo", caller.read_exact(&mut echo)).await??;
        assert_eq!(&echo, b"before!after", "round {round}");
    }
    Ok(())
}
