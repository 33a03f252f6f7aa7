//! One request that changes nothing, over a connection of its own.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{DATE, HOST};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::address::{HostPort, deadline_in};
use crate::connect::tls::Tls;

/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The page on which a relay says that it lives.
const HEALTH: &str = "/health";

/// Status and fields of the answer; in words what went wrong.
pub(super) async fn ask(
    method: Method,
    authority: &str,
    path: &str,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<(StatusCode, HeaderMap), String> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, authority)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request).await;
        connection.abort();
        answer.map(|answer| (answer.status(), answer.headers().clone()))
    };
    match timeout(ANSWER_TIMEOUT, exchange).await {
        Ok(answer) => answer.map_err(|error: hyper::Error| error.to_string()),
        Err(_) => Err(format!("no answer in {} s", ANSWER_TIMEOUT.as_secs())),
    }
}

/// The time, in seconds since 1970, that an answer from the first of `urls` tells, if it does.
pub(super) async fn date_of(urls: &[String]) -> Option<u64> {
    let url: Uri = urls.first()?.parse().ok()?;
    let authority = url.authority()?.as_str();
    let is_tls = match url.scheme_str()? {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    let address = HostPort::parse(authority, Some(if is_tls { 443 } else { 80 })).ok()?;
    let stream = address.connect(deadline_in(ANSWER_TIMEOUT)).await.ok()?;
    let (_, fields) = if is_tls {
        let tls = Tls::new(&address, None).ok()?;
        let stream = timeout(ANSWER_TIMEOUT, tls.connect(stream))
            .await
            .ok()?
            .ok()?;
        ask(Method::GET, authority, HEALTH, stream).await.ok()?
    } else {
        ask(Method::GET, authority, HEALTH, stream).await.ok()?
    };
    let date = httpdate::parse_http_date(fields.get(DATE)?.to_str().ok()?).ok()?;
    Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        format!("http://{address}/w/maya/mcp")
    }

    #[tokio::test]
    async fn a_date_is_taken_from_where_the_relay_speaks_http() {
        let dated = "HTTP/1.1 200 OK\r\nDate: Fri, 15 Jan 2027 08:00:00 GMT\r\n\
                     Content-Length: 0\r\n\r\n";
        assert_eq!(date_of(&[server(dated).await]).await, Some(1_800_000_000));
        let none = server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(date_of(&[none]).await, None);
        for wrong in ["", "ftp://relay/x", "http://127.0.0.1:1/x", "no url"] {
            assert_eq!(date_of(&[wrong.to_owned()]).await, None, "{wrong}");
        }
    }
}
