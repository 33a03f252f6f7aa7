//! Stateless resets, whose token ends a connection.

use super::raw::DATA;
use super::*;

/// Length of a token, at the end of its reset (RFC 9000, section 10.3).
const TOKEN_BYTES: usize = 16;

/// The token of the reset with which `relay` answers `packet`.
async fn token_at(relay: SocketAddr, packet: &[u8]) -> Vec<u8> {
    let packet = packet.to_vec();
    let asking = thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let patience = Some(Duration::from_secs(20));
        socket.set_read_timeout(patience).unwrap();
        socket.send_to(&packet, relay).unwrap();
        let mut answer = [0; 2048];
        let (len, _) = socket.recv_from(&mut answer).unwrap();
        answer[len - TOKEN_BYTES..len].to_vec()
    });
    joined(asking).await
}

#[test]
fn the_token_of_a_connection_is_not_told_at_another_address_of_the_relay() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let [host, other] = [(); 2].map(|()| Rc::<TestHost>::default());
        let (bound, sockets) = bind_packets(loopback(), 1).unwrap();
        rig.open(&host, sockets);
        let (elsewhere, sockets) = bind_packets(loopback(), 1).unwrap();
        rig.open(&other, sockets);
        let client = rig.shaken_raw(bound, |raw| raw.packet(DATA, &[1], 60));
        let packet = joined(client).await;
        let told = token_at(elsewhere, &packet).await;
        // Without its connections, as after a restart, the address itself tells the token.
        host.kill().await;
        drop(host);
        let (_, sockets) = bind_packets(bound, 1).unwrap();
        let host = Rc::<TestHost>::default();
        rig.open(&host, sockets);
        assert_ne!(told, token_at(bound, &packet).await);
        host.kill().await;
        other.kill().await;
    })
    .unwrap();
}
