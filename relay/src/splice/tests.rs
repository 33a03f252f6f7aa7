//! A splice between a real socket and a mux whose agent is another mux, without a network.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use socket2::SockRef;
use tieline_wire::Event;

use super::*;
use crate::io::{Chosen, choose, pair, run, sleep, spawn, timeout};
use crate::session::rig::{Link, drop_while_it_waits};

/// Far longer than the splice takes; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(20);

fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (caller, listener.accept().unwrap().0)
}

/// What the agent hears of a caller that resets its connection once `before` is done to it, while
/// the target neither reads nor answers.
fn ends_of_a_reset(driver: Chosen, before: impl Fn(&mut TcpStream)) -> Vec<Event> {
    let mut link = Link::established();
    let session = link.open();
    let (mut caller, accepted) = connected();
    before(&mut caller);
    run(driver, async {
        let socket = Rc::new(Socket::new(accepted.into()));
        let task = spawn(async move {
            let block = ReadBlock::default();
            splice(&socket, session, Bytes::new(), &block, || false).await
        });
        sleep(Duration::from_millis(50)).await;
        SockRef::from(&caller)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(caller);
        let reset = timeout(PATIENCE, task).await;
        assert_eq!(reset.expect("the splice still waits for credit"), None);
    })
    .unwrap();
    link.pump_down()
}

fn is_frontend_reset(event: &Event) -> bool {
    let reason = Reason::FrontendReset;
    matches!(event, Event::Reset { reason: it, .. } if *it == reason)
}

#[test]
fn a_caller_that_resets_while_the_target_reads_nothing_is_noticed() {
    let (best, _) = choose(None).unwrap();
    for driver in [best, Chosen::Epoll] {
        // More than a session's first credit.
        let events = ends_of_a_reset(driver, |caller| caller.write_all(&[7; 64 * 1024]).unwrap());
        assert!(events.iter().any(is_frontend_reset), "{events:?}");
    }
}

#[test]
fn a_caller_that_resets_after_its_own_end_is_noticed() {
    let (best, _) = choose(None).unwrap();
    for driver in [best, Chosen::Epoll] {
        let events = ends_of_a_reset(driver, |caller| {
            caller.shutdown(std::net::Shutdown::Write).unwrap();
        });
        assert!(events.iter().any(is_frontend_reset), "{events:?}");
    }
}

#[test]
fn a_caller_whose_task_is_dropped_in_the_middle_of_its_answer_hears_of_it() {
    let (best, _) = choose(None).unwrap();
    for driver in [best, Chosen::Epoll] {
        let link = Link::established();
        let session = link.open();
        let (mut caller, accepted) = connected();
        run(driver, async {
            let socket = Rc::new(Socket::new(accepted.into()));
            let task = spawn(async move {
                let block = ReadBlock::default();
                splice(&socket, session, Bytes::new(), &block, || false).await
            });
            sleep(Duration::from_millis(10)).await;
            task.cancel().await;
        })
        .unwrap();
        let end = caller.read(&mut [0; 1]);
        let kind = end.expect_err("it looked like an orderly end").kind();
        assert_eq!(kind, io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_session_dropped_while_its_reads_and_writes_wait_ends_for_both_sides() {
    let (best, _) = choose(None).unwrap();
    for driver in [best, Chosen::Epoll] {
        run(driver, async {
            let mut link = Link::established();
            let (session, id) = link.open_to_targets(1).remove(0);
            let (caller, ours) = pair().unwrap();
            let (caller, ours) = (Socket::new(caller), Socket::new(ours));
            // The caller's socket takes some of the answer, and then no more.
            SockRef::from(&ours).set_send_buffer_size(1).unwrap();
            link.agent.send(id, vec![7; 12_000].into(), false).unwrap();
            link.pump_up();
            let (socket, block) = (Rc::new(ours), ReadBlock::default());
            drop_while_it_waits(splice(&socket, session, Bytes::new(), &block, || false)).await;
            drop(socket);

            let mut heard = BytesMut::new();
            loop {
                caller.readable().await;
                match caller.recv(&mut heard, 64 * 1024).unwrap() {
                    Received::End => break,
                    Received::Bytes(_) | Received::Nothing => {}
                }
            }
            assert!(!heard.is_empty() && heard.len() < 12_000, "{}", heard.len());
            let reason = Reason::FrontendGone;
            let reset = Event::Reset {
                session: id,
                reason,
            };
            assert!(link.pump_down().contains(&reset));
        })
        .unwrap();
    }
}
