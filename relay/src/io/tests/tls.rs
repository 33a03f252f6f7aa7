//! Tests of streams over TLS, between a shard's runtime and rustls's own client on a thread.

use std::future::ready;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bytes::{Bytes, BytesMut};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use socket2::SockRef;
use tieline_transport::Received;

use crate::io::{Chosen, Stream, choose, pair, run};

type Client = StreamOwned<ClientConnection, UnixStream>;

/// A server's configuration, and one of clients that trust it.
fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["relay".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    server.alpn_protocols = vec![b"tieline".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"tieline".to_vec()];
    (Arc::new(server), Arc::new(client))
}

/// Runs `act` as a client on a thread; returns the server's configuration, and its end of the connection.
fn acting<T: Send + 'static>(
    act: impl FnOnce(Client) -> T + Send + 'static,
) -> (Arc<ServerConfig>, OwnedFd, JoinHandle<T>) {
    let (server, client) = configs();
    let (ours, theirs) = pair().unwrap();
    let theirs = UnixStream::from(theirs);
    let acting = thread::spawn(move || {
        let name = ServerName::try_from("relay").unwrap();
        let connection = ClientConnection::new(client, name).unwrap();
        act(StreamOwned::new(connection, theirs))
    });
    (server, ours, acting)
}

/// Runs `serve` with an accepted stream, and `act` as its client on a thread; returns what `act` does.
fn between<T: Send + 'static>(
    driver: Chosen,
    act: impl FnOnce(Client) -> T + Send + 'static,
    serve: impl AsyncFnOnce(Stream),
) -> T {
    let (server, ours, acting) = acting(act);
    run(driver, async {
        let stream = Stream::new(ours);
        // The smallest send buffer, so that most writes are taken in part.
        SockRef::from(&stream).set_send_buffer_size(1).unwrap();
        let stream = stream.accept_tls(|_| server, || ready(())).await.unwrap();
        let application = stream.agreed().unwrap().application;
        assert_eq!(application.as_deref(), Some(&b"tieline"[..]));
        serve(stream).await;
    })
    .unwrap();
    acting.join().unwrap()
}

fn each_driver() -> [Chosen; 2] {
    [choose(None).unwrap().0, Chosen::Epoll]
}

fn noise(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) & 0xff).unwrap())
        .collect()
}

async fn send_all(stream: &Stream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        stream.writable().await;
        let (first, second) = bytes.split_at(bytes.len().min(1000));
        let slices = [IoSlice::new(first), IoSlice::new(second)];
        bytes = &bytes[stream.send_vectored(&slices).unwrap()..];
    }
}

async fn read_all(stream: &Stream, max: usize) -> io::Result<Vec<u8>> {
    let mut all = BytesMut::new();
    loop {
        stream.readable().await;
        match stream.recv(&mut all, max)? {
            Received::Bytes(count) => assert!((1..=max).contains(&count)),
            Received::End => return Ok(all.to_vec()),
            Received::Nothing => {}
        }
    }
}

#[test]
fn bytes_arrive_whole_both_ways_and_each_direction_ends_alone() {
    for (driver, max) in each_driver()
        .into_iter()
        .flat_map(|it| [(it, 7), (it, 60_000)])
    {
        let heard = between(
            driver,
            |mut client| {
                client.write_all(&noise(300_000)).unwrap();
                client.conn.send_close_notify();
                client.flush().unwrap();
                let mut heard = Vec::new();
                client.read_to_end(&mut heard).unwrap();
                heard
            },
            async |stream| {
                assert_eq!(read_all(&stream, max).await.unwrap(), noise(300_000));
                send_all(&stream, &noise(400_000)).await;
                stream.finish().await;
            },
        );
        assert_eq!(heard, noise(400_000));
    }
}

#[test]
fn a_connection_that_is_cut_does_not_look_ended() {
    for driver in each_driver() {
        between(
            driver,
            |mut client| {
                client.write_all(b"first half").unwrap();
                client.sock.shutdown(std::net::Shutdown::Write).unwrap();
                // A close in front of unread bytes would be a reset.
                let _ = client.sock.read_to_end(&mut Vec::new());
            },
            async |stream| {
                let error = read_all(&stream, 64).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            },
        );
        let end = between(
            driver,
            |mut client| client.read_to_end(&mut Vec::new()).unwrap_err().kind(),
            async |stream| {
                send_all(&stream, b"first half").await;
                stream.abort();
                drop(stream);
            },
        );
        assert_eq!(end, io::ErrorKind::UnexpectedEof);
    }
}

/// The payload of `frames` of a server, without the Close frame that they end with.
fn payload_of(mut frames: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    while let Some((&[first, short], rest)) = frames.split_first_chunk() {
        if first == 0x88 {
            assert_eq!((short, rest), (2, &1000_u16.to_be_bytes()[..]));
            return payload;
        }
        assert_eq!(first, 0x82);
        let extra = match short {
            ..126 => 0,
            126 => 2,
            _ => 8,
        };
        let (extra, rest) = rest.split_at(extra);
        let len = match extra {
            [] => usize::from(short),
            _ => extra
                .iter()
                .fold(0, |len, byte| (len << 8) | usize::from(*byte)),
        };
        let (piece, rest) = rest.split_at(len);
        payload.extend_from_slice(piece);
        frames = rest;
    }
    panic!("no Close frame");
}

#[test]
fn a_websocket_over_tls_carries_messages_both_ways() {
    for driver in each_driver() {
        let frames = between(
            driver,
            |mut client| {
                // A mask of zeros leaves the payload as it is.
                client
                    .write_all(&[0x82, 0xff, 0, 0, 0, 0, 0, 3, 13, 64])
                    .unwrap();
                client.write_all(&[0; 4]).unwrap();
                client.write_all(&noise(200_000)).unwrap();
                let mut heard = Vec::new();
                client.read_to_end(&mut heard).unwrap();
                heard
            },
            async |stream| {
                let stream = stream.over_websocket(Bytes::new());
                assert!(stream.is_tls() && stream.plain().is_none());
                let mut heard = BytesMut::new();
                while !stream.ended_message() {
                    stream.readable().await;
                    stream.recv(&mut heard, 7_000).unwrap();
                }
                assert!(heard == noise(200_000));
                let stream = stream.detach().attach();
                send_all(&stream, &noise(100_000)).await;
                stream.finish().await;
                assert!(!stream.has_half_close());
            },
        );
        assert!(payload_of(&frames) == noise(100_000));
    }
}

#[test]
fn a_stream_that_was_read_ahead_goes_on_after_a_move() {
    for driver in each_driver() {
        let mut moving = None;
        let (server, ours, acting) = acting(|mut client| {
            client.write_all(&noise(50_000)).unwrap();
            client.conn.send_close_notify();
            client.flush().unwrap();
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).unwrap();
            heard
        });
        run(driver, async {
            let stream = Stream::new(ours)
                .accept_tls(|_| server, || ready(()))
                .await
                .unwrap();
            while stream.read_ahead(100).unwrap().1.len() < 100 {
                stream.readable().await;
            }
            moving = Some(stream.detach());
        })
        .unwrap();
        run(driver, async {
            let stream = moving.take().unwrap().attach();
            assert_eq!(read_all(&stream, 4096).await.unwrap(), noise(50_000));
            send_all(&stream, b"thanks").await;
            stream.finish().await;
        })
        .unwrap();
        assert_eq!(acting.join().unwrap(), b"thanks");
    }
}

#[test]
fn a_client_that_speaks_no_tls_gets_an_alert_and_an_error() {
    let (server, _) = configs();
    let (ours, theirs) = pair().unwrap();
    let mut theirs = UnixStream::from(theirs);
    theirs.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    run(Chosen::Epoll, async {
        let accepted = Stream::new(ours).accept_tls(|_| server, || ready(())).await;
        let error = accepted.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    })
    .unwrap();
    let mut alert = [0; 7];
    theirs.read_exact(&mut alert).unwrap();
    assert_eq!(alert[..2], [21, 3]);
}

#[test]
fn a_hello_in_single_bytes_is_accepted() {
    let (server, client) = configs();
    let (ours, theirs) = pair().unwrap();
    let mut theirs = UnixStream::from(theirs);
    let acting = thread::spawn(move || {
        let name = ServerName::try_from("relay").unwrap();
        let mut connection = ClientConnection::new(client, name).unwrap();
        let mut hello = Vec::new();
        connection.write_tls(&mut hello).unwrap();
        for byte in hello {
            theirs.write_all(&[byte]).unwrap();
            thread::yield_now();
        }
        let mut client = StreamOwned::new(connection, theirs);
        let mut heard = [0; 2];
        client.read_exact(&mut heard).unwrap();
        heard
    });
    run(Chosen::Epoll, async {
        let stream = Stream::new(ours)
            .accept_tls(|_| server, || ready(()))
            .await
            .unwrap();
        send_all(&stream, b"hi").await;
    })
    .unwrap();
    assert_eq!(&acting.join().unwrap(), b"hi");
}

#[test]
fn a_read_that_fails_leaves_nothing_in_the_buffer() {
    for driver in each_driver() {
        between(
            driver,
            |mut client| {
                // The relay has ended its handshake once it sends something.
                client.read_exact(&mut [0; 2]).unwrap();
                // More than rustls takes at a time, so that one read meets whole records and the broken one.
                for piece in noise(8_000).chunks(1_000) {
                    client.conn.writer().write_all(piece).unwrap();
                }
                let mut records = Vec::new();
                while client.conn.wants_write() {
                    client.conn.write_tls(&mut records).unwrap();
                }
                // A record that cannot be decrypted, in the same write.
                records.extend_from_slice(&[23, 3, 3, 0, 20]);
                records.extend_from_slice(&[0; 20]);
                client.sock.write_all(&records).unwrap();
                let _ = client.sock.read_to_end(&mut Vec::new());
            },
            async |stream| {
                send_all(&stream, b"go").await;
                let (mut buffer, mut heard) = (BytesMut::from(&b"of another"[..]), Vec::new());
                loop {
                    stream.readable().await;
                    match stream.recv(&mut buffer, 64 * 1024) {
                        Ok(_) => heard.extend_from_slice(&buffer.split_off(b"of another".len())),
                        Err(error) => break assert_eq!(error.kind(), io::ErrorKind::InvalidData),
                    }
                }
                assert_eq!(&buffer[..], b"of another");
                assert_eq!(heard, noise(8_000));
            },
        );
    }
}
