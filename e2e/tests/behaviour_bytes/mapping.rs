//! URLs, cookies and header fields with the target's or the relay's own address are mapped, so that they are
//! valid on the other side.

use anyhow::{Context, Result};
use tieline_e2e::behaviour::{Head, Target, TestAgent, TestRelay, soon};
use tieline_e2e::on_each_driver;
use tieline_relay::DriverChoice;

on_each_driver!(
    an_endpoint_leads_back_through_the_tunnel_however_it_is_told,
    what_a_target_builds_from_the_forwarded_host_leads_back,
    a_cookie_of_one_tunnel_is_none_of_anothers,
    a_page_of_the_tunnel_is_told_as_the_targets_own,
    a_target_at_a_path_with_a_slash_is_reached_by_the_url_that_is_told,
);

/// Event streams with the endpoint `/messages?s=1`; `HOST` stands for the target's forwarded host.
const STREAMS: [&str; 7] = [
    "event: endpoint\ndata: /messages?s=1\n\n",
    "id: 7\nevent: endpoint\ndata: /messages?s=1\n\n",
    "data: /messages?s=1\nevent: endpoint\n\n",
    "event: ping\ndata: 1\n\nevent: endpoint\ndata: /messages?s=1\n\n",
    "\u{FEFF}event: endpoint\r\ndata:/messages?s=1\r\n\r\n",
    "event: endpoint\rdata: /messages\rdata: ?s=1\r\r",
    "event: endpoint\ndata: http://HOST/messages?s=1\n\n",
];

async fn an_endpoint_leads_back_through_the_tunnel_however_it_is_told(
    driver: DriverChoice,
) -> Result<()> {
    let target = Target::http_requests(|mut http, head| async move {
        let (method, path) = head.request();
        let Some(number) = path.strip_prefix("/sse/") else {
            let body = format!("{method} {path}");
            http.respond("200 OK", "", body.as_bytes()).await?;
            return Ok(http);
        };
        anyhow::ensure!(head.header("accept-encoding") == Some("identity"));
        let host = head.header("x-forwarded-host").context("no host")?;
        let stream = match number {
            "query" => "event: endpoint\ndata: ?s=1\n\n",
            number => STREAMS[number.parse::<usize>()?],
        };
        let stream = stream.replace("HOST", host);
        http.write(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
             Transfer-Encoding: chunked\r\n\r\n",
        )
        .await?;
        for byte in stream.as_bytes() {
            http.write_chunk(&[*byte]).await?;
        }
        http.write("0\r\n\r\n").await?;
        Ok(http)
    })
    .await?;
    let relay = TestRelay::with().driver(driver).shards(2).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let mut caller = relay.http().await?;
    let numbers = (0..STREAMS.len()).map(|number| (number.to_string(), "/messages?s=1"));
    for (stream, leads_to) in numbers.chain([("query".to_owned(), "/sse/query?s=1")]) {
        let path = agent.path(&format!("/sse/{stream}"));
        let host = relay.http_address();
        caller
            .write(format!(
                "GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\
                 Accept-Encoding: gzip\r\n\r\n"
            ))
            .await?;
        let (_, body) = soon("the stream", caller.answer()).await??;
        let text = String::from_utf8(body.bytes)?;
        let lines = text.split(['\r', '\n']);
        let mut data = lines.filter_map(|line| line.strip_prefix("data: /"));
        let endpoint = format!("/{}", data.next().context(text.clone())?);
        assert_eq!(endpoint, agent.path(leads_to), "{stream} {text:?}");
    }
    let path = agent.path("/messages?s=1");
    let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    caller.write(request).await?;
    let (_, body) = soon("the answer", caller.answer()).await??;
    assert_eq!(body.bytes, b"POST /messages?s=1");
    Ok(())
}

/// Head of the answer to a GET of `path` with the extra header lines `fields`.
async fn asked(relay: &TestRelay, path: &str, fields: &str) -> Result<Head> {
    let mut caller = relay.http().await?;
    let host = relay.http_address();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
    caller.write(request).await?;
    let (head, _) = soon("the answer", caller.answer()).await??;
    Ok(head)
}

async fn what_a_target_builds_from_the_forwarded_host_leads_back(
    driver: DriverChoice,
) -> Result<()> {
    let target = Target::http_requests(|mut http, head| async move {
        let host = head.header("x-forwarded-host").context("no host")?;
        let prefix = head.header("x-forwarded-prefix").context("no prefix")?;
        let (status, fields) = match head.request().1 {
            "/mcp" => (
                "307 Temporary Redirect",
                format!("Location: http://{host}/mcp/\r\n"),
            ),
            "/knows" => (
                "307 Temporary Redirect",
                format!("Location: http://{host}{prefix}/mcp/\r\n"),
            ),
            "/half" => (
                "307 Temporary Redirect",
                format!("Location: {prefix}/mcp/\r\n"),
            ),
            "/other" => (
                "307 Temporary Redirect",
                format!("Location: http://{host}/w/another/mcp/\r\n"),
            ),
            _ => (
                "401 Unauthorized",
                format!(
                    "WWW-Authenticate: Bearer resource_metadata=\
                     \"http://{host}/.well-known/oauth-protected-resource/mcp\"\r\n"
                ),
            ),
        };
        http.respond(status, &fields, b"").await?;
        Ok(http)
    })
    .await?;
    let relay = TestRelay::with().driver(driver).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let public = format!("http://{}", relay.http_address());
    let mcp = agent.path("/mcp/");
    for (path, location) in [
        ("/mcp", format!("{public}{mcp}")),
        ("/knows", format!("{public}{mcp}")),
        ("/half", mcp.clone()),
        ("/other", format!("{public}/w/another/mcp/")),
    ] {
        let head = asked(&relay, &agent.path(path), "").await?;
        assert_eq!(head.header("location"), Some(location.as_str()), "{path}");
    }
    let head = asked(&relay, &agent.path("/login"), "").await?;
    let metadata = agent.path("/mcp");
    let expected = format!(
        "Bearer resource_metadata=\"{public}/.well-known/oauth-protected-resource{metadata}\""
    );
    assert_eq!(head.header("www-authenticate"), Some(expected.as_str()));
    Ok(())
}

async fn a_cookie_of_one_tunnel_is_none_of_anothers(driver: DriverChoice) -> Result<()> {
    let target = Target::http_requests(|mut http, head| async move {
        let cookies = head.header("cookie").unwrap_or_default().to_owned();
        let fields = match head.request().1 {
            "/plain" => "Set-Cookie: session=1\r\n",
            "/domain" => "Set-Cookie: session=1; Domain=127.0.0.1; path=\"/\"\r\n",
            _ => "Set-Cookie: __Host-session=1; Secure; Path=/\r\n",
        };
        let fields = format!("{fields}X-Cookies: {cookies}\r\n");
        http.respond("200 OK", &fields, b"").await?;
        Ok(http)
    })
    .await?;
    let relay = TestRelay::with().driver(driver).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let prefix = agent.path("");
    let set = async |path: &str| {
        let head = asked(&relay, &agent.path(path), "").await?;
        Ok::<_, anyhow::Error>(head.header("set-cookie").context("no cookie")?.to_owned())
    };
    assert_eq!(set("/plain").await?, format!("session=1; Path={prefix}"));
    assert_eq!(set("/domain").await?, format!("session=1; Path={prefix}"));
    let named = set("/named").await?;
    assert_eq!(
        named,
        format!("__Secure-__Host-session=1; Secure; Path={prefix}")
    );
    let pair = named.split(';').next().context("no pair")?;
    let fields = format!("Cookie: a=2; {pair}\r\n");
    let head = asked(&relay, &agent.path("/named"), &fields).await?;
    assert_eq!(head.header("x-cookies"), Some("a=2; __Host-session=1"));
    Ok(())
}

async fn a_page_of_the_tunnel_is_told_as_the_targets_own(driver: DriverChoice) -> Result<()> {
    let target = Target::http_requests(|mut http, head| async move {
        let field = |name| head.header(name).unwrap_or("none").to_owned();
        let fields = format!(
            "X-Host: {}\r\nX-Origin: {}\r\nX-Referer: {}\r\n",
            field("host"),
            field("origin"),
            field("referer")
        );
        http.respond("200 OK", &fields, b"").await?;
        Ok(http)
    })
    .await?;
    let relay = TestRelay::with().driver(driver).start()?;
    let agent = TestAgent::of(&target).start(&relay).await?;
    let public = format!("http://{}", relay.http_address());
    let tree = agent.path("/tree?x=1");
    let fields = format!("Origin: {public}\r\nReferer: {public}{tree}\r\n");
    let head = asked(&relay, &agent.path("/x"), &fields).await?;
    let origin = head.header("x-origin").context("no origin")?.to_owned();
    assert_eq!(
        format!("http://{}", head.header("x-host").context("no host")?),
        origin
    );
    let referer = format!("{origin}/tree?x=1");
    assert_eq!(head.header("x-referer"), Some(referer.as_str()));
    for (page, told) in [
        (format!("{public}/w/another/tree"), "none"),
        ("https://app.example/x".to_owned(), "https://app.example/x"),
    ] {
        let head = asked(&relay, &agent.path("/x"), &format!("Referer: {page}\r\n")).await?;
        assert_eq!(head.header("x-referer"), Some(told));
    }
    Ok(())
}

async fn a_target_at_a_path_with_a_slash_is_reached_by_the_url_that_is_told(
    driver: DriverChoice,
) -> Result<()> {
    let target = Target::http_requests(|mut http, head| async move {
        let (status, path) = match head.request().1 {
            path @ "/mcp" => ("404 Not Found", path),
            path => ("200 OK", path),
        };
        http.respond(status, &format!("X-Path: {path}\r\n"), b"")
            .await?;
        Ok(http)
    })
    .await?;
    let relay = TestRelay::with().driver(driver).start()?;
    let to = format!("http://{}/mcp/", target.address());
    let agent = TestAgent::to(&to).named("slo").start(&relay).await?;
    let told = format!("http://{}/w/slo/mcp/", relay.http_address());
    assert_eq!(agent.url(), told);
    let mut caller = relay.http().await?;
    caller.get("/tunnels").await?;
    let (_, body) = soon("the list", caller.answer()).await??;
    let listed: serde_json::Value = serde_json::from_slice(&body.bytes)?;
    assert_eq!(listed["tunnels"][0]["path"], "/w/slo/mcp/", "{listed}");
    // Both `/mcp/` and `/mcp` reach the target, and so does every path below.
    for (path, status, seen) in [
        ("/w/slo/mcp/", 200, Some("/mcp/")),
        ("/w/slo/mcp/a", 200, Some("/mcp/a")),
        ("/w/slo/mcp", 404, Some("/mcp")),
        ("/w/slo/mcpx", 404, None),
        ("/w/slo/admin", 404, None),
    ] {
        let head = asked(&relay, path, "").await?;
        assert_eq!(head.status(), status, "{path}");
        assert_eq!(head.header("x-path"), seen, "{path}");
    }
    Ok(())
}
