//! Configuration files and command lines of the known peers.

use std::net::SocketAddr;
use std::path::Path;

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

/// nginx as a TCP hop. A single process, so that the measured process is the one that does the work.
pub(super) fn nginx_configuration(
    module: Option<&Path>,
    listen: SocketAddr,
    to: SocketAddr,
) -> String {
    let module = module.map_or_else(String::new, |path| {
        format!("load_module {};\n", path.display())
    });
    format!(
        "{module}daemon off;\nmaster_process off;\npid nginx-{port}.pid;\n\
         error_log stderr warn;\nevents {{ worker_connections {events}; }}\n\
         stream {{\n  server {{\n    listen {listen} backlog=4096;\n    proxy_pass {to};\n    \
         tcp_nodelay on;\n    proxy_half_close on;\n  }}\n}}\n",
        port = listen.port(),
        events = 2 * CONNECTIONS,
    )
}

/// nginx as a reverse proxy with kept connections to clients and to the upstream. All other settings are
/// nginx defaults, except timeouts and limits that would close a connection during the load, and the
/// folders for temporary files, which are placed in `folder`.
pub(super) fn proxy_configuration(listen: SocketAddr, to: SocketAddr, folder: &Path) -> String {
    let port = listen.port();
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
         proxy_set_header Connection \"\";\n      proxy_read_timeout 1h;\n    }}\n  }}\n}}\n",
        events = 2 * CONNECTIONS,
    )
}

pub(super) fn haproxy_configuration(listen: SocketAddr, to: SocketAddr) -> String {
    format!(
        "global\n  maxconn {CONNECTIONS}\n  maxpipes {PIPES}\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
         timeout client 1h\n  timeout server 1h\n  option splice-request\n  \
         option splice-response\nlisten hop\n  bind {listen} backlog 4096\n  \
         server next {to}\n"
    )
}

pub(super) fn rathole_configurations(
    control: SocketAddr,
    public: SocketAddr,
    target: SocketAddr,
) -> (String, String) {
    let token = "default_token = \"bench\"\n";
    (
        format!(
            "[server]\nbind_addr = \"{control}\"\n{token}[server.services.bench]\n\
             bind_addr = \"{public}\"\n"
        ),
        format!(
            "[client]\nremote_addr = \"{control}\"\n{token}[client.services.bench]\n\
             local_addr = \"{target}\"\n"
        ),
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

    fn addresses() -> (SocketAddr, SocketAddr) {
        (
            "127.0.0.1:1001".parse().unwrap(),
            "127.0.0.1:1002".parse().unwrap(),
        )
    }

    #[test]
    fn a_report_does_not_tell_where_the_working_folder_lies() {
        let (listen, to) = addresses();
        let module = std::env::current_dir().unwrap().join("target/module.so");
        let told = seen_from_here(&nginx_configuration(Some(&module), listen, to));
        assert!(told.starts_with("load_module target/module.so;"), "{told}");
    }

    #[test]
    fn configurations_name_both_ends() {
        let (listen, to) = addresses();
        for text in [
            nginx_configuration(None, listen, to),
            haproxy_configuration(listen, to),
            proxy_configuration(listen, to, Path::new("/run")),
        ] {
            assert!(text.contains("127.0.0.1:1001") && text.contains("127.0.0.1:1002"));
        }
        let (server, client) = rathole_configurations(listen, to, listen);
        assert!(server.contains("1001") && server.contains("1002"));
        assert_eq!(client.matches("1001").count(), 2);
    }
}
