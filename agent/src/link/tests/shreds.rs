//! A link whose socket takes few bytes at a time.

use super::*;
use crate::link::tests::witness;

/// Payload bytes that the first credit of a session allows, without headers.
const EACH: usize = 12_000;

fn byte_at(session: usize, at: usize) -> u8 {
    let [low, high, ..] = at.to_le_bytes();
    low ^ high.wrapping_mul(31) ^ session.to_le_bytes()[0]
}

#[tokio::test]
async fn frames_that_leave_in_shreds_arrive_whole_and_in_order() {
    let mut relay = Relay::linked(|socket| {
        socket.set_send_buffer_size(1).unwrap();
        socket.set_recv_buffer_size(1).unwrap();
        // Small segments: the kernel would otherwise wait for room for a full one.
        socket.set_tcp_mss(536).unwrap();
    })
    .await;
    let (mut ids, mut targets) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        let (id, target) = relay.open().await;
        ids.push(id);
        targets.push(target);
    }
    witness::watch();
    for (index, target) in targets.drain(..).enumerate() {
        let answer: Vec<u8> = (0..EACH).map(|at| byte_at(index, at)).collect();
        assert_eq!(target.try_write(&answer).unwrap(), EACH);
        // Dropping `target` ends its direction.
    }
    let (mut heard, mut finished, mut most) = ([0; 40], 0, 1);
    while finished < ids.len() {
        most = most * 2 % 1_999 + 1;
        for event in relay.hears_at_most(most).await {
            match event {
                Event::Data {
                    session, payload, ..
                } => {
                    let index = ids.iter().position(|id| *id == session).unwrap();
                    for byte in payload {
                        assert_eq!(byte, byte_at(index, heard[index]));
                        heard[index] += 1;
                    }
                }
                Event::Finished { .. } => finished += 1,
                _ => {}
            }
        }
    }
    assert_eq!(heard, [EACH; 40]);
    let writes = witness::writes_of(far_end(&relay.stream));
    let short = writes
        .iter()
        .filter(|(offered, taken)| *taken < offered.iter().map(|it| it.len()).sum());
    assert!(short.count() > 50, "too few partial writes");
}
