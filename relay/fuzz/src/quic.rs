//! What holds for each packet.

#[path = "../../src/quic/ids.rs"]
mod ids;
#[path = "../../src/quic/packet.rs"]
mod packet;

use quinn_proto::{ConnectionId, ConnectionIdGenerator};

use self::ids::{Here, ShardIds};
use self::packet::{Kind, kind};
use crate::io::{ID_BYTES, PacketSteering, SteeringKey};
use crate::metrics::QuicDrop;

/// Longest connection ID, and least length of a datagram with a first packet (RFC 9000, sections 17.2 and 14.1).
const LONGEST_ID: usize = 20;
const FIRST_BYTES: usize = 1200;

/// Takes `data` apart: number of shards, further sockets, the key, and the packet.
pub fn run(data: &[u8]) {
    let Some(([shards, more], rest)) = data.split_first_chunk::<2>() else {
        return;
    };
    let Some((key, packet)) = rest.split_first_chunk::<16>() else {
        return;
    };
    let shards = usize::from(shards % 64) + 1;
    // After a take-over there may be more sockets than shards.
    let sockets = shards + usize::from(more % 8);
    let steering = PacketSteering::new(SteeringKey::new(*key), sockets);
    steers(steering, sockets, shards, packet);
    is_classified(packet);
    let shard = usize::from(*more) % shards;
    let here = Here {
        steering,
        shard,
        shards,
    };
    draws(here, SteeringKey::new(*key));
}

/// A packet belongs to one shard at most, which its connection ID alone decides.
fn steers(steering: PacketSteering, sockets: usize, shards: usize, packet: &[u8]) {
    let place = steering.place_of(packet);
    assert!(place.is_none_or(|it| it < sockets));
    let here = |shard| Here {
        steering,
        shard,
        shards,
    };
    let owners = (0..shards).filter(|it| here(*it).elsewhere(packet).is_none());
    let owners = owners.count();
    assert_eq!(owners, if place.is_some() { 1 } else { shards });
    let Some(id) = packet.first_chunk::<ID_BYTES>() else {
        return;
    };
    let place = Some(steering.place(*id));
    let short = [&[0x40][..], id, &packet[ID_BYTES..]].concat();
    let long = [&[0xc0, 0, 0, 0, 1, 8][..], id, &packet[ID_BYTES..]].concat();
    assert_eq!(steering.place_of(&short), place);
    assert_eq!(steering.place_of(&long), place);
}

/// What `quinn_proto` would answer is long enough, and of a length that allows the answer.
fn is_classified(packet: &[u8]) {
    let version = packet.get(1..5);
    let is_long = packet.first().is_some_and(|it| it & 0x80 != 0);
    match kind(packet) {
        Ok(Kind::Initial) => {
            assert!(is_long && packet.len() >= FIRST_BYTES);
            assert_eq!(version, Some(&[0, 0, 0, 1][..]));
            assert!(usize::from(packet[5]) <= LONGEST_ID);
        }
        Ok(Kind::OtherVersion) => {
            assert!(is_long && packet.len() >= FIRST_BYTES);
            // Version negotiation is never answered.
            assert_ne!(version, Some(&[0; 4][..]));
        }
        Ok(Kind::Later) if is_long => assert!(packet[0] & 0x30 != 0),
        Ok(Kind::Later) => assert!(packet.len() > 20),
        Err(QuicDrop::ShortInitial | QuicDrop::Version) => {
            assert!(is_long && packet.len() < FIRST_BYTES);
        }
        Err(QuicDrop::Malformed) => {}
    }
}

/// An ID that a shard draws leads to it and is known, and no other ID makes a check panic.
fn draws(here: Here, check: SteeringKey) {
    let mut ids = ShardIds::new(here, check);
    let id = ids.generate_cid();
    assert_eq!(id.len(), ids.cid_len());
    assert!(ids.validate(&id).is_ok());
    for head in [&[0x40][..], &[0xe0, 0, 0, 0, 1, 8]] {
        let packet = [head, &*id, &[0; 20]].concat();
        assert_eq!(here.elsewhere(&packet), None);
    }
    for len in 0..=LONGEST_ID {
        let other = ConnectionId::new(&[7; LONGEST_ID][..len]);
        assert!(len == ID_BYTES || ids.validate(&other).is_err());
    }
}
