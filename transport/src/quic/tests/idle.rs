//! Connections on which nothing happens: what keeps them, and how long a dead one is kept.

use super::*;

/// Both ends without their muxes, whose heartbeats would keep the connection, or end it.
fn without_muxes() -> Pair {
    let mut pair = Pair::connected();
    pair.peers.iter_mut().for_each(|it| it.is_raw = true);
    pair
}

#[test]
fn keep_alives_alone_keep_a_connection_on_which_nothing_is_said() {
    let mut pair = without_muxes();
    // Several times the idle timeout of the relay.
    pair.pass(3 * LONGEST);
    assert!(pair.peers.iter().all(|it| it.lost.is_none()));
}

#[test]
fn both_ends_endure_as_much_silence_as_the_relay_says() {
    let mut pair = without_muxes();
    pair.network.cut();
    pair.pass(LONGEST - Duration::from_secs(1));
    assert!(pair.peers.iter().all(|it| it.lost.is_none()));
    // The agent counts from its first packet without an answer, a keep-alive 15 s later.
    pair.pass(Duration::from_secs(30));
    for peer in &pair.peers {
        assert_eq!(peer.lost, Some(ConnectionError::TimedOut));
    }
}

#[test]
fn neither_end_takes_datagrams() {
    let mut pair = Pair::connected();
    for peer in &mut pair.peers {
        assert_eq!(peer.connection().datagrams().max_size(), None);
    }
}
