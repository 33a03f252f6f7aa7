//! Floods of first packets, whose addresses may be invented, and of connections.

use quinn_proto::TransportErrorCode;

use super::raw::INITIAL;
use super::*;

/// Handshakes that may lack a proof of the client's address.
const UNPROVED: usize = UNPROVED_MAX;

const RETRIES: &str = "relay_quic_retries_total";

/// First packets that are sent before the relay is waited for: so many fit into its socket's buffer.
const AT_ONCE: usize = 16;

/// Sends `count` hellos, each from an address of its own. `others` connections are there already.
async fn flood(rig: &Rig, relay: SocketAddr, count: usize, others: usize) -> Vec<Raw> {
    let mut raws = Vec::new();
    for number in 1..=count {
        let mut raw = rig.raw(relay, u8::try_from(number).unwrap());
        raw.acknowledges = false;
        raw.hello();
        raws.push(raw);
        if number % AT_ONCE == 0 || number == count {
            let wanted = (number + others) as u64;
            rig.sees("the hellos", |it| {
                it.count(CONNECTIONS) + it.count(RETRIES) == wanted
            })
            .await;
        }
    }
    raws
}

#[test]
fn a_flood_from_many_addresses_is_asked_for_proof_and_ends_by_the_time_limit() {
    let mut rig = Rig::new();
    rig.handshake_timeout = Duration::from_secs(4);
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let bystander = Bystander::of(&rig, &host, bound).await;
        let raws = flood(&rig, bound, UNPROVED + 96, 1).await;
        assert_eq!(rig.count(RETRIES), 96);
        assert_eq!(rig.count(CONNECTIONS), UNPROVED as u64 + 1);
        // A client that is where it says to be is served meanwhile.
        let client = rig.client(bound, "tieline", |mut client| {
            client.shake().unwrap();
            client.leave();
        });
        host.next().await;
        joined(client).await;
        assert!(rig.count(RETRIES) > 96);
        rig.counted(&failures("timeout"), UNPROVED as u64).await;
        bystander.ends_well().await;
        rig.settled(CONNECTIONS, 0).await;
        drop(raws);
        // Nothing is left of the flood.
        let retries = rig.count(RETRIES);
        let client = rig.client(bound, "tieline", |mut client| client.shake());
        host.next().await;
        joined(client).await.unwrap();
        assert_eq!(rig.count(RETRIES), retries);
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn a_hello_with_a_close_behind_it_keeps_its_place_until_its_state_is_gone() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let mut raws = flood(&rig, bound, UNPROVED, 0).await;
        for raw in &mut raws {
            // CONNECTION_CLOSE without an error: the keys follow from the ID in the hello, so an attacker has them.
            raw.say(INITIAL, &[0x1c, 0, 0, 0]);
        }
        rig.counted(&failures("closed"), UNPROVED as u64).await;
        assert_eq!(rig.count(CONNECTIONS), UNPROVED as u64);
        let mut late = rig.raw(bound, 100);
        late.hello();
        rig.counted(RETRIES, 1).await;
        rig.settled(CONNECTIONS, 0).await;
        late.hello();
        rig.settled(CONNECTIONS, 1).await;
        assert_eq!(rig.count(RETRIES), 1);
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn hellos_that_fail_at_once_lead_to_the_proof_of_addresses() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        for number in 1..=UNPROVED {
            let mut raw = rig.raw(bound, u8::try_from(number).unwrap());
            // A CRYPTO frame of 4 bytes that begin no hello.
            raw.say(INITIAL, &[0x06, 0, 4, 0xff, 0, 0, 0]);
            rig.counted(&failures("protocol"), number as u64).await;
        }
        assert_eq!(rig.count(RETRIES), 0);
        let mut late = rig.raw(bound, 100);
        late.hello();
        rig.counted(RETRIES, 1).await;
        assert_eq!(rig.count(CONNECTIONS), 0);
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn without_a_place_for_a_handshake_only_a_client_with_a_proof_is_answered() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        host.is_full.set(true);
        let mut silent = rig.raw(bound, 1);
        silent.hello();
        rig.counted(&failures("overload"), 1).await;
        silent.drain();
        assert_eq!(silent.heard_bytes, 0);
        // A client that had to prove its address is told that there is no place.
        let endpoint = Rc::clone(&host.all.borrow()[0]);
        let unproved: Vec<_> = (0..UNPROVED).map(|_| endpoint.unproved()).collect();
        let client = rig.client(bound, "tieline", |mut client| client.end());
        match joined(client).await {
            ConnectionError::ConnectionClosed(close) => {
                assert_eq!(close.error_code, TransportErrorCode::CONNECTION_REFUSED);
            }
            other => panic!("{other}"),
        }
        assert!(rig.count(&failures("overload")) > 1);
        assert_eq!(rig.count(CONNECTIONS), 0);
        drop(unproved);
        host.is_full.set(false);
        silent.hello();
        rig.settled(CONNECTIONS, 1).await;
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn beyond_the_limit_of_connections_hellos_are_dropped_until_one_ends() {
    let mut rig = Rig::new();
    rig.connections_max = 2;
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let bystander = Bystander::of(&rig, &host, bound).await;
        let (left, is_left) = sync_channel(1);
        let client = rig.client(bound, "tieline", move |mut client| {
            client.shake().unwrap();
            is_left.recv().unwrap();
            client.leave();
        });
        host.next().await;
        let mut late = rig.raw(bound, 2);
        late.hello();
        rig.counted(&dropped("overload"), 1).await;
        late.drain();
        assert_eq!(late.heard_bytes, 0);
        left.send(()).unwrap();
        joined(client).await;
        rig.settled(CONNECTIONS, 1).await;
        late.hello();
        rig.settled(CONNECTIONS, 2).await;
        bystander.ends_well().await;
        host.kill().await;
    })
    .unwrap();
}
