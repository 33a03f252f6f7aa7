use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::thread;

use rustls::{Connection, ServerConnection};

use super::*;

/// A blocking echo server for one connection, under what `wrap` asks for.
fn echo(certificate: &Certificate, is_tls: bool, is_websocket: bool) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let config = server_config(&certificate.cert, &certificate.key).unwrap();
    thread::spawn(move || {
        let (tcp, _) = listener.accept().unwrap();
        let mut layers = Layers::default();
        if is_tls {
            let connection = ServerConnection::new(config).unwrap();
            layers = Layers::over_tls(Connection::from(connection));
        }
        let mut buffer = vec![0; BUFFER_BYTES_MIN];
        if is_websocket {
            let len = layers.read(&mut &tcp, &mut buffer).unwrap();
            let (answer, end) = answer_to(&buffer[..len]).unwrap().unwrap();
            assert_eq!(end, len);
            layers
                .write(&mut &tcp, &[IoSlice::new(answer.as_bytes())])
                .unwrap();
            layers.add_websocket(Role::Server);
        }
        while let Ok(len @ 1..) = layers.read(&mut &tcp, &mut buffer) {
            let mut rest = &buffer[..len];
            while !rest.is_empty() {
                let taken = layers.write(&mut &tcp, &[IoSlice::new(rest)]).unwrap();
                rest = &rest[taken..];
            }
        }
    });
    address
}

#[test]
fn bytes_come_back_unchanged_through_every_wrapping() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path()).unwrap();
    let sent: Vec<u8> = (0..100_000u32).map(|n| n.to_le_bytes()[1]).collect();
    for (is_tls, is_websocket) in [(false, false), (true, false), (false, true), (true, true)] {
        let address = echo(&certificate, is_tls, is_websocket);
        let wrap = Wrap {
            tls: is_tls.then(|| certificate.client.clone()),
            is_websocket,
            is_quic: false,
        };
        let mut socket = Socket::open(address, &wrap, "/", Duration::from_secs(10)).unwrap();
        assert_eq!(socket.handshake().is_some(), is_tls);
        let mut buffer = vec![0; BUFFER_BYTES_MIN];
        // A frame of each length form: below 126 bytes, below 64 KiB, and more.
        for len in [1, 125, 126, 5_000, 65_535, 65_536, sent.len()] {
            socket.write_all(&sent[..len]).unwrap();
            let mut back = Vec::new();
            while back.len() < len {
                let len = socket.read(&mut buffer).unwrap();
                assert!(len > 0);
                back.extend_from_slice(&buffer[..len]);
            }
            assert!(back == sent[..len], "{is_tls} {is_websocket} {len}");
        }
        socket.finish().unwrap();
    }
}

#[test]
fn a_client_refuses_a_certificate_of_another_run() {
    let folder = tempfile::tempdir().unwrap();
    let server = Certificate::make(folder.path()).unwrap();
    let address = echo(&server, true, false);
    let folder = tempfile::tempdir().unwrap();
    let wrap = Wrap {
        tls: Some(Certificate::make(folder.path()).unwrap().client),
        is_websocket: false,
        is_quic: false,
    };
    assert!(Socket::open(address, &wrap, "/", Duration::from_secs(10)).is_err());
}

#[test]
fn a_websocket_that_is_not_granted_names_the_status() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        assert!(tcp.read(&mut [0; 1024]).unwrap() > 0);
        tcp.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
    });
    let wrap = Wrap {
        tls: None,
        is_websocket: true,
        is_quic: false,
    };
    let error = Socket::open(address, &wrap, "/tunnel/maya", Duration::from_secs(10)).unwrap_err();
    assert!(error.to_string().contains("404"), "{error}");
}
