//! A TCP forwarder between agents and relay whose connections can be cut individually.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// Forwards connections to a relay.
pub(super) struct Proxy {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
    _listening: JoinSet<()>,
}

impl Proxy {
    pub(super) async fn to(relay: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let connections = Arc::<Mutex<Vec<AbortHandle>>>::default();
        let (mut listening, known) = (JoinSet::new(), Arc::clone(&connections));
        listening.spawn(async move {
            let mut passing = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let pass = passing.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(relay).await {
                        let _ended = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
                known.lock().expect("never poisoned").push(pass);
            }
        });
        Ok(Self {
            address,
            connections,
            _listening: listening,
        })
    }

    /// URL that agents dial.
    pub(super) fn url(&self) -> String {
        format!("tcp://{}", self.address)
    }

    /// Closes connection number `index`, counted from 0.
    pub(super) fn cut(&self, index: usize) -> Result<()> {
        let connections = self.connections.lock().expect("never poisoned");
        connections
            .get(index)
            .context("no such connection")?
            .abort();
        Ok(())
    }
}
