//! Packets that the kernel hands to the wrong shard of a whole relay, which passes them on by mailbox.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use quinn_udp::{Transmit, UdpSockRef, UdpSocketState};

use super::raw::{DATA, FIRST_BYTES};
use super::*;
use crate::{CertificateFiles, Config, Relay};

/// Number of packets that were passed on.
const STRAYS: &str = "relay_quic_strays_total ";

/// Time for a packet to come to its connection.
const PATIENCE: Duration = Duration::from_secs(20);

/// The value of a metric of `relay`.
fn metric(relay: &Relay, sample: &str) -> u64 {
    let mut stream = TcpStream::connect(relay.admin_addresses()[0]).unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    let value = page.lines().find_map(|it| it.strip_prefix(sample));
    value.unwrap().trim().parse().unwrap()
}

/// A relay with two shards and QUIC, whose callers may be without a stream for long.
fn relay(certificate: &CertificateFiles) -> Relay {
    let tls = TlsConfig {
        certificates: vec![certificate.clone()],
        ..TlsConfig::default()
    };
    let config = Config {
        shards: 2,
        quic_listen: vec![loopback()],
        tls,
        preamble_timeout: Duration::from_secs(120),
        ..Config::default()
    };
    Relay::start(config).unwrap()
}

#[test]
fn a_packet_that_is_joined_with_one_of_another_shard_comes_to_its_connection() {
    let files = Files::new();
    let certificate = files.lasting("relay", &["relay.example"]);
    let relay = relay(&certificate);
    let bound = relay.quic_addresses()[0];
    let mut raw = Raw::new(bound, loopback_of(1), &certificate.cert, &["tieline"]);
    raw.shake().unwrap();
    // From another address, so that the relay counts a move once the connection has the packet.
    let other = UdpSocket::bind((loopback_of(2), 0)).unwrap();
    let state = UdpSocketState::new(UdpSockRef::from(&other)).unwrap();
    for round in 0.. {
        // Each round has an even chance.
        assert!(round < 64, "every packet came to its own shard");
        if metric(&relay, STRAYS) > 0 {
            break;
        }
        // The kernel steers both by the first one, to an ID at random.
        let id = fastrand::u64(..).to_be_bytes();
        let mut bytes = [&[0x40][..], &id].concat();
        bytes.resize(FIRST_BYTES, 7);
        bytes.extend(raw.packet(DATA, &[1], FIRST_BYTES));
        let both = Transmit {
            destination: bound,
            ecn: None,
            contents: &bytes,
            segment_size: Some(FIRST_BYTES),
            src_ip: None,
        };
        let moves = metric(&relay, MOVES);
        state.send(UdpSockRef::from(&other), &both).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while metric(&relay, MOVES) == moves {
            assert!(Instant::now() < deadline, "the packet is lost");
        }
        // The connection comes back.
        raw.is_alive();
    }
    raw.leave();
    relay.stop();
}
