use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use rustls::client::Resumption;
use rustls::server::Acceptor;

use super::*;

/// Relays of all kinds, and clients that trust them.
struct Ends {
    /// By whether agents need a certificate, then by whether the relay orders its own.
    relays: [[Arc<ServerConfigs>; 2]; 2],
    /// By whether they have TLS 1.2 alone.
    clients: [ClientConfig; 2],
    /// Certificate of an agent.
    own: Arc<SingleCertAndKey>,
}

static ENDS: LazyLock<Ends> = LazyLock::new(|| {
    let files = Files::new();
    let (ca, own) = agents(&files, "ours.pem");
    let certificate = files.lasting("relay", &["relay.example"]);
    let relays = [None, Some(ca)].map(|agent_ca| {
        let config = TlsConfig {
            certificates: vec![certificate.clone()],
            agent_ca,
            ..TlsConfig::default()
        };
        let acme = AcmeConfig::new(vec!["relay.example".to_owned()], files.path(""));
        [None, Some(&acme)].map(|acme| {
            let certificates = Certificates::read(&config, acme).unwrap().unwrap();
            certificates.configs()
        })
    });
    let clients = [&TLS13, &TLS12].map(|version| {
        let mut client = client(&certificate.cert, version, &[]);
        client.resumption = Resumption::disabled();
        client
    });
    Ends {
        relays,
        clients,
        own,
    }
});

/// Protocols that a client offers; none of them are no extension at all.
fn offers() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let known = select(vec![HTTP2, HTTP1, HTTP10, AGENT, RAW, ACME_TLS]);
    let near = select(vec![
        &b"h2c"[..],
        b"H2",
        b"tieline-agent",
        b"tieline-agent/2",
        b"\0",
    ]);
    let noise = vec(any::<u8>(), 1..20);
    let protocol = prop_oneof![
        4 => known.prop_map(<[u8]>::to_vec),
        1 => near.prop_map(<[u8]>::to_vec),
        1 => noise,
    ];
    vec(protocol, 0..5)
}

/// The configuration that a relay chooses by the first hello of `client`.
fn chosen(
    client: &Arc<ClientConfig>,
    configs: &ServerConfigs,
    listener: ListenKind,
) -> Arc<ServerConfig> {
    let name = ServerName::try_from("relay.example").unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut hello = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut hello).unwrap();
    }
    let mut acceptor = Acceptor::default();
    let mut rest = hello.as_slice();
    while !rest.is_empty() {
        acceptor.read_tls(&mut rest).unwrap();
    }
    let accepted = acceptor.accept().ok().flatten().unwrap();
    configs.choose(&accepted.client_hello(), listener)
}

/// What a client is served, as the table in OPERATIONS.md says; `None` if its handshake fails.
fn documented(offered: &[Vec<u8>], listener: ListenKind, has_acme: bool) -> Option<Served> {
    let has = |protocol: &[u8]| offered.iter().any(|it| it == protocol);
    if offered.is_empty() {
        Some(Served::As(listener))
    } else if has(HTTP2) || has(HTTP1) || has(HTTP10) {
        Some(Served::As(ListenKind::Http))
    } else if has(AGENT) {
        Some(Served::As(ListenKind::Agent))
    } else if has(RAW) {
        Some(Served::As(ListenKind::Tcp))
    } else {
        // Alone it asks for the answer to a challenge, of which none is open.
        let is_agreed = has_acme && has(ACME_TLS) && offered.len() > 1;
        is_agreed.then_some(Served::Check)
    }
}

proptest! {
    /// Where `second` is there, it stands for a second hello, which decides about the protocol.
    #[test]
    fn any_client_is_served_by_what_it_offers_and_an_agent_with_its_certificate_alone(
        (needs_certificate, has_acme) in any::<(bool, bool)>(),
        listener in select(vec![ListenKind::Agent, ListenKind::Tcp, ListenKind::Http]),
        first in offers(),
        second in proptest::option::of(offers()),
        (is_old, shows_certificate) in any::<(bool, bool)>(),
    ) {
        let configs = &ENDS.relays[usize::from(needs_certificate)][usize::from(has_acme)];
        let client = |offered: &[Vec<u8>]| {
            let mut client = ENDS.clients[usize::from(is_old)].clone();
            client.alpn_protocols = offered.to_vec();
            if shows_certificate {
                let own: Arc<SingleCertAndKey> = Arc::clone(&ENDS.own);
                client.client_auth_cert_resolver = own;
            }
            Arc::new(client)
        };
        let config = chosen(&client(&first), configs, listener);
        let last = second.as_ref().unwrap_or(&first);
        let server = shaken(&client(last), &config).ok().map(|(_, server)| server);
        let agreed = server.as_ref().and_then(|it| it.alpn_protocol());
        let has_certificate = server.as_ref().is_some_and(|it| it.peer_certificates().is_some());
        let served = server.as_ref().and_then(|_| configs.served(agreed, listener, has_certificate));
        let is_agent = served == Some(Served::As(ListenKind::Agent));
        prop_assert!(has_certificate || !(is_agent && needs_certificate));
        prop_assert!(agreed.is_none_or(|agreed| last.iter().any(|it| it == agreed)));
        prop_assert_eq!(served == Some(Served::Check), agreed == Some(ACME_TLS));
        prop_assert!(has_acme || agreed != Some(ACME_TLS));
        if *last == first {
            let expected = documented(&first, listener, has_acme).filter(|it| {
                shows_certificate || !needs_certificate || *it != Served::As(ListenKind::Agent)
            });
            prop_assert_eq!(served, expected);
            // Callers are asked for none.
            prop_assert_eq!(has_certificate, is_agent && needs_certificate);
        }
    }
}
