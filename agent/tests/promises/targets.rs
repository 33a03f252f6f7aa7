//! Targets that run a test's code, and bytes to send to them.

use std::future::Future;

use tokio::net::{TcpListener, TcpStream};

/// Starts a target that runs `serve` for every connection; returns its address.
pub(crate) async fn target<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Starts a target that sends back what it receives; returns its address.
pub(crate) async fn echo() -> String {
    target(|mut stream| async move {
        let (mut reads, mut writes) = stream.split();
        let _ = tokio::io::copy(&mut reads, &mut writes).await;
    })
    .await
}

/// Pseudo-random bytes, so that loss and disorder show.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(len as u64);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}
