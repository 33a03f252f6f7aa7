//! `tieline connect` in this process, on its own thread and runtime.

use std::net::SocketAddr;
use std::path::Path;
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use tieline::connect::{Connect, ConnectError, ConnectEvent};
use tokio::sync::{mpsc, oneshot};

use super::soon;

/// Capacity of the event queue; events that do not fit are dropped.
const EVENTS_MAX: usize = 64;

/// A running caller-side proxy, `tieline connect`. Dropping it stops it at once.
#[derive(Debug)]
pub struct TestProxy {
    url: String,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), ConnectError>>>,
}

impl TestProxy {
    /// Starts a proxy for the relay with this `http://` URL. It adds the token in `token_file` to requests.
    ///
    /// # Errors
    /// The proxy does not start.
    pub async fn start(relay: &str, token_file: &Path) -> Result<Self> {
        let (tell, mut events) = mpsc::channel(EVENTS_MAX);
        let connect = Connect::new(relay)?
            .with_listen("127.0.0.1:0", false)?
            .with_token_file(token_file)
            .with_event_hook(move |event| {
                // A full queue means that no more events are read.
                let _heard = tell.try_send(event.clone());
            });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            runtime.block_on(async move {
                tokio::select! {
                    outcome = connect.run(std::future::pending()) => outcome,
                    _ = stopped => Ok(()),
                }
            })
        };
        let thread = std::thread::Builder::new()
            .name("connect".to_owned())
            .spawn(run)?;
        let mut proxy = Self {
            url: String::new(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            stop: Some(stop),
            thread: Some(thread),
        };
        match soon("the proxy's address", events.recv()).await? {
            Some(ConnectEvent::Listening { url, address, .. }) => {
                (proxy.url, proxy.address) = (url, address);
            }
            Some(event) => bail!("the proxy began with {event:?}"),
            None => {
                proxy.end()?;
                bail!("the proxy did not start");
            }
        }
        Ok(proxy)
    }

    /// Base URL for clients, in front of `/w/<tunnel>/…`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Address that the proxy listens on.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    fn end(&mut self) -> Result<()> {
        drop(self.stop.take());
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        let outcome = thread.join().map_err(|_| anyhow!("the proxy panicked"))?;
        outcome.context("the proxy failed")
    }
}

impl Drop for TestProxy {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}
