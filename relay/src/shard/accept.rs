//! Accepting of connections. A connection for which too few descriptors are left is refused at once and counted.

use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tieline_hop::{REQUEST_START_BYTES_MAX, answer_to, is_head};
use tieline_wire::{CallerRefusal, LinkRefusal};
use tracing::error;

use super::Shard;
use super::doors::OpenListener;
use crate::certificates::HTTP2;
use crate::error::ListenKind;
use crate::io::{Listener, Received, Stream, timeout};
use crate::listen::proxied::Source;
use crate::listen::{self, Arrival};
use crate::metrics::FrontendKind;

/// Answer to an HTTP/1.1 caller that is refused for lack of descriptors; a HEAD request gets its head alone.
const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Content-Type: application/json\r\n\
    Content-Length: 93\r\n\
    Retry-After: 1\r\n\
    Cache-Control: no-store\r\n\
    Connection: close\r\n\
    \r\n\
    {\"error\":\"overload\",\"message\":\"the relay's connection limit is reached\",\
    \"request\":\"not_sent\"}";

/// Callers that one shard sends [`ANSWER`] at a time; further ones are reset. Each holds one of the reserved
/// descriptors, of which [`listen::Room::for_refusals`] leaves all shards together as many, or fewer under a low limit.
const OVERLOAD_ANSWERS_MAX: usize = 64;

/// Time for a refused caller to send its request and to close.
const TOLD_TIMEOUT: Duration = Duration::from_millis(500);

/// Part of [`TOLD_TIMEOUT`] for the method of the request; without one the answer is that to GET.
const METHOD_TIMEOUT: Duration = Duration::from_millis(250);

impl Shard {
    /// Accepts connections on `socket`, one of `sockets` listening sockets of its address; with `is_tls` they begin with
    /// TLS.
    pub(super) fn listen(
        self: &Rc<Self>,
        kind: ListenKind,
        is_tls: bool,
        socket: TcpListener,
        sockets: usize,
    ) {
        let listener = match Listener::new(socket) {
            Ok(listener) => Rc::new(listener),
            Err(error) => return error!(%error, "a listening socket is unusable"),
        };
        let shard = Rc::clone(self);
        self.doors.listeners.borrow_mut().push(OpenListener {
            kind,
            is_tls,
            listener: Rc::clone(&listener),
            sockets,
        });
        let limit = self.kit.peers.open_files_max;
        listener.keep_reserve_from(listen::Room::beyond_agents(limit));
        let room = match kind {
            // Whether an agent comes is known after the handshake.
            _ if is_tls => listen::Room::for_agents(limit),
            ListenKind::Agent => listen::Room::for_agents(limit),
            _ => listen::Room::for_callers(limit),
        };
        self.doors.tasks.spawn(listen::accept(
            listener,
            room,
            move |stream, peer, arrival| match (stream, arrival) {
                (Some(stream), Arrival::Taken) => {
                    shard.connected(kind, is_tls, stream, Source::Peer(peer));
                }
                (stream, _) if is_tls => shard.no_handshake(stream),
                (stream, _) => shard.no_room(kind, stream, peer),
            },
        ));
    }

    /// Dispatches a connection by its listener.
    pub(super) fn connected(
        self: &Rc<Self>,
        kind: ListenKind,
        is_tls: bool,
        stream: Stream,
        source: Source,
    ) {
        match kind {
            _ if is_tls => self.tls_arrived(kind, stream, source),
            ListenKind::Agent => self.agent_arrived(stream, source),
            ListenKind::Tcp => self.raw_arrived(stream, source),
            ListenKind::Http => self.http_arrived(stream, source),
            // Neither comes to a shard as a stream.
            ListenKind::Quic | ListenKind::Admin => {}
        }
    }

    /// Refuses a connection for lack of descriptors; `None` as its stream means that it was reset already.
    pub(super) fn no_room(&self, kind: ListenKind, stream: Option<Stream>, peer: SocketAddr) {
        match kind {
            ListenKind::Agent => {
                self.kit.metrics.link_refused(LinkRefusal::Overload);
                if let Some(stream) = stream {
                    stream.abort();
                }
            }
            ListenKind::Tcp => {
                self.kit.metrics.frontend_accepted(FrontendKind::Tcp);
                self.callers
                    .raw_refused(peer, None, None, CallerRefusal::Overload);
            }
            ListenKind::Http => {
                self.kit.metrics.frontend_accepted(FrontendKind::Http);
                self.kit.metrics.frontend_refused(CallerRefusal::Overload);
                let answers = Rc::strong_count(&self.doors.overload_answers) - 1;
                let room = listen::Room::for_refusals(self.kit.peers.open_files_max);
                let may_be_answered = |stream: &Stream| {
                    answers < OVERLOAD_ANSWERS_MAX && room.takes(stream) && !is_http2(stream)
                };
                if let Some(stream) = stream.filter(may_be_answered) {
                    let is_told = Rc::clone(&self.doors.overload_answers);
                    self.kit.tasks.spawn(async move {
                        let _ = timeout(TOLD_TIMEOUT, tell(stream)).await;
                        drop(is_told);
                    });
                }
            }
            ListenKind::Quic | ListenKind::Admin => {}
        }
    }
}

/// Whether the caller asked for HTTP/2 in the handshake of TLS, and so could not read [`ANSWER`].
fn is_http2(stream: &Stream) -> bool {
    let application = stream.agreed().and_then(|it| it.application);
    application.as_deref() == Some(HTTP2)
}

async fn tell(stream: Stream) {
    let is_head = timeout(METHOD_TIMEOUT, is_head_request(&stream)).await;
    let answer = answer_to(is_head.unwrap_or(false), ANSWER);
    // The send buffer of a new connection has room for the whole answer.
    if stream.send(answer).is_ok_and(|taken| taken == answer.len()) {
        stream.finish().await;
    }
    stream.read_out().await;
}

/// Reads the first bytes of a request and tells whether it is HEAD; false if they do not tell.
async fn is_head_request(stream: &Stream) -> bool {
    let mut start = BytesMut::new();
    while start.len() < REQUEST_START_BYTES_MAX {
        stream.readable().await;
        let room = REQUEST_START_BYTES_MAX - start.len();
        match stream.recv(&mut start, room) {
            Ok(Received::Bytes(_) | Received::Nothing) => {}
            Ok(Received::End) | Err(_) => return false,
        }
        if let Some(is_head) = is_head(&start) {
            return is_head;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Chosen, pair, run};

    /// Bytes that a refused caller gets which sends these `pieces` and ends.
    async fn told(pieces: &[&str]) -> Vec<u8> {
        let (ours, theirs) = pair().unwrap();
        let (ours, theirs) = (Stream::new(ours), Stream::new(theirs));
        for piece in pieces {
            assert_eq!(theirs.send(piece.as_bytes()).unwrap(), piece.len());
        }
        theirs.finish().await;
        tell(ours).await;
        let mut all = BytesMut::new();
        loop {
            theirs.readable().await;
            if theirs.recv(&mut all, 1024).unwrap() == Received::End {
                return all.to_vec();
            }
        }
    }

    #[test]
    fn a_head_request_gets_the_head_of_the_answer_to_others() {
        run(Chosen::Epoll, async {
            let end = ANSWER.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
            let head = &ANSWER[..end];
            assert_eq!(told(&["HEAD / HTTP/1.1\r\n\r\n"]).await, head);
            assert_eq!(told(&["H", "EAD", " "]).await, head);
            assert_eq!(told(&["\r\nHEAD / HTTP/1.1\r\n\r\n"]).await, head);
            assert_eq!(told(&["\r", "\n\r\nHE", "AD / "]).await, head);
            let empty_lines = "\r\n".repeat(REQUEST_START_BYTES_MAX);
            for other in [
                &["GET / HTTP/1.1\r\n\r\n"][..],
                &["\r\nGET / HTTP/1.1\r\n\r\n"],
                &["HEAD"],
                &[],
                &[empty_lines.as_str(), "HEAD / HTTP/1.1\r\n\r\n"],
            ] {
                assert_eq!(told(other).await, ANSWER, "{other:?}");
            }
        })
        .unwrap();
    }

    #[test]
    fn the_answer_is_as_long_as_it_says_and_the_target_had_no_request() {
        let text = str::from_utf8(ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["request"], "not_sent");
    }
}
