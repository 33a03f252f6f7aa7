//! Configuration files and command lines of the known peers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::socket::Certificate;

/// Most connections of one scenario over a known peer: HAProxy refuses to start if its limit needs more
/// than 20,000 descriptors.
pub(crate) const CONNECTIONS_MAX: usize = 9_000;

/// Number of connections that each peer is configured for.
const CONNECTIONS: usize = CONNECTIONS_MAX + 100;

/// Pipes for splice; by default HAProxy requests so many that they exceed 20,000 descriptors.
const PIPES: usize = 256;

/// Strips the path of the working directory from text for a report, because reports are published.
pub(super) fn seen_from_here(text: &str) -> String {
    std::env::current_dir().map_or_else(
        |_| text.to_owned(),
        |here| text.replace(&format!("{}/", here.display()), ""),
    )
}

/// One hop of nginx or HAProxy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hop {
    pub(super) listen: SocketAddr,
    pub(super) to: SocketAddr,
    /// Whether accepted connections begin with TLS.
    pub(super) ends_tls: bool,
    /// Whether dialed connections begin with TLS.
    pub(super) begins_tls: bool,
}

/// Files for rathole's TLS.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// Certificate and key of the server, with the password `bench`.
    pub(super) pkcs12: PathBuf,
    /// Certificate that the client trusts.
    pub(super) trusted: PathBuf,
}

/// nginx as a TCP hop. A single process, so that the measured process is the one that does the work.
pub(super) fn nginx_configuration(
    module: Option<&Path>,
    hop: &Hop,
    certificate: Option<&Certificate>,
) -> String {
    let Hop { listen, to, .. } = hop;
    let (ssl, ends) = match certificate.filter(|_| hop.ends_tls) {
        Some(Certificate { cert, key, .. }) => (
            " ssl",
            format!(
                "    ssl_certificate {};\n    ssl_certificate_key {};\n    ssl_protocols TLSv1.2 TLSv1.3;\n",
                cert.display(),
                key.display()
            ),
        ),
        None => ("", String::new()),
    };
    let begins = if hop.begins_tls {
        "    proxy_ssl on;\n    proxy_ssl_protocols TLSv1.3;\n"
    } else {
        ""
    };
    let module = module.map_or_else(String::new, |path| {
        format!("load_module {};\n", path.display())
    });
    format!(
        "{module}daemon off;\nmaster_process off;\npid nginx-{port}.pid;\n\
         error_log stderr warn;\nevents {{ worker_connections {events}; }}\n\
         stream {{\n  server {{\n    listen {listen}{ssl} backlog=4096;\n{ends}{begins}    proxy_pass {to};\n    \
         tcp_nodelay on;\n    proxy_half_close on;\n  }}\n}}\n",
        port = listen.port(),
        events = 2 * CONNECTIONS,
    )
}

/// nginx as a reverse proxy with kept connections to clients and to the upstream. All other settings are
/// nginx defaults, except timeouts and limits that would close a connection during the load, and the
/// folders for temporary files, which are placed in `folder`.
///
/// With `websockets`, nginx passes requests to upgrade on to the upstream.
pub(super) fn proxy_configuration(
    listen: SocketAddr,
    to: SocketAddr,
    folder: &Path,
    websockets: bool,
) -> String {
    let port = listen.port();
    let connection = if websockets {
        "\"upgrade\";\n      proxy_set_header Upgrade $http_upgrade"
    } else {
        "\"\""
    };
    let files: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| {
            let folder = folder.display();
            format!("  {kind}_temp_path {folder}/nginx-{port}-{kind};\n")
        })
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid nginx-{port}.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections {events}; }}\nhttp {{\n{files}  access_log off;\n  \
         keepalive_requests 1000000000;\n  keepalive_timeout 1h;\n  \
         upstream chain {{\n    server {to};\n    keepalive {CONNECTIONS};\n    \
         keepalive_requests 1000000000;\n    keepalive_timeout 1h;\n  }}\n  \
         server {{\n    listen {listen} backlog=4096;\n    location / {{\n      \
         proxy_pass http://chain;\n      proxy_http_version 1.1;\n      \
         proxy_set_header Connection {connection};\n      proxy_read_timeout 1h;\n    }}\n  }}\n}}\n",
        events = 2 * CONNECTIONS,
    )
}

/// HAProxy as a TCP hop. Where it ends TLS, it dials when the first byte has come, as the relay does: a handshake
/// alone costs no second connection.
pub(super) fn haproxy_configuration(hop: &Hop, certificate: Option<&Certificate>) -> String {
    let Hop { listen, to, .. } = hop;
    let (ssl, rules) = match certificate.filter(|_| hop.ends_tls) {
        Some(Certificate { both, .. }) => (
            format!(" ssl crt {}", both.display()),
            "  tcp-request inspect-delay 5s\n  tcp-request content accept if { req.len gt 0 }\n  \
             tcp-request content reject\n",
        ),
        None => (String::new(), ""),
    };
    let begins = if hop.begins_tls {
        " ssl verify none"
    } else {
        ""
    };
    format!(
        "global\n  maxconn {CONNECTIONS}\n  maxpipes {PIPES}\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
         timeout client 1h\n  timeout server 1h\n  option splice-request\n  \
         option splice-response\nlisten hop\n  bind {listen} backlog 4096{ssl}\n{rules}  \
         server next {to}{begins}\n"
    )
}

pub(super) fn rathole_configurations(
    control: SocketAddr,
    public: SocketAddr,
    target: SocketAddr,
    identity: Option<&Identity>,
) -> (String, String) {
    let token = "default_token = \"bench\"\n";
    let (near_tls, far_tls) = identity.map_or_else(Default::default, |identity| {
        let (pkcs12, trusted) = (identity.pkcs12.display(), identity.trusted.display());
        (
            format!(
                "[server.transport]\ntype = \"tls\"\n[server.transport.tls]\n\
                 pkcs12 = \"{pkcs12}\"\npkcs12_password = \"bench\"\n"
            ),
            format!(
                "[client.transport]\ntype = \"tls\"\n[client.transport.tls]\n\
                 trusted_root = \"{trusted}\"\nhostname = \"localhost\"\n"
            ),
        )
    });
    (
        format!(
            "[server]\nbind_addr = \"{control}\"\n{token}{near_tls}[server.services.bench]\n\
             bind_addr = \"{public}\"\n"
        ),
        format!(
            "[client]\nremote_addr = \"{control}\"\n{token}{far_tls}[client.services.bench]\n\
             local_addr = \"{target}\"\n"
        ),
    )
}

/// Arguments of wstunnel's client and server; the client checks no certificate by default.
pub(super) fn wstunnel_arguments(
    control: SocketAddr,
    public: SocketAddr,
    target: SocketAddr,
    certificate: &Certificate,
) -> (Vec<String>, Vec<String>) {
    let Certificate { cert, key, .. } = certificate;
    let words = |words: [String; 4]| words.to_vec();
    (
        words([
            "client".to_owned(),
            "-L".to_owned(),
            format!("tcp://{public}:{target}"),
            format!("wss://{control}"),
        ]),
        words([
            "server".to_owned(),
            format!("--tls-certificate={}", cert.display()),
            format!("--tls-private-key={}", key.display()),
            format!("wss://{control}"),
        ]),
    )
}

pub(super) fn bore_arguments(port: u16, target: SocketAddr) -> (Vec<String>, Vec<String>) {
    let words = |text: String| text.split(' ').map(str::to_owned).collect();
    (
        words("server --bind-addr 127.0.0.1".to_owned()),
        words(format!(
            "local {} --local-host {} --to 127.0.0.1 --port {port}",
            target.port(),
            target.ip()
        )),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Hop {
        let (listen, to) = addresses();
        Hop {
            listen,
            to,
            ends_tls: false,
            begins_tls: false,
        }
    }

    fn addresses() -> (SocketAddr, SocketAddr) {
        (
            "127.0.0.1:1001".parse().unwrap(),
            "127.0.0.1:1002".parse().unwrap(),
        )
    }

    #[test]
    fn a_report_does_not_tell_where_the_working_folder_lies() {
        let module = std::env::current_dir().unwrap().join("target/module.so");
        let told = seen_from_here(&nginx_configuration(Some(&module), &plain(), None));
        assert!(told.starts_with("load_module target/module.so;"), "{told}");
    }

    #[test]
    fn configurations_name_both_ends() {
        let (listen, to) = addresses();
        for text in [
            nginx_configuration(None, &plain(), None),
            haproxy_configuration(&plain(), None),
            proxy_configuration(listen, to, Path::new("/run"), false),
        ] {
            assert!(text.contains("127.0.0.1:1001") && text.contains("127.0.0.1:1002"));
        }
        let (server, client) = rathole_configurations(listen, to, listen, None);
        assert!(server.contains("1001") && server.contains("1002"));
        assert_eq!(client.matches("1001").count(), 2);
    }

    #[test]
    fn a_hop_has_tls_on_the_side_that_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let certificate = Certificate::make(folder.path()).unwrap();
        let texts = |ends_tls, begins_tls| {
            let hop = Hop {
                ends_tls,
                begins_tls,
                ..plain()
            };
            let nginx = nginx_configuration(None, &hop, Some(&certificate));
            let haproxy = haproxy_configuration(&hop, Some(&certificate));
            [
                nginx.contains("1001 ssl backlog"),
                nginx.contains("proxy_ssl on;"),
                haproxy.contains(" ssl crt "),
                haproxy.contains(" ssl verify none"),
            ]
        };
        assert_eq!(texts(false, false), [false; 4]);
        assert_eq!(texts(true, false), [true, false, true, false]);
        assert_eq!(texts(false, true), [false, true, false, true]);
    }
}
