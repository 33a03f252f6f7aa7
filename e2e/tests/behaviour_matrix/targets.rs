//! Targets that do what each session asks for.

use anyhow::{Result, bail};
use tieline_e2e::behaviour::{
    Digest, Head, HttpStream, LONG_BYTES, Target, abort, is_reset, noise, read_to_close,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Bytes that a target sends before it resets: few enough for a socket buffer.
pub(crate) const BEFORE_BYTES: usize = 16 * 1024;

/// Seed of what a target sends before it resets.
pub(crate) const BEFORE: u64 = 4;

/// Seed of an answer of [`LONG_BYTES`].
pub(crate) const ANSWER: u64 = 3;

/// How a caller's direction ended at a raw target.
pub(crate) struct Ended {
    pub(crate) heard: Digest,
    pub(crate) was_reset: bool,
}

/// A raw target and an HTTP target.
pub(crate) struct Targets {
    pub(crate) raw: Target,
    pub(crate) web: Target,
    /// Ends of callers' directions at the raw target.
    pub(crate) ended: mpsc::Receiver<Ended>,
    /// Connections of requests for `/cancel` that have ended.
    pub(crate) gone: mpsc::Receiver<()>,
}

impl Targets {
    pub(crate) async fn start() -> Result<Self> {
        let (tell_ended, ended) = mpsc::channel(1);
        let (tell_gone, gone) = mpsc::channel(1);
        let raw = Target::tcp(move |stream| serve(stream, tell_ended.clone())).await?;
        let web = Target::http_requests(move |http, head| {
            let tell = tell_gone.clone();
            async move { answer(http, &head, tell).await }
        });
        Ok(Self {
            raw,
            web: web.await?,
            ended,
            gone,
        })
    }
}

/// Serves a raw session, whose first byte says how: `e` echoes, `l` sends a long answer, `h` sends it after the caller's
/// end, `r` sends a few bytes and resets at the caller's next byte, `c` echoes a byte and tells how the caller ended.
async fn serve(mut stream: TcpStream, tell: mpsc::Sender<Ended>) -> Result<()> {
    match stream.read_u8().await? {
        b'e' => {
            let (mut reads, mut writes) = stream.split();
            tokio::io::copy(&mut reads, &mut writes).await?;
        }
        b'l' => stream.write_all(&noise(ANSWER, LONG_BYTES)).await?,
        b'h' => {
            tell.send(end(&mut stream).await).await?;
            stream.write_all(&noise(ANSWER, LONG_BYTES)).await?;
        }
        b'r' => {
            stream.write_all(&noise(BEFORE, BEFORE_BYTES)).await?;
            stream.read_u8().await?;
            abort(stream)?;
        }
        b'c' => {
            let byte = stream.read_u8().await?;
            stream.write_u8(byte).await?;
            tell.send(end(&mut stream).await).await?;
        }
        other => bail!("nothing begins with {other}"),
    }
    Ok(())
}

async fn end(stream: &mut TcpStream) -> Ended {
    let (heard, end) = read_to_close(stream).await;
    Ended {
        heard,
        was_reset: is_reset(&end),
    }
}

/// Answers a request as the last part of its path says.
async fn answer(mut http: HttpStream, head: &Head, tell: mpsc::Sender<()>) -> Result<HttpStream> {
    let path = head.request().1;
    match path.rsplit('/').next().unwrap_or_default() {
        "echo" => {
            let body = http.body(head).await?;
            http.respond("200 OK", "", &body.bytes).await?;
        }
        "long" => {
            let answer = noise(ANSWER, LONG_BYTES);
            http.respond("200 OK", "", &answer).await?;
        }
        "reset" => {
            begin(&mut http, BEFORE_BYTES + 1).await?;
            http.write(noise(BEFORE, BEFORE_BYTES)).await?;
            abort(http.into_stream())?;
            bail!("reset");
        }
        "cancel" => {
            begin(&mut http, LONG_BYTES).await?;
            http.write(b"some").await?;
            // In order or not: HTTP has no word for either.
            let _ = http.closed().await;
            tell.send(()).await?;
            bail!("cancelled");
        }
        _ => http.respond("404 Not Found", "", b"").await?,
    }
    Ok(http)
}

/// Sends the head of an answer whose body has `len` bytes.
async fn begin(http: &mut HttpStream, len: usize) -> Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n");
    http.write(head).await
}
