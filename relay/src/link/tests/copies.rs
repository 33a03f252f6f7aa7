//! Tests of payload between real sockets: it is sent from where it was read, and one turn of many sessions is one read
//! and one send of their link.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use tieline_wire::SessionId;

use super::*;
use crate::io::tests::witness::{self, Place};
use crate::io::{spawn, turn};
use crate::session::Session;
use crate::session::tests::rig::Link;
use crate::splice::{ReadBlock, splice};

const SESSIONS: usize = 40;

/// Sessions whose target sends enough for a credit grant.
const GRANTED: usize = 6;

const REQUEST: &[u8] = &[b'u'; 700];

/// A frontend and its caller's socket.
struct Frontend {
    fd: RawFd,
    caller: Stream,
}

impl Frontend {
    fn serve(session: Session, block: &Rc<ReadBlock>) -> Self {
        let (caller, ours) = streams();
        let fd = ours.as_fd().as_raw_fd();
        let block = Rc::clone(block);
        let spliced = splice(Rc::new(ours), session, block, || false);
        spawn(spliced).detach();
        Self { fd, caller }
    }

    fn heard(&self) -> usize {
        let mut heard = BytesMut::new();
        self.caller.recv(&mut heard, 64 * 1024).unwrap();
        assert!(heard.iter().all(|byte| *byte == b'd'));
        heard.len()
    }
}

fn answer(index: usize) -> Vec<u8> {
    vec![b'd'; if index < GRANTED { 10_000 } else { 300 }]
}

/// Runs one turn in which every frontend and the link have something to read. Returns the link's descriptor, the
/// frontends, the events that the agent received, and the sessions.
async fn one_turn(link: &mut Link) -> (RawFd, Vec<Frontend>, Vec<Event>, Vec<SessionId>) {
    let (sessions, ids): (Vec<_>, Vec<_>) = link.open_to_targets(SESSIONS).into_iter().unzip();
    let (ours, theirs) = streams();
    let fd = ours.as_fd().as_raw_fd();
    serve(&link.relay, ours);
    let block = Rc::default();
    let frontends: Vec<_> = sessions
        .into_iter()
        .map(|session| Frontend::serve(session, &block))
        .collect();
    link.agent
        .handle_timeout(link.now() + Duration::from_secs(15))
        .unwrap();
    for (index, id) in ids.iter().enumerate() {
        let answer = answer(index).into();
        link.agent.send(*id, answer, false).unwrap();
    }
    let frames = link.agent_says();
    // All tasks wait; bytes written now are there at their next poll.
    turn().await;
    witness::watch();
    assert_eq!(theirs.send(&frames).unwrap(), frames.len());
    for frontend in &frontends {
        assert_eq!(frontend.caller.send(REQUEST).unwrap(), REQUEST.len());
    }
    let (mut events, mut requests) = (Vec::new(), 0);
    while requests < SESSIONS {
        theirs.readable().await;
        let mut heard = BytesMut::new();
        theirs.recv(&mut heard, READ_BYTES_MAX).unwrap();
        for event in link.agent_hears(heard.freeze()) {
            requests += usize::from(matches!(event, Event::Data { .. }));
            events.push(event);
        }
    }
    (fd, frontends, events, ids)
}

#[test]
fn one_turn_of_many_sessions_is_one_send_of_what_lies_where_it_was_read() {
    on_each_driver(async || {
        let mut link = Link::established();
        let (fd, frontends, events, ids) = one_turn(&mut link).await;
        let writes = witness::writes_of(fd);
        let [(offered, taken)] = &writes[..] else {
            let sends: Vec<_> = writes.iter().map(|(it, taken)| (it.len(), taken)).collect();
            panic!("pieces and bytes of each send: {sends:?}");
        };
        assert_eq!(*taken, offered.iter().map(|it| it.len()).sum::<usize>());
        for frontend in &frontends {
            let reads = witness::reads_of(frontend.fd);
            assert_eq!(reads.iter().map(|it| it.len()).sum::<usize>(), 700);
            assert!(
                reads.iter().all(|it| offered.contains(it)),
                "payload was sent from a copy"
            );
        }
        // The same send carried the answer to the agent's ping, and credit.
        assert!(events.iter().any(|it| matches!(it, Event::Pong { .. })));
        for id in &ids[..GRANTED] {
            let capacity = link.agent.send_capacity(*id);
            assert!(capacity > 10_000, "send credit {capacity} after a grant");
        }
    });
}

#[test]
fn one_read_of_a_link_feeds_many_sessions_from_its_own_memory() {
    on_each_driver(async || {
        let mut link = Link::established();
        let (fd, frontends, ..) = one_turn(&mut link).await;
        let reads = witness::reads_of(fd);
        let [read] = &reads[..] else {
            panic!("{} reads of the link, not one", reads.len());
        };
        for (index, frontend) in frontends.iter().enumerate() {
            assert_eq!(frontend.heard(), answer(index).len());
            let writes = witness::writes_of(frontend.fd);
            let offered: Vec<Place> = writes.into_iter().flat_map(|(places, _)| places).collect();
            assert!(
                offered.iter().all(|it| read.holds(*it)),
                "payload was sent from a copy"
            );
        }
    });
}
