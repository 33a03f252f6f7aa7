//! Admin connections: accepts them, bounds their time, and checks the host name that they use.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinSet, yield_now};
use tokio::time;
use tracing::{debug, warn};

use super::Phase;
use super::acme::Acme;
use super::admin::{Admin, refuse};
use super::auth::SnapshotUpdater;
use super::certificates::CertificateUpdater;
use super::connections::{ConnectionState, Connections};
use super::reserve::GuardedListener;
use super::routes;
use crate::listen::http::is_ours_anywhere;

/// Time for a request's head to arrive, including idle time between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest life of a connection, so that a stalled reader gives its place back.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);

/// Pause after a failed accept if no connection can be closed to make room.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Tasks that keep what the shards use up to date.
pub(super) struct Updaters {
    pub(super) admission: SnapshotUpdater,
    pub(super) certificates: Option<CertificateUpdater>,
    pub(super) acme: Option<Acme>,
}

/// Serves all listeners from [`Phase::Serves`] to [`Phase::Drains`], and their connections until
/// [`Phase::Stops`]; requests in progress are cut off then. Until then admission and certificates are kept up to date.
pub(super) async fn run(
    listeners: Vec<((SocketAddr, TcpListener), Arc<()>)>,
    admin: &Arc<Admin>,
    updaters: Updaters,
    mut phase: watch::Receiver<Phase>,
) {
    let mut tasks = JoinSet::new();
    tasks.spawn(updaters.admission.run());
    if let Some(certificates) = updaters.certificates {
        tasks.spawn(certificates.run());
    }
    if let Some(acme) = updaters.acme {
        tasks.spawn(acme.run(phase.clone()));
    }
    for ((address, listener), accepting) in listeners {
        let accepts = accept(address, listener, Arc::clone(admin), phase.clone());
        tasks.spawn(async move {
            let mut connections = accepts.await;
            drop(accepting);
            while connections.join_next().await.is_some() {}
        });
    }
    // An error means that the sender was dropped, which counts as a stop, too.
    let _ = phase.wait_for(|phase| *phase == Phase::Stops).await;
    // Dropping the set aborts its tasks, and each accept task aborts its connections.
}

/// Accepts connections until the relay drains; returns those still open.
async fn accept(
    address: SocketAddr,
    listener: TcpListener,
    admin: Arc<Admin>,
    mut phase: watch::Receiver<Phase>,
) -> JoinSet<()> {
    // The socket may not listen before. An error means a stop, which ends this task, too.
    let _ = phase.wait_for(|phase| *phase >= Phase::Serves).await;
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            warn!(%address, %error, "admin listener lost");
            return JoinSet::new();
        }
    };
    let is_local = address.ip().to_canonical().is_loopback();
    let mut router = routes::router(admin, is_local);
    if is_local {
        router = router.layer(middleware::from_fn(refuse_foreign_names));
    }
    let mut connections = JoinSet::new();
    let mut places = Connections::default();
    let mut door = GuardedListener::new(listener);
    loop {
        let is_spent = door.is_spent();
        let accepted = tokio::select! {
            // First branch: connections made before the drain are answered.
            biased;
            accepted = door.accept() => accepted,
            // The descriptor of a closed connection may become the reserve again.
            Some(_) = connections.join_next(), if is_spent => continue,
            _ = phase.wait_for(|phase| *phase >= Phase::Drains) => break,
        };
        match accepted {
            Ok(stream) => {
                let (standing, router) = (Arc::default(), router.clone());
                if places.make_room() {
                    let serving = serve(stream, router, Arc::clone(&standing));
                    places.take(standing, connections.spawn(serving));
                }
            }
            Err(error) => {
                warn!(%address, %error, "cannot accept an admin connection");
                // A silent connection may hold the descriptor that is missing.
                if !places.drop_one() {
                    time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        while connections.try_join_next().is_some() {}
        // Lets each connection run once before the next one can push it out.
        yield_now().await;
    }
    connections
}

async fn serve(stream: TcpStream, router: Router, standing: Arc<ConnectionState>) {
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let asking = standing.ask();
        request.extensions_mut().insert(Arc::clone(&standing));
        let answer = TowerToHyperService::new(router.clone()).call(request);
        async move {
            let _asking = asking;
            answer.await
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    match time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "admin connection failed"),
        Err(_) => debug!("admin connection ended by its deadline"),
    }
}

/// Refuses requests whose host is a name that merely resolves to this address.
///
/// A web page can make its own host name resolve to 127.0.0.1 and then read what a listener on
/// loopback answers (DNS rebinding); an address or `localhost` cannot be made to do so.
async fn refuse_foreign_names(request: Request, next: Next) -> Response {
    let mut in_headers = request.headers().get_all(header::HOST).iter();
    let headers_fit = in_headers.all(|value| {
        let authority = Authority::try_from(value.as_bytes());
        authority.is_ok_and(|it| is_ours_anywhere(it.host()))
    });
    let uri_fits = request.uri().host().is_none_or(is_ours_anywhere);
    if headers_fit && uri_fits {
        return next.run(request).await;
    }
    refuse(
        StatusCode::MISDIRECTED_REQUEST,
        "misdirected",
        "on loopback this listener answers to localhost and addresses only",
    )
}
