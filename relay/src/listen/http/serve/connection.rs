//! Drives a frontend connection through hyper's server: one request at a time over HTTP/1.1, several
//! over HTTP/2.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::{Executor, Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use tieline_hop::CallerState;

use super::Front;
use super::pass::AnswerBody;
use crate::audit::Call;
use crate::io::Liveness;
use crate::listen::http::frontend::caller::CallerIo;
use crate::listen::http::frontend::deadline::{Look, Watchdog};
use crate::listen::http::frontend::state::FrontendState;
use crate::listen::http::gateway::Gateway;
use crate::listen::http::gateway::ended::Ended;
use crate::listen::http::gateway::settings::HTTP_BUFFER_BYTES_MAX;

/// Concurrent streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;

/// HTTP/2 receive windows of one stream, and of a whole connection.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Bytes of one stream's answer that h2 buffers for the caller.
const SEND_BUFFER_BYTES: usize = 16 * 1024;

/// Checks for stalled streams per stall timeout.
const LOOKS: u32 = 3;

/// HTTP/2 header list limit: bytes of all names and values, plus 32 per field (RFC 9113, section 6.5.2).
const HEAD_BYTES_MAX: u32 = 64 * 1024;

impl<G: Gateway> Front<G> {
    /// Serves an HTTP/1.1 connection, one request at a time, until it ends or leaves HTTP.
    pub(super) async fn serve_http1<IO: Read + Write + Liveness + Unpin + 'static>(
        self: Rc<Self>,
        caller: &CallerIo<IO>,
        state: &Rc<FrontendState>,
    ) -> Ended {
        state.begin_http1(&self.pool.held);
        let service = service_fn(|request| answered(Rc::clone(&self), request, Rc::clone(state)));
        let connection = http1::Builder::new()
            .auto_date_header(false)
            .header_read_timeout(None)
            .max_header_size(HTTP_BUFFER_BYTES_MAX)
            .max_buf_size(HTTP_BUFFER_BYTES_MAX)
            .serve_connection(caller.clone(), service);
        let shut = http1::Connection::graceful_shutdown;
        let mut look = Look::default();
        let is_gone = |cx: &mut Context<'_>| {
            // hyper's next write returns the same failure.
            let _ = caller.io().poll_release(cx);
            let is_broken = || caller.io().is_broken();
            caller.poll_gone(cx) || look.poll(cx, state, &self.gateway, is_broken)
        };
        self.drive(state, connection, shut, is_gone).await
    }

    /// Serves an HTTP/2 connection, several requests at a time.
    pub(super) async fn serve_http2<IO: Read + Write + Unpin + 'static>(
        self: Rc<Self>,
        caller: &CallerIo<IO>,
        state: &Rc<FrontendState>,
    ) -> Ended {
        let service = service_fn(|request| {
            let state = Rc::new(FrontendState::of_stream(state));
            answered(Rc::clone(&self), request, state)
        });
        let connection = http2::Builder::new(Tasks(self.gateway.clone()))
            .auto_date_header(false)
            .max_concurrent_streams(STREAMS_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .max_header_list_size(HEAD_BYTES_MAX)
            .serve_connection(caller.clone(), service);
        let (gateway, held) = (&self.gateway, &self.pool.held);
        state.begin_http2(held);
        // Stalled streams end one by one; the watchdog ends a connection that takes no byte at all.
        let look_pause = self.settings.stall_timeout / LOOKS;
        let mut looking = Box::pin(gateway.sleep(look_pause));
        let is_gone = |cx: &mut Context<'_>| {
            while looking.as_mut().poll(cx).is_ready() {
                held.end_stalled();
                looking.set(gateway.sleep(look_pause));
            }
            false
        };
        let shut = http2::Connection::graceful_shutdown;
        self.drive(state, connection, shut, is_gone).await
    }

    /// Drives a connection to its end. An idle connection past its deadline is shut down in order: over
    /// HTTP/2 the caller gets a GOAWAY. `shut` starts a graceful shutdown of the connection; `is_gone`
    /// detects a disconnected caller while hyper does not read.
    async fn drive<C>(
        &self,
        state: &FrontendState,
        connection: C,
        shut: impl Fn(Pin<&mut C>),
        mut is_gone: impl FnMut(&mut Context<'_>) -> bool,
    ) -> Ended
    where
        C: Future<Output = Result<(), hyper::Error>>,
    {
        let (gateway, callers) = (&self.gateway, &self.callers);
        let ended = {
            let mut connection = pin!(connection);
            let mut watchdog = Watchdog::default();
            let mut is_ending = false;
            poll_fn(|cx| {
                state.driven_by(cx.waker());
                state.begin_turn();
                let mut overdue = None;
                loop {
                    let mut ends = overdue == Some(Ended::IdleTimeout);
                    if gateway.is_draining() {
                        state.begin_drain();
                        // Over HTTP/1.1, `Connection: close` in the answer does this.
                        ends |= state.is_http2.get();
                    }
                    if ends && !is_ending {
                        is_ending = true;
                        shut(connection.as_mut());
                    } else if let Some(ended) = overdue {
                        return Poll::Ready(ended);
                    }
                    // Checked before hyper's turn, so that no buffered bytes go out to a revoked caller.
                    if callers.poll_revoked(gateway, cx).is_ready() {
                        return Poll::Ready(Ended::Revoked);
                    }
                    let polled = connection.as_mut().poll(cx);
                    self.note_refused(state);
                    if let Poll::Ready(result) = polled {
                        return Poll::Ready(overdue.unwrap_or_else(|| state.ended(result)));
                    }
                    if is_gone(cx) {
                        return Poll::Ready(Ended::CallerGone);
                    }
                    if callers.poll_revoked(gateway, cx).is_ready() {
                        return Poll::Ready(Ended::Revoked);
                    }
                    overdue = Some(ready!(watchdog.poll(cx, state, &self.settings, gateway)));
                    state.extend();
                }
            })
            .await
        };
        // hyper has dropped the rest of an answer by now.
        match state.is_cut_hidden(ended) {
            true => Ended::Truncated,
            false => ended,
        }
    }

    /// Writes to the audit log each stream that h2 refused by itself.
    fn note_refused(&self, state: &FrontendState) {
        for _ in 0..state.refused.take() {
            if self.gateway.is_audited() {
                let call = Call::with_refused_head(self.peer.source.address().ip());
                self.gateway.note(call, None, None, Some("bad_request"));
            }
        }
    }
}

/// Future of one answer. Boxed, because hyper keeps the future's memory until the answer's body ends:
/// an open event stream would cost 4 KiB more.
fn answered<G: Gateway>(
    front: Rc<Front<G>>,
    request: Request<Incoming>,
    state: Rc<FrontendState>,
) -> Pin<Box<impl Future<Output = Result<Response<AnswerBody<G>>, Infallible>>>> {
    Box::pin(async move { Ok(front.answer(request, state).await) })
}

/// Spawns a connection's HTTP/2 streams as tasks of the shard; each ends with its connection.
#[derive(Clone)]
struct Tasks<G>(G);

impl<G: Gateway, F: Future<Output = ()> + 'static> Executor<F> for Tasks<G> {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}
