//! Tests of streams over plain sockets, and of bytes that were read ahead.

use super::*;
use crate::io::{Chosen, choose, pair, run};

fn streams() -> (Stream, Stream) {
    let (one, other) = pair().unwrap();
    (Stream::new(one), Stream::new(other))
}

/// Reads `stream` to its end, at most `max` bytes at a time.
async fn read_all(stream: &Stream, max: usize) -> Vec<u8> {
    let mut all = BytesMut::new();
    loop {
        stream.readable().await;
        match stream.recv(&mut all, max).unwrap() {
            Received::Bytes(count) => assert!((1..=max).contains(&count)),
            Received::End => return all.to_vec(),
            Received::Nothing => {}
        }
    }
}

#[test]
fn bytes_read_ahead_come_again_before_the_rest_also_on_another_runtime() {
    let (best, _) = choose(None).unwrap();
    for (driver, max) in [
        (best, 64),
        (best, 1),
        (Chosen::Epoll, 64),
        (Chosen::Epoll, 3),
    ] {
        let mut moving = None;
        run(driver, async {
            let (ours, theirs) = streams();
            assert_eq!(theirs.send(b"head and body").unwrap(), 13);
            theirs.finish().await;
            ours.readable().await;
            let (received, ahead) = ours.read_ahead(4).unwrap();
            assert_eq!((received, &ahead[..]), (Received::Bytes(4), &b"head"[..]));
            let (received, ahead) = ours.read_ahead(4).unwrap();
            assert_eq!(
                (received, &ahead[..]),
                (Received::Bytes(4), &b"head and"[..])
            );
            moving = Some(ours.detach());
        })
        .unwrap();
        run(driver, async {
            let stream = moving.take().unwrap().attach();
            assert!(stream.is_read_ahead());
            assert_eq!(read_all(&stream, max).await, b"head and body");
            assert!(!stream.is_read_ahead());
        })
        .unwrap();
    }
}

#[test]
fn bytes_put_back_come_before_those_read_ahead() {
    run(Chosen::Epoll, async {
        let (ours, theirs) = streams();
        assert_eq!(theirs.send(b" and body").unwrap(), 9);
        theirs.finish().await;
        ours.readable().await;
        ours.read_ahead(4).unwrap();
        ours.put_back(Bytes::from_static(b"head"));
        let mut first = [MaybeUninit::uninit(); 6];
        assert_eq!(ours.recv_uninit(&mut first).unwrap(), Received::Bytes(6));
        assert_eq!(read_all(&ours, 64).await, b"nd body");
    })
    .unwrap();
}

#[test]
fn only_a_stream_without_bytes_read_ahead_becomes_a_lane() {
    run(Chosen::Epoll, async {
        let (ours, theirs) = streams();
        ours.put_back(Bytes::new());
        assert!(ours.into_plain().is_some());
        theirs.put_back(Bytes::from_static(b"x"));
        assert!(theirs.into_plain().is_none());
    })
    .unwrap();
}
