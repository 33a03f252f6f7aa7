//! Sessions in mode *messages*: a TCP target gets the bytes of the messages, and their ends mean nothing to it.

use tokio::io::AsyncWriteExt;

use super::*;

#[tokio::test]
async fn a_target_gets_the_bytes_of_messages_and_empty_ones_cost_credit_only() {
    let mut relay = Relay::linked(|_| {}).await;
    let (id, mut target) = relay.open_in(Mode::Messages).await;
    let send = |relay: &mut Relay, payload: &'static [u8], ends| {
        relay.mux.send(id, payload.into(), ends).unwrap();
    };
    send(&mut relay, b"one ", false);
    send(&mut relay, b"message", true);
    send(&mut relay, b"", true);
    send(&mut relay, b", another", true);
    // The end of a message that was sent before.
    send(&mut relay, b", a third", false);
    send(&mut relay, b"", true);
    relay.mux.finish(id);
    target.write_all(b"answer").await.unwrap();
    target.shutdown().await.unwrap();
    let mut events = Vec::new();
    while !events.contains(&Event::Finished { session: id }) {
        events.extend(relay.hears().await);
    }
    let mut heard = Vec::new();
    target.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"one message, another, a third");
    let answer = Event::Data {
        session: id,
        payload: Bytes::from_static(b"answer"),
        end_of_message: false,
    };
    assert!(events.contains(&answer), "{events:?}");
}

/// Empty messages cost 12 bytes of credit each, and the agent gives them back although no target takes a byte.
#[tokio::test]
async fn more_empty_messages_than_the_credit_covers_arrive() {
    let mut relay = Relay::linked(|_| {}).await;
    let (id, mut target) = relay.open_in(Mode::Messages).await;
    for _ in 0..5_000 {
        while relay.mux.send_capacity(id) == 0 {
            relay.hears().await;
        }
        relay.mux.send(id, Bytes::new(), true).unwrap();
    }
    while relay.mux.send_capacity(id) < 3 {
        relay.hears().await;
    }
    relay
        .mux
        .send(id, Bytes::from_static(b"end"), true)
        .unwrap();
    relay.mux.finish(id);
    target.shutdown().await.unwrap();
    while !relay
        .hears()
        .await
        .contains(&Event::Finished { session: id })
    {}
    let mut heard = Vec::new();
    target.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"end");
}
