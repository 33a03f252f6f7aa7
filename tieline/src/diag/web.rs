//! Reads the relay's time from an HTTP answer.

use std::path::Path;
use std::time::UNIX_EPOCH;

use http::Uri;
use http::header::DATE;
use tieline_agent::Proxies;

use crate::outbound::tunnels::RelayHttp;

/// Path at which a relay reports that it is alive.
const HEALTH: &str = "/health";

/// The `Date`, in seconds since 1970, of an answer from the first of `urls`; `None` without a `Date`. The certificates
/// in `ca` are trusted besides the system's. The connection goes through `proxies`.
pub(super) async fn date_of(urls: &[String], ca: Option<&Path>, proxies: &Proxies) -> Option<u64> {
    let url: Uri = urls.first()?.parse().ok()?;
    let origin = format!("{}://{}", url.scheme_str()?, url.authority()?);
    let relay = RelayHttp::at_own_url(&origin, ca, proxies).ok()?;
    let (head, _) = relay.get(HEALTH, false).await.ok()?;
    let date = httpdate::parse_http_date(head.headers.get(DATE)?.to_str().ok()?).ok()?;
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
        let ca = Some(Path::new("/unused/ca.pem"));
        let date = date_of(&[server(dated).await], ca, &Proxies::Never).await;
        assert_eq!(date, Some(1_800_000_000));
        let none = server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(date_of(&[none], None, &Proxies::Never).await, None);
        for wrong in ["", "ftp://relay/x", "http://127.0.0.1:1/x", "no url"] {
            let date = date_of(&[wrong.to_owned()], None, &Proxies::Never).await;
            assert_eq!(date, None, "{wrong}");
        }
    }
}
