//! The token of a Retry packet, with which a client proves its address, is good for a while.

use std::time::{SystemTime, UNIX_EPOCH};

use quinn_proto::{ServerConfig, TimeSource};

use super::*;
use crate::quic::config::RETRY_TOKEN_LIFETIME;

/// A clock that stands still.
struct At(Duration);

impl TimeSource for At {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + self.0
    }
}

/// The relay's configuration at a time.
fn server_at(time: Duration) -> Option<Arc<ServerConfig>> {
    let (tls, _) = configs();
    let mut tls = (*tls).clone();
    tls.alpn_protocols = vec![ALPN_AGENT.to_vec()];
    let key = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&[2; 64]);
    let mut config = server(&tls, Arc::new(key), LONGEST).unwrap();
    config.time_source(Arc::new(At(time)));
    Some(Arc::new(config))
}

/// What the relay does with the agent's next first packet, and its answer.
fn first_packet(pair: &mut Pair) -> (Option<DatagramEvent>, Vec<u8>) {
    let (now, from) = (pair.now, pair.peers[AGENT].address);
    let (mut datagram, mut answer) = (Vec::new(), Vec::new());
    let agent = pair.peers[AGENT].connection();
    let sent = agent.poll_transmit(now, 1, &mut datagram).unwrap();
    let data = BytesMut::from(&datagram[..sent.size]);
    let relay = &mut pair.peers[RELAY].endpoint;
    let event = relay.handle(now, from, None, None, data, &mut answer);
    (event, answer)
}

#[test]
fn a_token_expires() {
    let start = Duration::from_secs(1_000_000);
    for (age, is_good) in [
        (Duration::ZERO, true),
        (RETRY_TOKEN_LIFETIME, true),
        (RETRY_TOKEN_LIFETIME + Duration::from_secs(1), false),
    ] {
        let mut pair = Pair::unconnected(Path::default(), |_| {});
        pair.peers[RELAY]
            .endpoint
            .set_server_config(server_at(start));
        let (Some(DatagramEvent::NewConnection(incoming)), _) = first_packet(&mut pair) else {
            panic!("no hello");
        };
        assert!(!incoming.remote_address_validated());
        let mut answer = Vec::new();
        let asked = pair.peers[RELAY].endpoint.retry(incoming, &mut answer);
        assert!(asked.is_ok());
        let (now, relay) = (pair.now, pair.peers[RELAY].address);
        let agent = &mut pair.peers[AGENT];
        let data = BytesMut::from(&answer[..]);
        let event = agent
            .endpoint
            .handle(now, relay, None, None, data, &mut Vec::new());
        let Some(DatagramEvent::ConnectionEvent(_, event)) = event else {
            panic!("no Retry");
        };
        agent.connection().handle_event(event);
        let later = server_at(start + age);
        pair.peers[RELAY].endpoint.set_server_config(later);
        match first_packet(&mut pair) {
            (Some(DatagramEvent::NewConnection(incoming)), _) => {
                assert!(is_good && incoming.remote_address_validated(), "{age:?}");
                pair.peers[RELAY].endpoint.ignore(incoming);
            }
            (Some(DatagramEvent::Response(_)), answer) => {
                assert!(!is_good, "{age:?}");
                // The refusal is short.
                assert!(answer.len() < 200);
            }
            _ => panic!("no answer after {age:?}"),
        }
    }
}
