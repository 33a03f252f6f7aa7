//! Writes the seed corpus: `cargo run --example seeds` in this folder.

use std::fs;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tieline_transport::websocket::{Role, WebSocket};
use tieline_transport_fuzz::Peer;

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, name, bytes) in [
        ("websocket", "client", said(Role::Client)),
        ("websocket", "server", said(Role::Server)),
        ("websocket", "fragments", fragments()),
        ("session_stream", "bytes", vec![2, 0, 1, 2, 3, 4, 5, 6]),
        ("session_stream", "messages", messages()),
        ("tls_first_flight", "hello", hello()),
        (
            "tls_first_flight",
            "http",
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        ),
    ] {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}

/// Sizes of pieces and reads, and what an end of `role` says.
fn said(role: Role) -> Vec<u8> {
    let peer = Peer::new(&[], 1, usize::MAX);
    let mut websocket = WebSocket::new(role);
    for len in [1, 126, 300] {
        let message = vec![7; len];
        let mut rest = &message[..];
        while !rest.is_empty() {
            let sent = websocket.send(&peer, &[IoSlice::new(rest)]);
            rest = &rest[sent.expect("a peer in memory")..];
        }
        websocket.ping(&peer);
    }
    for _ in 0..2 {
        websocket.try_close(&peer, 1001, "goodbye");
    }
    [&[40, 100][..], &peer.taken.into_inner()].concat()
}

/// A message in three frames with a ping between them, an empty message, and one that breaks off.
fn fragments() -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut bytes = vec![3, 5];
    for (first, payload) in [
        (0x02, &b"one"[..]),
        (0x89, b"ping"),
        (0x00, b""),
        (0x80, b"message"),
        (0x82, b""),
        (0x8a, b"pong"),
        (0x02, b"half"),
    ] {
        bytes.push(first);
        bytes.push(0x80 | u8::try_from(payload.len()).expect("a short payload"));
        bytes.extend(mask);
        bytes.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
    }
    bytes
}

/// Messages on a session's stream: one in two pieces, an empty one, one behind a long number, and one that breaks off.
fn messages() -> Vec<u8> {
    let pieces = [
        &[4, 0][..],
        &[6, 1, 2, 3],
        &[5, 4, 5],
        &[1],
        &[0x40, 5, 6, 7],
        &[9, 8],
    ];
    pieces.concat()
}

/// The first flight of a client.
fn hello() -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = "relay".try_into().expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("a vector takes all");
    bytes
}
