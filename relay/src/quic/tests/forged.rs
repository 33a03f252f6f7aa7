//! Datagrams that are noise, and packets with a bit that was turned.

use super::raw::{DATA, INITIAL};
use super::*;

const DROPPED: &str = "relay_quic_dropped_total";

/// Datagrams that are sent before the relay is waited for.
const AT_ONCE: u64 = 32;

#[test]
fn noise_of_every_length_is_counted_and_harms_nobody() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let bystander = Bystander::of(&rig, &host, bound).await;
        let before = rig.sum(DROPPED);
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.set_nonblocking(true).unwrap();
        let mut random = fastrand::Rng::with_seed(15);
        let (mut sent, mut heard) = (0, 0);
        // An empty datagram is no packet.
        sender.send_to(&[], bound).unwrap();
        for number in 1..=1500_u64 {
            let len = usize::try_from(number).unwrap();
            let mut noise: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
            // Every second one seems to be of a connection.
            noise[0] |= u8::from(number % 2 == 0) << 6;
            sent += sender.send_to(&noise, bound).unwrap();
            if number % AT_ONCE == 0 || number == 1500 {
                rig.sees("the noise", |it| it.sum(DROPPED) == before + number)
                    .await;
                let mut buffer = [0; 2048];
                while let Ok((len, _)) = sender.recv_from(&mut buffer) {
                    heard += len;
                }
            }
        }
        // Version negotiation for the long ones, and a reset for one short one in 256.
        assert!(heard < sent, "{heard} for {sent}");
        assert_eq!(rig.count(CONNECTIONS), 1);
        bystander.ends_well().await;
        rig.settled(CONNECTIONS, 0).await;
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn packets_with_a_turned_bit_neither_end_a_connection_nor_begin_one() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let hello = rig.raw(bound, 1).hello_datagram();
        let client = rig.shaken_raw(bound, move |raw| {
            let other = UdpSocket::bind("127.0.0.1:0").unwrap();
            let mut random = fastrand::Rng::with_seed(16);
            for number in 0..400 {
                let mut packet = raw.packet(DATA, &[1], 60);
                let at = random.usize(..packet.len());
                packet[at] ^= 1 << random.u8(..8);
                // From the client's own address, or from another one.
                match number % 2 {
                    0 => raw.send(&packet),
                    _ => {
                        other.send_to(&packet, bound).unwrap();
                    }
                }
                // The first bytes of a hello have most to say.
                let mut hello = hello.clone();
                let end = if number % 4 == 0 { hello.len() } else { 40 };
                let at = random.usize(..end);
                hello[at] ^= 1 << random.u8(..8);
                other.send_to(&hello, bound).unwrap();
                if number % 8 == 0 {
                    raw.is_alive();
                }
            }
            raw.is_alive();
            raw.leave();
        });
        joined(client).await;
        // A hello with a turned bit costs no signature: it is not even decrypted.
        assert!(rig.count(&failures("protocol")) > 0);
        assert!(rig.sum(DROPPED) > 0);
        assert_eq!(rig.count("relay_quic_handshakes_total"), 1);
        rig.settled(CONNECTIONS, 0).await;
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn a_second_hello_with_the_same_id_is_no_second_connection() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let mut raw = rig.raw(bound, 1);
        raw.acknowledges = false;
        let hello = raw.hello_datagram();
        raw.send(&hello);
        rig.settled(CONNECTIONS, 1).await;
        // Copies, also from elsewhere, and another packet to the same ID.
        let other = UdpSocket::bind((loopback_of(2), 0)).unwrap();
        let before = rig.count("relay_quic_packets_total");
        for _ in 0..8 {
            raw.send(&hello);
            other.send_to(&hello, bound).unwrap();
        }
        raw.say(INITIAL, &[1]);
        rig.counted("relay_quic_packets_total", before + 17).await;
        assert_eq!(rig.count(CONNECTIONS), 1);
        other.set_nonblocking(true).unwrap();
        assert!(other.recv_from(&mut [0; 2048]).is_err());
        host.kill().await;
    })
    .unwrap();
}
