//! Sends a request until one connection brings an answer: over a kept connection first, then over new ones.

use std::future::Future;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;

use crate::body::{Progress, RequestBody};
use crate::failure::{Delivery, Failure};

/// A hop's choices for one request: which connections it goes over, and when it may be sent again.
pub trait Tries {
    /// Record of the request's body.
    type Progress: Progress;
    /// A connection to the next hop.
    type Connection;
    /// What the caller is told without an answer.
    type Problem;
    /// What is kept of a request to send it again.
    type Copy;

    /// Takes a kept connection that is usable for the request.
    fn take(&mut self, is_repeatable: bool) -> Option<Self::Connection>;

    /// Opens a connection for `request`, which it may change for another place.
    fn open(
        &mut self,
        request: &mut Request<RequestBody<Self::Progress>>,
    ) -> impl Future<Output = Result<Self::Connection, Self::Problem>>;

    /// Keeps what is needed to send `request` again.
    fn copy(
        &self,
        request: &mut Request<RequestBody<Self::Progress>>,
        is_repeatable: bool,
    ) -> Self::Copy;

    /// Sends the request and waits for the answer's head.
    fn send(
        &self,
        connection: &mut Self::Connection,
        request: Request<RequestBody<Self::Progress>>,
    ) -> impl Future<Output = Result<Response<Incoming>, FailureOf<Self>>>;

    /// The failed request for another try, or what the caller is told if there is none.
    fn again(
        &mut self,
        failure: FailureOf<Self>,
        sent: Sent<Self::Connection, Self::Copy>,
    ) -> impl Future<Output = Result<Unanswered<Self::Progress>, Self::Problem>>;

    /// Adds to a problem that the next hop may have received the request in an earlier try.
    fn perhaps_sent(problem: Self::Problem) -> Self::Problem;
}

/// Why one try of `T` got no answer.
pub type FailureOf<T> = Failure<RequestBody<<T as Tries>::Progress>, <T as Tries>::Problem>;

/// A connection with its answer.
pub type Answered<T> = (<T as Tries>::Connection, Response<Incoming>);

/// A request that was sent, and got no answer.
pub struct Sent<C, K> {
    /// The connection that it was sent on.
    pub connection: C,
    /// What was kept of it.
    pub copy: K,
    /// Whether it may be sent twice: its method is idempotent, and it has no body.
    pub is_repeatable: bool,
    /// Whether the connection had been kept: the next hop may have closed it after a pause, which is normal.
    pub was_kept: bool,
}

/// A request without an answer that may be sent once more.
pub struct Unanswered<P: Progress> {
    /// The request.
    pub request: Request<RequestBody<P>>,
    /// Whether the next hop may have received it already.
    pub delivery: Delivery,
}

/// Sends `request` and waits for the answer's head.
///
/// # Errors
/// There is no answer that can be passed on.
pub async fn exchange<T: Tries>(
    tries: &mut T,
    request: Request<RequestBody<T::Progress>>,
) -> Result<Answered<T>, T::Problem> {
    let is_repeatable = request.method().is_idempotent() && request.body().is_end_stream();
    let mut unanswered = Unanswered {
        request,
        delivery: Delivery::NotSent,
    };
    if let Some(connection) = tries.take(is_repeatable) {
        let once = (is_repeatable, true);
        match attempt(tries, connection, unanswered.request, once).await? {
            Ok(answered) => return Ok(answered),
            Err(failed) => unanswered = *failed,
        }
    }
    // Boxed, so that the future of a request over a kept connection stays small.
    let anew = exchange_anew(
        tries,
        &mut unanswered.delivery,
        unanswered.request,
        is_repeatable,
    );
    let outcome = Box::pin(anew).await;
    // If an earlier try may have reached the next hop, the answer must say so.
    outcome.map_err(|problem| match unanswered.delivery {
        Delivery::Sent => T::perhaps_sent(problem),
        Delivery::NotSent => problem,
    })
}

/// Sends the request over new connections, while it may be sent once more. `delivery` becomes [`Delivery::Sent`] once
/// the next hop may have received the request.
async fn exchange_anew<T: Tries>(
    tries: &mut T,
    delivery: &mut Delivery,
    mut request: Request<RequestBody<T::Progress>>,
    is_repeatable: bool,
) -> Result<Answered<T>, T::Problem> {
    loop {
        let connection = tries.open(&mut request).await?;
        match attempt(tries, connection, request, (is_repeatable, false)).await? {
            Ok(answered) => return Ok(answered),
            Err(failed) => {
                if failed.delivery == Delivery::Sent {
                    *delivery = Delivery::Sent;
                }
                request = failed.request;
            }
        }
    }
}

/// Sends the request over one connection.
async fn attempt<T: Tries>(
    tries: &mut T,
    mut connection: T::Connection,
    mut request: Request<RequestBody<T::Progress>>,
    (is_repeatable, was_kept): (bool, bool),
) -> Result<Result<Answered<T>, Box<Unanswered<T::Progress>>>, T::Problem> {
    let copy = tries.copy(&mut request, is_repeatable);
    match tries.send(&mut connection, request).await {
        Ok(answer) => Ok(Ok((connection, answer))),
        Err(failure) => {
            let sent = Sent {
                connection,
                copy,
                is_repeatable,
                was_kept,
            };
            let again = Box::pin(tries.again(failure, sent)).await;
            again.map(|unanswered| Err(Box::new(unanswered)))
        }
    }
}
