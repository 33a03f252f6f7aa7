//! Fields of an answer that would affect all tunnels under the relay's own host name, and browser requests
//! that could do so.

use super::*;

const ACTING: &str = "Clear-Site-Data: \"*\"\r\nStrict-Transport-Security: max-age=9; includeSubDomains\r\n\
                      Alt-Svc: h2=\":1\"\r\nNEL: {}\r\nReport-To: {}\r\nReporting-Endpoints: a=\"/r\"\r\n\
                      Public-Key-Pins: x\r\nExpect-CT: x\r\nOrigin-Agent-Cluster: ?1\r\nAccept-CH: x\r\n\
                      Service-Worker-Allowed: /\r\nRefresh: 1; url=/next\r\n";

/// The fields that a caller of `host` receives of an answer with `ACTING`, without
/// `Content-Length` and `Vary`.
async fn fields(path: &str, host: &str) -> Vec<String> {
    let mut relay = Relay::new();
    relay.settings().domain = Some("relay.example".to_owned());
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let answer = format!("HTTP/1.1 200 OK\r\n{ACTING}Content-Length: 0\r\n\r\n");
    let head = relay.answer_to(&request, &answer, "\r\n\r\n").await;
    let fields = head.lines().skip(1).filter(|line| !line.is_empty());
    let mut fields: Vec<_> = fields
        .filter(|it| !it.starts_with("content-length") && !it.starts_with("vary"))
        .map(str::to_owned)
        .collect();
    fields.sort_unstable();
    fields
}

#[test]
fn what_acts_on_the_whole_origin_comes_from_no_tunnel_behind_a_path() {
    run(async {
        assert_eq!(
            fields("/w/maya/app/", "relay.example").await,
            [
                "refresh: 1; url=/w/maya/next",
                "service-worker-allowed: /w/maya/"
            ]
        );
        // Several targets share the paths below a kind.
        let of_kind = fields("/dcc/maya/app/", "relay.example").await;
        assert_eq!(of_kind, ["refresh: 1; url=/dcc/maya/next"]);
    });
}

#[test]
fn a_tunnel_with_a_name_of_its_own_speaks_for_that_origin_and_not_for_its_host() {
    run(async {
        let kept = fields("/app/", "maya.relay.example").await;
        assert_eq!(
            kept,
            [
                "accept-ch: x",
                "clear-site-data: \"cache\", \"storage\", \"executionContexts\"",
                "origin-agent-cluster: ?1",
                "refresh: 1; url=/next",
                "report-to: {}",
                "reporting-endpoints: a=\"/r\"",
                "service-worker-allowed: /",
            ]
        );
    });
}

#[test]
fn metadata_says_nothing_of_the_origin_either() {
    run(async {
        let mut relay = Relay::new();
        let path = "/.well-known/oauth-authorization-server/w/maya";
        let request = format!("GET {path} HTTP/1.1\r\nHost: r\r\n\r\n");
        let answer = format!(
            "HTTP/1.1 200 OK\r\n{ACTING}Access-Control-Allow-Origin: *\r\n\
             X-Accel-Redirect: /x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        let head = relay.answer_to(&request, &answer, "{}").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        for name in ["clear-site", "strict", "access-control-allow", "x-accel"] {
            assert!(!head.contains(name), "{head}");
        }
    });
}

#[test]
fn a_service_worker_answers_for_its_own_tunnel_only() {
    run(async {
        let mut relay = Relay::new();
        relay.settings().domain = Some("relay.example".to_owned());
        let script = |path: &str, host: &str| {
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nService-Worker: script\r\n\r\n")
        };
        let metadata = "/.well-known/openid-configuration";
        for path in [
            "/w/maya",
            "/w/maya?x",
            "/tunnel/maya",
            "/dcc/maya/sw.js",
            "/dcc/maya/maya",
            &format!("{metadata}/w/maya"),
            &format!("/w/maya{metadata}"),
        ] {
            let mut caller = relay.caller();
            caller.send(script(path, "relay.example")).await;
            let head = caller.head().await;
            assert!(head.starts_with("HTTP/1.1 403 "), "{path} {head}");
            let body = caller.until("}").await;
            assert!(body.contains("service_worker_refused"), "{body}");
        }
        assert!(!relay.has_opened());
        for (path, host) in [
            ("/w/maya/sw.js", "relay.example"),
            ("/w/maya/", "relay.example"),
            ("/dcc/maya/maya/sw.js", "relay.example"),
            ("/", "maya.relay.example"),
        ] {
            let mut caller = relay.caller();
            caller.send(script(path, host)).await;
            relay.target().await.head().await;
        }
    });
}

#[test]
fn metadata_at_the_relays_root_is_only_read() {
    run(async {
        let mut relay = Relay::new();
        let known = "/.well-known/oauth-protected-resource";
        let ask = |method: &str, path: &str| {
            format!("{method} {path} HTTP/1.1\r\nHost: r\r\nContent-Length: 0\r\n\r\n")
        };
        for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "X"] {
            for path in ["/w/maya/mcp", "/w/absent", "/dcc/maya/mcp"] {
                let mut caller = relay.caller();
                caller.send(ask(method, &format!("{known}{path}"))).await;
                let head = caller.head().await;
                assert!(head.starts_with("HTTP/1.1 405 "), "{method} {path} {head}");
                assert!(head.contains("\r\nallow: GET, HEAD, OPTIONS\r\n"), "{head}");
                let body = caller.until("}").await;
                assert!(body.contains("method_not_allowed"), "{body}");
            }
        }
        assert!(!relay.has_opened());
        for (method, path) in [
            ("GET", format!("{known}/w/maya/mcp")),
            ("HEAD", format!("{known}/w/maya/mcp")),
            ("OPTIONS", format!("{known}/w/maya/mcp")),
            // After the prefix, this is a path of the target like any other.
            ("POST", format!("/w/maya{known}")),
        ] {
            let mut caller = relay.caller();
            caller.send(ask(method, &path)).await;
            relay.target().await.head().await;
        }
    });
}
