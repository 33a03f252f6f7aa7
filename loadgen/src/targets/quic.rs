//! The target over QUIC, on `quinn`: each stream is what a connection is over TCP.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use quinn::{Endpoint, Incoming};

use super::quic_stream::QuicStream;
use super::stream::{Arrival, Streams};
use super::{read_request, request};
use crate::pump::Pump;
use crate::socket::{quic_server_config, server_config};

/// Binds to `address`, with the certificate and the key in these files. Needs tokio's runtime.
pub(super) fn listen(address: SocketAddr, cert: &Path, key: &Path) -> anyhow::Result<Endpoint> {
    let tls = server_config(cert, key)?;
    let config = quic_server_config(&tls)?;
    Endpoint::server(config, address)
        .with_context(|| format!("cannot listen on {address}: is the port already in use?"))
}

/// Serves block requests and echo on each stream of each connection.
pub(super) async fn serve(endpoint: Endpoint, streams: Streams) {
    while let Some(incoming) = endpoint.accept().await {
        drop(tokio::spawn(serve_connection(incoming, streams.clone())));
    }
}

async fn serve_connection(incoming: Incoming, streams: Streams) {
    // A client that breaks off its handshake or ends its connection tells the reason.
    let Ok(connection) = incoming.await else {
        return;
    };
    while let Ok((send, receive)) = connection.accept_bi().await {
        let stream = QuicStream::new(receive, send);
        let streams = streams.clone();
        drop(tokio::spawn(async move {
            if let Err(error) = answer(stream, &streams).await {
                eprintln!("refused a stream: {error:#}");
            }
        }));
    }
}

async fn answer(mut stream: QuicStream, streams: &Streams) -> anyhow::Result<()> {
    let Ok(first) = stream.peek().await else {
        return Ok(());
    };
    if first == request::MARK {
        let request = read_request(&mut stream).await?;
        let arrival = Arrival::Quic(Box::new(stream));
        return streams.hand_over(arrival, request).await;
    }
    let (mut from, mut to) = tokio::io::split(stream);
    let mut pump = Pump::default();
    // A client that disconnects is the normal end of a stream.
    let _ = poll_fn(|cx| pump.poll(cx, &mut from, &mut to)).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::socket::{Certificate, Socket, Wrap};

    #[test]
    fn an_echo_over_quic_returns_every_byte_and_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let certificate = Certificate::make(folder.path()).unwrap();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let (cert, key) = (certificate.cert.clone(), certificate.key.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(async {
                let endpoint = listen("127.0.0.1:0".parse().unwrap(), &cert, &key).unwrap();
                tell.send(endpoint.local_addr().unwrap()).unwrap();
                serve(endpoint, Streams::start().unwrap()).await;
            });
        });
        let wrap = Wrap {
            tls: Some(certificate.client),
            is_websocket: false,
            is_quic: true,
        };
        let address = told.recv().unwrap();
        let mut socket = Socket::open(address, &wrap, "/", Duration::from_secs(20)).unwrap();
        // No byte is the mark of a request.
        let sent: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[1] | 1).collect();
        let (mut heard, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
        for (nth, piece) in (1..).zip(sent.chunks(50_000)) {
            socket.write_all(piece).unwrap();
            while heard.len() < nth * 50_000 {
                let count = socket.read(&mut buffer).unwrap();
                assert!(count > 0);
                heard.extend_from_slice(&buffer[..count]);
            }
        }
        socket.finish().unwrap();
        assert_eq!(socket.read(&mut buffer).unwrap(), 0);
        assert!(heard == sent, "other bytes came back");
    }
}
