//! Tests of a splice between a real socket and a mux whose agent is another mux, without a network.

use std::io::Write;
use std::net::{TcpListener, TcpStream};

use socket2::SockRef;
use tieline_wire::{Event, SessionId};

use super::*;
use crate::io::{Chosen, Stream, choose, pair, run, sleep, spawn, timeout};
use crate::session::tests::rig::{Link, drop_while_it_waits};

mod websocket;

/// Timeout far above the duration of a splice; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(20);

fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (caller, listener.accept().unwrap().0)
}

/// Starts a task that joins a caller's connection and its session.
fn splicing(accepted: TcpStream, session: Session) -> impl Future<Output = Option<SessionEnd>> {
    let stream = Rc::new(Stream::new(accepted.into()));
    spawn(splice(stream, session, Rc::default(), || false))
}

/// The events at the agent after a caller resets its connection, once `before` was done to it, while the target neither
/// reads nor answers.
fn ends_of_a_reset(driver: Chosen, before: impl Fn(&mut TcpStream)) -> Vec<Event> {
    let mut link = Link::established();
    let session = link.open();
    let (mut caller, accepted) = connected();
    before(&mut caller);
    run(driver, async {
        let task = splicing(accepted, session);
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
    let reason = SessionEnd::FrontendReset;
    matches!(event, Event::Reset { reason: it, .. } if *it == reason)
}

#[test]
fn a_caller_that_resets_while_the_target_reads_nothing_is_noticed() {
    let (best, _) = choose(None).unwrap();
    for driver in [best, Chosen::Epoll] {
        // The caller writes more than a session's first credit.
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

/// How a caller's connection ends if its task is dropped once `before` was done to the agent's mux.
fn end_of_a_dropped_task(driver: Chosen, before: impl Fn(&mut Link, SessionId)) -> io::ErrorKind {
    let mut link = Link::established();
    let (session, id) = link.open_to_targets(1).remove(0);
    let (mut caller, accepted) = connected();
    // The caller's socket has room for a part of the answer only.
    SockRef::from(&caller).set_recv_buffer_size(1).unwrap();
    run(driver, async {
        let task = splicing(accepted, session);
        sleep(Duration::from_millis(10)).await;
        before(&mut link, id);
        link.pump_up();
        sleep(Duration::from_millis(10)).await;
        drop(task);
    })
    .unwrap();
    let end = io::copy(&mut caller, &mut io::sink());
    end.expect_err("the connection ended in order").kind()
}

#[test]
fn a_caller_whose_task_is_dropped_in_the_middle_of_its_answer_hears_of_it() {
    let (best, _) = choose(None).unwrap();
    for driver in [best, Chosen::Epoll] {
        let end = end_of_a_dropped_task(driver, |_, _| {});
        assert_eq!(
            end,
            io::ErrorKind::ConnectionReset,
            "dropped while the session was open"
        );
        let end = end_of_a_dropped_task(driver, |link, id| {
            link.agent.send(id, vec![7; 12_000].into(), false).unwrap();
            link.agent.reset(id, SessionEnd::TargetReset);
        });
        assert_eq!(
            end,
            io::ErrorKind::ConnectionReset,
            "dropped before the reset was passed on"
        );
    }
}

#[test]
fn a_caller_whose_task_never_ran_hears_of_it() {
    run(Chosen::Epoll, async {
        let mut link = Link::established();
        let (session, _) = link.open_to_targets(1).remove(0);
        let (mut caller, accepted) = connected();
        drop(splicing(accepted, session));
        sleep(Duration::from_millis(10)).await;
        let end = io::copy(&mut caller, &mut io::sink()).unwrap_err().kind();
        assert_eq!(end, io::ErrorKind::ConnectionReset);
    })
    .unwrap();
}

/// A splice lives as long as its session, and its size is most of the memory that an idle session takes.
#[test]
fn a_splice_is_small() {
    run(Chosen::Epoll, async {
        let (_caller, accepted) = connected();
        let stream = Rc::new(Stream::new(accepted.into()));
        let session = Link::established().open();
        let spliced = splice(stream, session, Rc::default(), || false);
        assert!(size_of_val(&spliced) <= 224, "{}", size_of_val(&spliced));
    })
    .unwrap();
}

#[test]
fn a_session_dropped_while_its_reads_and_writes_wait_ends_for_both_sides() {
    let (best, _) = choose(None).unwrap();
    for driver in [best, Chosen::Epoll] {
        run(driver, async {
            let mut link = Link::established();
            let (session, id) = link.open_to_targets(1).remove(0);
            let (caller, ours) = pair().unwrap();
            let (caller, ours) = (Stream::new(caller), Stream::new(ours));
            // The caller's socket takes a part of the answer, and then nothing more.
            SockRef::from(&ours).set_send_buffer_size(1).unwrap();
            link.agent.send(id, vec![7; 12_000].into(), false).unwrap();
            link.pump_up();
            let stream = Rc::new(ours);
            let spliced = splice(stream, session, Rc::default(), || false);
            drop_while_it_waits(spliced).await;

            let mut heard = BytesMut::new();
            loop {
                caller.readable().await;
                match caller.recv(&mut heard, 64 * 1024).unwrap() {
                    Received::End => break,
                    Received::Bytes(_) | Received::Nothing => {}
                }
            }
            assert!(!heard.is_empty() && heard.len() < 12_000, "{}", heard.len());
            let reason = SessionEnd::FrontendGone;
            let reset = Event::Reset {
                session: id,
                reason,
            };
            assert!(link.pump_down().contains(&reset));
        })
        .unwrap();
    }
}
