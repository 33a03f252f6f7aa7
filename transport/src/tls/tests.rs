//! TLS between two ends in memory: any sizes of reads and writes, and sockets that take little at a time.

use std::cell::Cell;
use std::future::ready;
use std::io::{self, IoSlice};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};

use bytes::BytesMut;
use proptest::prelude::*;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::RECORDS_MAX;
use crate::tests::{End, both, ends, noise};
use crate::{Received, Socket, Tls};

pub(crate) fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    static CONFIGS: OnceLock<(Arc<ServerConfig>, Arc<ClientConfig>)> = OnceLock::new();
    let (server, client) = CONFIGS.get_or_init(|| {
        let provider = aws_lc_rs::default_provider();
        configs_of(rustls::DEFAULT_VERSIONS, [provider.clone(), provider])
    });
    (Arc::clone(server), Arc::clone(client))
}

/// Configurations of the server and of the client with a certificate of their own, for these versions of TLS.
fn configs_of(
    versions: &[&'static SupportedProtocolVersion],
    [server, client]: [CryptoProvider; 2],
) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["relay".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::new(server))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(client))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

fn shaken(near: &End, far: &End) -> (Tls, Tls) {
    let (server, client) = configs();
    shaken_with((client, server), (near, far))
}

fn shaken_with(
    (client, server): (Arc<ClientConfig>, Arc<ServerConfig>),
    (near, far): (&End, &End),
) -> (Tls, Tls) {
    let name = ServerName::try_from("relay").unwrap();
    let (near, far) = both(
        Tls::connect(near, client, name),
        Tls::accept(far, |_| server, || ready(())),
    );
    (near.unwrap(), far.unwrap())
}

/// Moves all of `sent` from one end to the other in writes of `writes` and reads of `reads` bytes, then the end.
fn carry(
    (mut tls, end): (Tls, End),
    (mut far_tls, far): (Tls, End),
    sent: &[u8],
    (writes, reads): (&[usize], &[usize]),
) -> Vec<u8> {
    let sending = async {
        let (mut rest, mut sizes) = (sent, writes.iter().cycle());
        while !rest.is_empty() {
            std::future::poll_fn(|cx| end.poll_writable(cx)).await;
            // What was offered before is offered again, in slices of other sizes.
            let size = (*sizes.next().unwrap()).min(rest.len());
            let (first, second) = rest[..size].split_at(size / 3);
            let slices = [IoSlice::new(first), IoSlice::new(second)];
            rest = &rest[tls.send(&end, &slices).unwrap()..];
        }
        std::future::poll_fn(|cx| tls.poll_finish(&end, cx)).await;
    };
    let reading = async {
        let (mut heard, mut sizes) = (Vec::new(), reads.iter().cycle());
        loop {
            std::future::poll_fn(|cx| far_tls.poll_readable(&far, cx)).await;
            let max = *sizes.next().unwrap();
            let before = heard.len();
            let put = |piece: &[u8]| heard.extend_from_slice(piece);
            match far_tls.recv(&far, max, put).unwrap() {
                Received::Bytes(count) => {
                    assert!((1..=max).contains(&count));
                    assert_eq!(heard.len() - before, count);
                }
                Received::End => return heard,
                Received::Nothing => {}
            }
        }
    };
    both(sending, reading).1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn bytes_arrive_whole_whatever_the_sizes(
        len in 0..120_000_usize,
        rooms in (1..40_000_usize, 1..40_000_usize),
        writes in proptest::collection::vec(1..70_000_usize, 1..6),
        reads in proptest::collection::vec(1..70_000_usize, 1..6),
        up in any::<bool>(),
    ) {
        // A server's accept waits for room for its tickets, which the client reads only after its connect.
        let (near, far) = ends((100_000, 100_000));
        let (client, server) = shaken(&near, &far);
        (near.to.borrow_mut().room, far.to.borrow_mut().room) = rooms;
        let sent = noise(len);
        let (from, to) = match up {
            true => ((client, near), (server, far)),
            false => ((server, far), (client, near)),
        };
        prop_assert_eq!(carry(from, to, &sent, (&writes, &reads)), sent);
    }
}

#[test]
fn a_cut_connection_is_told_from_one_that_ended() {
    for is_ended in [true, false] {
        let (near, far) = ends((100_000, 100_000));
        let (mut client, mut server) = shaken(&near, &far);
        assert_eq!(client.send(&near, &[IoSlice::new(b"some")]).unwrap(), 4);
        if is_ended {
            let mut cx = Context::from_waker(Waker::noop());
            assert!(client.poll_finish(&near, &mut cx).is_ready());
        }
        near.to.borrow_mut().is_ended = true;
        let mut heard = Vec::new();
        let mut recv = || server.recv(&far, 64, |piece| heard.extend_from_slice(piece));
        assert_eq!(recv().unwrap(), Received::Bytes(4));
        let end = recv();
        match is_ended {
            true => assert_eq!(end.unwrap(), Received::End),
            false => assert_eq!(end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof),
        }
        assert_eq!(heard, b"some");
    }
}

#[test]
fn an_idle_connection_keeps_no_buffer() {
    let (near, far) = ends((100_000, 100_000));
    let (mut client, mut server) = shaken(&near, &far);
    assert_eq!(client.send(&near, &[IoSlice::new(b"some")]).unwrap(), 4);
    let received = server.recv(&far, 64, |_| {}).unwrap();
    assert_eq!(received, Received::Bytes(4));
    assert_eq!(server.undigested.capacity(), 0);
    assert_eq!(client.undigested.capacity(), 0);
}

#[test]
fn both_ends_have_one_exporter_and_each_connection_has_its_own() {
    let mut seen = Vec::new();
    // Later handshakes resume the session of the first.
    for _ in 0..3 {
        let (near, far) = ends((100_000, 100_000));
        let (mut client, mut server) = shaken(&near, &far);
        let exporter = client.exporter().unwrap();
        assert_eq!(server.exporter(), Some(exporter));
        assert!(!seen.contains(&exporter));
        seen.push(exporter);
        // Neither the server's tickets nor the data after them change the exporter.
        assert_eq!(server.send(&far, &[IoSlice::new(b"some")]).unwrap(), 4);
        let received = client.recv(&near, 64, |_| {}).unwrap();
        assert_eq!(received, Received::Bytes(4));
        assert_eq!(client.exporter(), Some(exporter));
    }
}

#[test]
fn below_tls_1_3_there_is_no_exporter() {
    let provider = aws_lc_rs::default_provider();
    let versions = &[&rustls::version::TLS12];
    let (server, client) = configs_of(versions, [provider.clone(), provider]);
    let (near, far) = ends((100_000, 100_000));
    let (client, server) = shaken_with((client, server), (&near, &far));
    assert_eq!((client.exporter(), server.exporter()), (None, None));
}

/// Number of permits taken by a server that has only X25519, for a client that has `groups` and sends a key share of
/// the first one only.
fn permits_for(groups: &[&'static dyn SupportedKxGroup]) -> usize {
    let with = |groups: &[&'static dyn SupportedKxGroup]| CryptoProvider {
        kx_groups: groups.to_vec(),
        ..aws_lc_rs::default_provider()
    };
    let providers = [with(&[kx_group::X25519]), with(groups)];
    let (server, client) = configs_of(rustls::DEFAULT_VERSIONS, providers);
    let (near, far) = ends((100_000, 100_000));
    let permits = Cell::new(0);
    let may_answer = || {
        permits.set(permits.get() + 1);
        // The server has not answered the hello yet.
        assert!(far.to.borrow().bytes.is_empty());
        ready(())
    };
    let name = ServerName::try_from("relay").unwrap();
    let (near, far) = both(
        Tls::connect(&near, client, name),
        Tls::accept(&far, |_| server, may_answer),
    );
    assert_eq!(near.unwrap().agreed(), far.unwrap().agreed());
    permits.get()
}

#[test]
fn each_hello_of_a_client_is_answered_with_a_permit() {
    assert_eq!(permits_for(&[kx_group::X25519]), 1);
    assert_eq!(permits_for(&[kx_group::SECP384R1, kx_group::X25519]), 2);
}

#[test]
fn a_reader_that_takes_nothing_stops_the_sender() {
    let (near, far) = ends((10_000, 10_000));
    let (mut client, mut server) = shaken(&near, &far);
    let sent = noise(1_000_000);
    let mut taken = 0;
    while let count @ 1.. = client.send(&near, &[IoSlice::new(&sent[taken..])]).unwrap() {
        taken += count;
    }
    // Nothing is taken that the socket has no room for.
    assert!(taken <= 10_000, "{taken}");
    let mut heard = Vec::new();
    while let Received::Bytes(_) = server
        .recv(&far, 1, |piece| heard.extend_from_slice(piece))
        .unwrap()
    {}
    assert!(heard.len() >= taken);
    assert_eq!(heard, sent[..heard.len()]);
}

#[test]
fn what_is_not_tls_is_an_error_and_gets_an_alert() {
    let (near, far) = ends((100_000, 100_000));
    let hello = b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n";
    near.send_vectored(&[IoSlice::new(hello)]).unwrap();
    let (server, _) = configs();
    let (accepted, ()) = both(Tls::accept(&far, |_| server, || ready(())), async {});
    let error = accepted.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.get_ref().unwrap().is::<rustls::Error>());
    let mut alert = BytesMut::new();
    near.recv(&mut alert, 7).unwrap();
    assert_eq!(alert[..2], [21, 3]);
}

#[test]
fn a_broken_record_fails_a_read_of_its_own_behind_what_came_in_front_of_it() {
    let (near, far) = ends((100_000, 100_000));
    let (mut client, mut server) = shaken(&near, &far);
    // More bytes than rustls takes at a time, so that one read returns plaintext and also meets the broken record.
    let sent = noise(8_000);
    for piece in sent.chunks(1_000) {
        assert_eq!(client.send(&near, &[IoSlice::new(piece)]).unwrap(), 1_000);
    }
    let broken = [&[23_u8, 3, 3, 0, 20][..], &[0; 20]].concat();
    near.send_vectored(&[IoSlice::new(&broken)]).unwrap();
    let mut heard = Vec::new();
    let put = |piece: &[u8]| heard.extend_from_slice(piece);
    let received = server.recv(&far, 64 * 1024, put).unwrap();
    assert_eq!(received, Received::Bytes(8_000));
    assert_eq!(heard, sent);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(server.poll_readable(&far, &mut cx).is_ready());
    let failed = server.recv(&far, 64 * 1024, |_| {
        panic!("a read that fails returns no bytes")
    });
    assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn small_records_and_new_keys_leave_turns_to_other_tasks() {
    for has_new_keys in [false, true] {
        let (near, far) = ends((1_000_000, 1_000_000));
        let (mut client, mut server) = shaken(&near, &far);
        for _ in 0..1_000 {
            if has_new_keys {
                client.connection.refresh_traffic_keys().unwrap();
            }
            assert_eq!(client.send(&near, &[IoSlice::new(b"x")]).unwrap(), 1);
        }
        let mut cx = Context::from_waker(Waker::noop());
        let (mut heard, mut turns) = (0, 0);
        while heard < 1_000 {
            if server.poll_readable(&far, &mut cx).is_pending() {
                turns += 1;
                continue;
            }
            let before = heard;
            let received = server.recv(&far, 256 * 1024, |piece| heard += piece.len());
            assert_eq!(received.unwrap(), Received::Bytes(heard - before));
            assert!(heard - before <= RECORDS_MAX);
        }
        let records = match has_new_keys {
            true => 2_000,
            false => 1_000,
        };
        assert_eq!(turns, records / RECORDS_MAX);
    }
}

#[test]
fn full_records_are_read_in_one_call() {
    let (near, far) = ends((1_000_000, 100_000));
    let (mut client, mut server) = shaken(&near, &far);
    let sent = noise(240_000);
    let mut taken = 0;
    while taken < sent.len() {
        taken += client.send(&near, &[IoSlice::new(&sent[taken..])]).unwrap();
    }
    let mut heard = Vec::new();
    let put = |piece: &[u8]| heard.extend_from_slice(piece);
    let received = server.recv(&far, 256 * 1024, put).unwrap();
    assert_eq!(received, Received::Bytes(240_000));
    assert_eq!(heard, sent);
}
