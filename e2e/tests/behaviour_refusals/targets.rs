//! Targets whose answers the relay refuses.

use anyhow::{Result, ensure};
use serde_json::Value;
use tieline_e2e::behaviour::{Target, TestAgent, TestRelay, soon};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;
use tokio::sync::watch;

use crate::bystander::Bystander;

on_each_driver!(informational_responses_without_end_are_a_502_and_the_session_is_reset);

async fn informational_responses_without_end_are_a_502_and_the_session_is_reset(
    driver: DriverChoice,
) -> Result<()> {
    let relay = TestRelay::with().shards(2).driver(driver).start()?;
    let bystander = Bystander::beside(&relay).await?;
    let (ended, mut end) = watch::channel(0);
    let target = Target::http(move |mut http| {
        let ended = ended.clone();
        async move {
            http.head().await?;
            let informational = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000);
            while http.write(&informational).await.is_ok() {}
            ended.send_modify(|count| *count += 1);
            Ok(())
        }
    })
    .await?;
    let agent = TestAgent::of(&target)
        .named("hostile")
        .start(&relay)
        .await?;
    for round in 1..=3 {
        let mut caller = relay.http().await?;
        caller.get(&agent.path("/mcp")).await?;
        let (head, body) = soon("an answer", caller.answer()).await??;
        let body: Value = serde_json::from_slice(&body.bytes)?;
        ensure!(
            head.status() == 502 && body["error"] == "target_invalid",
            "{head:?} {body}"
        );
        let message = body["message"].as_str().unwrap_or_default();
        ensure!(message.contains("informational"), "{body}");
        soon("the session's end", end.wait_for(|count| *count == round)).await??;
    }
    bystander.stays_well(&relay).await
}
